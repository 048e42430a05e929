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
// Peers that have shown their SVID are not dropped while they ask. One that keeps
// its connection open and asks nothing has to go, the longest idle first, when there
// is no stranger: else a single caller could keep all places. When all are asking, a
// newcomer waits for one of them to end.
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
		c.moveLocked(&l.strangers)
		l.open++
		return c, nil
	}
	for _, droppable := range []*list.List{&l.strangers, &l.idle} {
		if first := droppable.Front(); first != nil {
			return nil, first.Value.(*limitedConn)
		}
	}
	return nil, nil
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
