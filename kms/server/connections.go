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

// limitedListener holds at most so many connections, and so many of strangers: peers in
// their handshake, or before their first request. More wait in the kernel's queue, where no
// time of ours runs out: in a storm of boots, what was begun is finished.
//
// But anyone can connect and do nothing. So while a newcomer waits, the stranger goes that
// has been quiet too long; where there is none, the caller whose connection has been idle
// too long. Quiet is the peer, not this server: a peer whose bytes nobody has read yet is
// waiting for us. And too long is longer where guests are slow: on a host that starts
// thousands of VMs, closing those that answer late would only have them begin again.
type limitedListener struct {
	net.Listener
	most, mostStrangers int
	freed               chan struct{} // of size 1: a connection was closed, or can be
	closed              chan struct{}
	closeOnce           sync.Once

	mu        sync.Mutex // guards what follows
	open      int
	pace      time.Duration // for which the slowest of the latest callers was quiet in its handshake
	strangers list.List     // of *limitedConn, oldest first
	idle      list.List     // of *limitedConn that are known, longest idle first
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

// place waits until there is a place for conn; nil, if the peer has gone meanwhile.
func (l *limitedListener) place(conn net.Conn) (net.Conn, error) {
	for {
		if hungUp(conn) { // it waited longer than its patience: no handshake for it
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

// How long a peer may be quiet while another one waits for its place, or twice the pace of
// callers if that is longer, but never longer than headerTimeout.
const (
	silence = time.Second / 4 // of one that has sent nothing at all: its first bytes follow the connection
	stalled = 2 * time.Second // of any other
)

// admit takes conn in, or says who has to go first, or how long it is until somebody may
// have to.
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

// quietLocked returns the first connection of a list whose peer has been quiet too long, or
// else how long it is until there may be one.
func (l *limitedListener) quietLocked(conns *list.List) (*limitedConn, time.Duration) {
	least := min(2*l.pace, headerTimeout)
	wait := silence
	for place := conns.Front(); place != nil; place = place.Next() {
		c := place.Value.(*limitedConn)
		left := c.patience(least)
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
	heard    atomic.Int64 // when it sent something last, in nanoseconds since 1970; 0: never
	slowest  atomic.Int64 // longest time that it was quiet, in nanoseconds

	// guarded by listener.mu
	on     *list.List // strangers or idle; nil while it asks
	place  *list.Element
	since  time.Time // on is what it is
	closed bool
}

// patience is how long the peer may still be quiet, if it may be so for least at least.
// listener.mu is held.
func (c *limitedConn) patience(least time.Duration) time.Duration {
	heard := c.heard.Load()
	if heard == 0 {
		return max(silence, least) - time.Since(c.since)
	}
	return max(stalled, least) - min(time.Since(c.since), time.Since(time.Unix(0, heard)))
}

// moveLocked puts c at the end of a list, or on none.
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
