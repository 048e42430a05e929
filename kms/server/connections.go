package server

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// limitedListener holds at most so many connections. Where there is one more, it
// drops the one that has been a stranger the longest: anyone can connect and say
// nothing, and a limit that made newcomers wait for them would keep callers out at
// a few hundred connections a second. A caller loses its place only when as many
// strangers as there are places come while it does its handshake.
//
// Peers that have shown their SVID are not dropped. When all are such, a newcomer
// waits for one of them to leave.
type limitedListener struct {
	net.Listener
	most      int
	freed     chan struct{} // of size 1: a connection was closed
	closed    chan struct{}
	closeOnce sync.Once

	mu        sync.Mutex // guards what follows
	open      int
	strangers list.List // of *limitedConn, oldest first
}

func limitConnections(l net.Listener, most int) *limitedListener {
	return &limitedListener{Listener: l, most: most, freed: make(chan struct{}, 1), closed: make(chan struct{})}
}

// Accept is called by one goroutine.
func (l *limitedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	for {
		c, oldest := l.admit(conn)
		switch {
		case c != nil:
			return c, nil
		case oldest != nil:
			oldest.Close()
		default:
			select {
			case <-l.freed:
			case <-l.closed:
				conn.Close()
				return nil, net.ErrClosed
			}
		}
	}
}

// admit takes conn in, or says which stranger has to go first, if there is one.
func (l *limitedListener) admit(conn net.Conn) (admitted, oldest *limitedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open < l.most {
		c := &limitedConn{Conn: conn, listener: l}
		c.stranger = l.strangers.PushBack(c)
		l.open++
		return c, nil
	}
	if first := l.strangers.Front(); first != nil {
		return nil, first.Value.(*limitedConn)
	}
	return nil, nil
}

func (l *limitedListener) Close() error {
	l.closeOnce.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// known is an http.Server's ConnState. A connection is active when its first
// request was read, which is after a handshake that verified the peer's SVID.
func (l *limitedListener) known(conn net.Conn, state http.ConnState) {
	if state != http.StateActive {
		return
	}
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	if c, ok := conn.(*limitedConn); ok {
		l.mu.Lock()
		defer l.mu.Unlock()
		c.acquaintLocked()
	}
}

type limitedConn struct {
	net.Conn
	listener *limitedListener

	// guarded by listener.mu
	stranger *list.Element // its place among them; nil when it is none
	closed   bool
}

// acquaintLocked makes c no stranger.
func (c *limitedConn) acquaintLocked() {
	if c.stranger != nil {
		c.listener.strangers.Remove(c.stranger)
		c.stranger = nil
	}
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if c.closed {
		return err
	}
	c.closed = true
	c.acquaintLocked()
	c.listener.open--
	select {
	case c.listener.freed <- struct{}{}:
	default:
	}
	return err
}
