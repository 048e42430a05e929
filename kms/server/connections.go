package server

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// limitedListener bounds the number of connections, and the number of strangers among them:
// peers in their handshake or before their first request. Further peers wait in the kernel's
// queue, where none of our timers run. So in a storm of boots, the requests that began also
// finish.
//
// But anyone can connect and send nothing. So while a newcomer waits, the listener drops the
// stranger that has been quiet too long. If there is none, it drops the caller whose connection
// has been idle too long. Quiet means that the peer sends nothing. A peer whose bytes this
// server has not read yet is not quiet. The bound grows with the slowest guests: on a host that
// starts thousands of VMs, a guest whose slow connection is dropped would only begin again.
type limitedListener struct {
	net.Listener
	most, mostStrangers int
	freed               chan struct{} // of size 1: a connection was closed, or may be dropped
	closed              chan struct{}
	closeOnce           sync.Once

	mu        sync.Mutex // guards the fields below
	open      int
	pace      time.Duration // longest quiet time in the handshakes of the latest callers
	strangers list.List     // of *limitedConn, oldest first
	idle      list.List     // of *limitedConn of callers, longest idle first
}

func limitConnections(l net.Listener, most, mostStrangers int) *limitedListener {
	return &limitedListener{Listener: l, most: most, mostStrangers: mostStrangers, freed: make(chan struct{}, 1), closed: make(chan struct{})}
}

// Accept is called by one goroutine.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c, err := l.place(conn)
		if c != nil || err != nil {
			return c, err
		}
	}
}

// place waits until there is room for conn. It returns nil if the peer has gone meanwhile.
func (l *limitedListener) place(conn net.Conn) (net.Conn, error) {
	for {
		if hungUp(conn) { // the peer stopped waiting: no handshake for it
			conn.Close()
			return nil, nil
		}
		c, drop, wait := l.admit(conn)
		switch {
		case c != nil:
			return c, nil
		case drop != nil:
			drop.Close()
		default:
			quiet := time.NewTimer(wait)
			select {
			case <-l.freed:
				quiet.Stop()
			case <-quiet.C:
			case <-l.closed:
				quiet.Stop()
				conn.Close()
				return nil, net.ErrClosed
			}
		}
	}
}

// How long a peer may be quiet while another peer waits for its place. If twice the pace of
// callers is longer, that counts, but never more than headerTimeout.
const (
	silence = time.Second / 4 // a peer that has sent nothing: a client's first bytes follow the connection at once
	stalled = 2 * time.Second // any other peer
)

// admit takes conn in. Otherwise it returns the connection to drop first, or the time until one
// may have to be dropped.
func (l *limitedListener) admit(conn net.Conn) (admitted, drop *limitedConn, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	full := l.open >= l.most
	if !full && l.strangers.Len() < l.mostStrangers {
		c := &limitedConn{Conn: conn, listener: l, begun: time.Now()}
		c.moveLocked(&l.strangers)
		l.open++
		return c, nil, 0
	}
	drop, wait = l.quietLocked(&l.strangers)
	if drop == nil && full {
		var idle time.Duration
		drop, idle = l.quietLocked(&l.idle)
		wait = min(wait, idle)
	}
	return nil, drop, wait
}

// quietLocked returns the first connection of a list whose peer has been quiet too long.
// Otherwise it returns the time until there may be one.
func (l *limitedListener) quietLocked(conns *list.List) (*limitedConn, time.Duration) {
	floor := min(2*l.pace, headerTimeout)
	wait := silence
	for place := conns.Front(); place != nil; place = place.Next() {
		c := place.Value.(*limitedConn)
		left := c.patience(floor)
		if left <= 0 && !unread(c.Conn) {
			return c, 0
		}
		if left > 0 {
			wait = min(wait, left)
		}
	}
	return nil, wait
}

func (l *limitedListener) Close() error {
	l.closeOnce.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// state is an http.Server's ConnState. A connection becomes active when its first request was
// read, after a handshake that verified the peer's SVID.
func (l *limitedListener) state(conn net.Conn, state http.ConnState) {
	var on *list.List // nil during a request
	switch state {
	case http.StateActive:
	case http.StateIdle:
		on = &l.idle
	default:
		return
	}
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	if c, ok := conn.(*limitedConn); ok {
		l.mu.Lock()
		defer l.mu.Unlock()
		if c.closed {
			return
		}
		if c.on == &l.strangers {
			l.pace = max(min(time.Duration(c.slowest.Load()), headerTimeout), l.pace-l.pace/8)
		}
		c.moveLocked(on)
		l.signal()
	}
}

type limitedConn struct {
	net.Conn
	listener *limitedListener
	begun    time.Time    // when it was admitted
	heard    atomic.Int64 // when the peer last sent bytes, in nanoseconds since 1970; 0: never
	slowest  atomic.Int64 // the peer's longest quiet time, in nanoseconds

	// guarded by listener.mu
	on     *list.List // strangers or idle; nil during a request
	place  *list.Element
	since  time.Time // when on was set
	closed bool
}

// patience is how long the peer may still be quiet. floor is a lower bound for how long it may be
// quiet in all. The caller holds listener.mu.
func (c *limitedConn) patience(floor time.Duration) time.Duration {
	heard := c.heard.Load()
	if heard == 0 {
		return max(silence, floor) - time.Since(c.since)
	}
	return max(stalled, floor) - min(time.Since(c.since), time.Since(time.Unix(0, heard)))
}

// moveLocked moves c to the end of a list, or off all lists.
func (c *limitedConn) moveLocked(to *list.List) {
	if c.on != nil {
		c.on.Remove(c.place)
	}
	if c.on = to; to != nil {
		c.place, c.since = to.PushBack(c), time.Now()
	}
}

func (c *limitedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		now := time.Now().UnixNano()
		before := c.heard.Swap(now)
		if before == 0 {
			before = c.begun.UnixNano()
		}
		c.slowest.Store(max(c.slowest.Load(), now-before))
	}
	return n, err
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if c.closed {
		return err
	}
	c.closed = true
	c.moveLocked(nil)
	c.listener.open--
	c.listener.signal()
	return err
}

// signal wakes a newcomer that waits.
func (l *limitedListener) signal() {
	select {
	case l.freed <- struct{}{}:
	default:
	}
}
