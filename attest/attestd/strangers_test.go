package attestd

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/attest/attestapi"
	"github.com/rootvouch/rootvouch/evidence"
)

// asOwner asks once from an address of its own, and fails if no answer comes soon.
func asOwner(t *testing.T, address string) {
	t.Helper()
	c := clientAt("127.0.0.9")
	c.Timeout = 2 * time.Second // less than any timeout of attestd
	resp, err := c.Post("https://"+address+attestapi.Path, "application/json", bytes.NewReader(attestapi.Request{Version: 1}.Encode()))
	if err != nil {
		t.Errorf("the owner got no answer: %v", err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the owner got status %s, want 200", resp.Status)
	}
}

// TestIdleClients lets one peer take all its places and hold them, with silent
// connections and with connections that had their answer.
func TestIdleClients(t *testing.T) {
	body := attestapi.Request{Version: 1}.Encode()
	request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", attestapi.Path, len(body), body)
	stranger := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.2")}}
	for name, hold := range map[string]func(net.Conn){
		"silent": func(net.Conn) {},
		"kept alive": func(c net.Conn) {
			secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			if _, err := io.WriteString(secure, request); err == nil {
				_, _ = http.ReadResponse(bufio.NewReader(secure), nil) // refused above the share
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			address := start(t, echo)
			for range maxConnections {
				c, err := stranger.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				hold(c)
			}
			asOwner(t, address)
		})
	}
}

// TestNoKeepAlive checks that an answer gives the place back.
func TestNoKeepAlive(t *testing.T) {
	c := clientAt("127.0.0.1")
	c.Transport.(*http.Transport).DisableKeepAlives = false // what the client would like
	resp, err := c.Post("https://"+start(t, echo)+attestapi.Path, "application/json", bytes.NewReader(attestapi.Request{Version: 1}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if !resp.Close {
		t.Error("the connection stays open after an answer")
	}
}

// safeLog is where a test's attestd logs to.
type safeLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *safeLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestStrangersDoNotFillTheLog makes every error that a client can make.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	var out safeLog
	address := startLogging(t, echo, slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	post(t, address, "/v2/attestation", nil)
	post(t, address, attestapi.Path, []byte("{}"))
	post(t, address, attestapi.Path, make([]byte, 1<<20))
	plain, err := net.Dial("tcp", address) // no TLS
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := io.WriteString(plain, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(plain) // until attestd closes it
	if got := out.String(); got != "" {
		t.Errorf("the log has %q, want nothing", got)
	}
}

// TestFailuresAreBounded lets the AMD-SP fail and recover again and again.
func TestFailuresAreBounded(t *testing.T) {
	var out safeLog
	c := failures{log: slog.New(slog.NewTextHandler(&out, nil))}
	long := errors.New("asking: " + strings.Repeat("\x00", 10000))
	for range 3 {
		c.note(long)
	}
	if got := strings.Count(out.String(), "\n"); got != 1 {
		t.Errorf("got %d lines of one failure, want 1", got)
	}
	for range 5 * maxFailures {
		c.note(nil)
		c.note(long)
	}
	if got := strings.Count(out.String(), "\n"); got != maxFailures {
		t.Errorf("got %d lines, want %d", got, maxFailures)
	}
	for line := range strings.Lines(out.String()) {
		if len(line) > 8*maxFailureText { // \x00 is four bytes, quoted
			t.Fatalf("a line has %d bytes", len(line))
		}
	}
}

// TestFailureIsLogged checks that a failure of the AMD-SP is logged in the booted
// system.
func TestFailureIsLogged(t *testing.T) {
	var out safeLog
	fails := func([64]byte) (evidence.Evidence, error) {
		return evidence.Evidence{}, errors.New("asking: throttled")
	}
	post(t, startLogging(t, fails, slog.NewTextHandler(&out, nil)), attestapi.Path, attestapi.Request{Version: 1}.Encode())
	if !strings.Contains(out.String(), "asking: throttled") {
		t.Errorf("the log has %q, want the AMD-SP's failure", out.String())
	}
}

func TestPeerOf(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:1", true},
		{"[2001:db8::1]:1", "[2001:db8::ffff:2]:1", true},
		{"[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false},
		{"[fe80::1%eth0]:1", "[fe80::1]:1", true},
		{"", "@", true},
	} {
		if got := peerOf(c.a) == peerOf(c.b); got != c.same {
			t.Errorf("%s and %s are one peer: %v, want %v", c.a, c.b, got, c.same)
		}
	}
}
