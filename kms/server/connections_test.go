package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/kms/keyapi"
)

// crowd is a limited listener that accepts all the time.
func crowd(t *testing.T, most int) (l *limitedListener, dial func() net.Conn, accepted chan net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = limitConnections(inner, most, most)
	t.Cleanup(func() { l.Close() })
	accepted = make(chan net.Conn, 16)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	return l, func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}, accepted
}

// dropped reports whether the other end closed c.
func dropped(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	timeout, ok := errors.AsType[net.Error](err)
	return err != nil && !(ok && timeout.Timeout())
}

func TestStrangersMakeRoom(t *testing.T) {
	l, dial, accepted := crowd(t, 2)
	first := dial()
	l.state(<-accepted, http.StateActive)
	second := dial()
	<-accepted
	third := dial()
	select {
	case <-accepted:
	case <-time.After(5 * time.Second):
		t.Fatal("a newcomer waits for strangers")
	}
	if dropped(first) || !dropped(second) || dropped(third) {
		t.Errorf("dropped %v, %v, %v, want the oldest stranger alone", dropped(first), dropped(second), dropped(third))
	}
}

// TestHandshakesAreNotThrownAway: a stranger that has sent something keeps its place for a
// while; a newcomer waits, and gets in when it has stalled.
func TestHandshakesAreNotThrownAway(t *testing.T) {
	l, dial, accepted := crowd(t, 2)
	var clients []net.Conn
	for range 2 {
		c := dial()
		clients = append(clients, c)
		served := <-accepted
		if _, err := c.Write([]byte{22}); err != nil {
			t.Fatal(err)
		}
		if _, err := served.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	dial()
	select {
	case <-accepted:
		t.Fatal("a handshake was thrown away for a newcomer")
	case <-time.After(50 * time.Millisecond):
	}
	if dropped(clients[0]) || dropped(clients[1]) {
		t.Error("a handshake was thrown away")
	}
	<-accepted // when one has stalled
	if !dropped(clients[0]) || dropped(clients[1]) {
		t.Errorf("dropped %v, %v, want the one that stalled first", dropped(clients[0]), dropped(clients[1]))
	}
	if l.strangers.Len() != 2 {
		t.Errorf("%d strangers, want 2", l.strangers.Len())
	}
}

// TestSlowGuests: where callers were slow in their handshakes, a stranger that is as slow keeps
// its place; where they are fast again, it does not.
func TestSlowGuests(t *testing.T) {
	l, dial, accepted := crowd(t, 2)
	caller := func(quiet time.Duration) {
		t.Helper()
		dial()
		c := (<-accepted).(*limitedConn)
		c.slowest.Store(int64(quiet))
		l.state(c, http.StateActive)
		c.Close()
	}
	goes := func() bool {
		t.Helper()
		dial()
		c := (<-accepted).(*limitedConn)
		defer c.Close()
		c.since = c.since.Add(-time.Second)
		l.mu.Lock()
		defer l.mu.Unlock()
		drop, _ := l.quietLocked(&l.strangers)
		return drop == c
	}
	if !goes() {
		t.Error("a stranger that is silent for a second keeps its place, and no caller was slow")
	}
	caller(2 * time.Second)
	if goes() {
		t.Error("a stranger loses its place after a second, and callers need two")
	}
	caller(time.Hour)
	if l.mu.Lock(); l.pace != headerTimeout {
		t.Errorf("a caller that was quiet for an hour makes the pace %s, want at most %s", l.pace, headerTimeout)
	}
	l.mu.Unlock()
	for range 60 {
		caller(0)
	}
	if !goes() {
		t.Error("a stranger that is silent for a second keeps its place, and callers are fast again")
	}
}

func TestNewcomersWaitForCallers(t *testing.T) {
	l, dial, accepted := crowd(t, 1)
	dial()
	one := <-accepted
	l.state(one, http.StateActive)
	dial()
	select {
	case <-accepted:
		t.Fatal("accepted a second connection")
	case <-time.After(20 * time.Millisecond):
	}
	one.Close()
	one.Close() // twice makes one place
	two := <-accepted
	l.state(two, http.StateActive)
	dial()
	l.Close()
	if c, ok := <-accepted; ok {
		t.Errorf("accepted a third connection, %v", c.RemoteAddr())
	}
	if l.open != 1 || l.strangers.Len() != 0 {
		t.Errorf("%d connections are open, %d of strangers, want 1 and 0", l.open, l.strangers.Len())
	}
}

// TestIdleCallersMakeRoom: callers that keep connections open and ask nothing on them
// do not keep others out, even if none of them is a stranger.
func TestIdleCallersMakeRoom(t *testing.T) {
	l, dial, accepted := crowd(t, 2)
	var clients, served []net.Conn
	for range 2 {
		clients = append(clients, dial())
		served = append(served, <-accepted)
		l.state(served[len(served)-1], http.StateActive)
	}
	newcomer := dial()
	select {
	case <-accepted:
		t.Fatal("accepted a third connection while two callers ask")
	case <-time.After(20 * time.Millisecond):
	}
	l.state(served[1], http.StateIdle)
	select {
	case <-accepted:
	case <-time.After(5 * time.Second):
		t.Fatal("a newcomer waits for a caller that asks nothing")
	}
	if dropped(clients[0]) || !dropped(clients[1]) || dropped(newcomer) {
		t.Errorf("dropped %v, %v, %v, want the idle one alone", dropped(clients[0]), dropped(clients[1]), dropped(newcomer))
	}
}

// TestSilentPeers fills every place with peers that say nothing, and more: who
// is known keeps its connection, and newcomers are served.
func TestSilentPeers(t *testing.T) {
	r := newRig(t)
	regular, newcomer := r.caller(r.vm()), r.caller(r.vm())
	regular.nonce()
	var silent []net.Conn
	defer func() {
		for _, c := range silent {
			c.Close()
		}
	}()
	for range maxConnections + 100 {
		c, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
	}
	start := time.Now()
	newcomer.nonce()
	if waited := time.Since(start); waited > headerTimeout/4 {
		t.Errorf("a newcomer waited %v", waited)
	}
	reused := false
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused },
	}), http.MethodPost, "https://"+r.address+keyapi.PathNonce, strings.NewReader(`{"version":1}`))
	if err != nil {
		t.Fatal(err)
	}
	response, err := regular.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body)
	if !reused || response.StatusCode != http.StatusOK {
		t.Errorf("a known caller's connection: kept %v, status %d", reused, response.StatusCode)
	}
}

// TestPeersThatWaitForUs: a stranger, and a caller, whose bytes the server has not read yet keep
// their places, however long it takes.
func TestPeersThatWaitForUs(t *testing.T) {
	for name, known := range map[string]bool{"stranger": false, "caller": true} {
		t.Run(name, func(t *testing.T) {
			l, dial, accepted := crowd(t, 1)
			first := dial()
			served := <-accepted
			if known {
				l.state(served, http.StateActive)
				l.state(served, http.StateIdle)
			}
			if _, err := first.Write([]byte{22}); err != nil {
				t.Fatal(err)
			}
			dial()
			select {
			case <-accepted:
				t.Fatal("a peer that waits for the server was dropped")
			case <-time.After(stalled + silence/2):
			}
			if _, err := served.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			<-accepted // when it has been quiet
			if !dropped(first) {
				t.Error("the newcomer has a place, and nobody was dropped")
			}
		})
	}
}

// TestImpatientPeers: a peer that hung up while it waited costs no place.
func TestImpatientPeers(t *testing.T) {
	l, dial, accepted := crowd(t, 1)
	dial()
	one := <-accepted
	l.state(one, http.StateActive)
	for range 3 {
		dial().Close()
	}
	last := dial()
	one.Close()
	if c := <-accepted; c.RemoteAddr().String() != last.LocalAddr().String() {
		t.Errorf("accepted %v, want %v: the others hung up", c.RemoteAddr(), last.LocalAddr())
	}
}

// TestFewStrangers: strangers have few places, and callers have the others.
func TestFewStrangers(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitConnections(inner, 3, 1)
	defer l.Close()
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte{22})
	}
	for range 2 {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, drop, _ := l.admit(c); drop != nil {
			t.Fatal("a stranger was dropped at once")
		}
		if l.strangers.Len() != 1 {
			t.Errorf("%d strangers, want 1", l.strangers.Len())
		}
		l.state(c, http.StateActive)
	}
	if l.open != 2 {
		t.Errorf("%d connections are open, want 2", l.open)
	}
}

// TestQueueIsShort: peers that nobody accepts wait in a short queue, and others have no
// connection that would go stale.
func TestQueueIsShort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := shortenQueue(l, 4); err != nil {
		t.Fatal(err)
	}
	connected := 0
	for range 16 {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 50*time.Millisecond)
		if err != nil {
			break
		}
		defer c.Close()
		connected++
	}
	if connected < 4 || connected == 16 {
		t.Errorf("%d peers are connected, want about 4", connected)
	}
}
