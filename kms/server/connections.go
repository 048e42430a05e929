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

// limitedListener holds at most so many connections. More wait in the kernel's queue: a
// handshake that has begun is not thrown away for one that has not, else in a storm of
// boots none ends.
//
// But anyone can connect and do nothing. So when all places are taken, the one goes that
// has been a stranger the longest and has sent nothing, or nothing since a while
// (stalled); where there is none, the caller whose connection has been idle the longest.
// When all are asking or in their handshake, a newcomer waits for one of them to end.
type limitedListener struct {
	net.Listener
	most      int
	freed     chan struct{} // of size 1: a connection was closed, or can be
	closed    chan struct{}
	closeOnce sync.Once

	mu        sync.Mutex // guards what follows
	open      int
	strangers list.List // of *limitedConn, oldest first
	idle      list.List // of *limitedConn that are known, longest idle first
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
		c, drop, wait := l.admit(conn)
		switch {
		case c != nil:
			return c, nil
		case drop != nil:
			drop.Close()
		default:
			stalls := time.NewTimer(wait)
			select {
			case <-l.freed:
				stalls.Stop()
			case <-stalls.C:
			case <-l.closed:
				stalls.Stop()
				conn.Close()
				return nil, net.ErrClosed
			}
		}
	}
}

// stalled is how long a stranger may send nothing before another takes its place.
const stalled = 2 * time.Second

// admit takes conn in, or says who has to go first, or how long it is until a stranger may
// have stalled.
func (l *limitedListener) admit(conn net.Conn) (admitted, drop *limitedConn, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open < l.most {
		c := &limitedConn{Conn: conn, listener: l}
		c.moveLocked(&l.strangers)
		l.open++
		return c, nil, 0
	}
	wait = stalled
	for place := l.strangers.Front(); place != nil; place = place.Next() {
		c := place.Value.(*limitedConn)
		heard := c.heard.Load()
		if heard == 0 {
			return nil, c, 0
		}
		if left := stalled - time.Since(time.Unix(0, heard)); left <= 0 {
			return nil, c, 0
		} else if left < wait {
			wait = left
		}
	}
	if first := l.idle.Front(); first != nil {
		return nil, first.Value.(*limitedConn), 0
	}
	return nil, nil, wait
}

func (l *limitedListener) Close() error {
	l.closeOnce.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// state is an http.Server's ConnState. A connection is active when its first
// request was read, which is after a handshake that verified the peer's SVID.
func (l *limitedListener) state(conn net.Conn, state http.ConnState) {
	var on *list.List // nil while it asks
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
		c.moveLocked(on)
		if on != nil {
			l.signal()
		}
	}
}

type limitedConn struct {
	net.Conn
	listener *limitedListener
	heard    atomic.Int64 // when it sent something last, in nanoseconds since 1970; 0: never

	// guarded by listener.mu
	on     *list.List // strangers or idle; nil while it asks
	place  *list.Element
	closed bool
}

// moveLocked puts c at the end of a list, or on none.
func (c *limitedConn) moveLocked(to *list.List) {
	if c.on != nil {
		c.on.Remove(c.place)
	}
	if c.on = to; to != nil {
		c.place = to.PushBack(c)
	}
}

func (c *limitedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
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
