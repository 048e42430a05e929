package attestd

import (
	"net"
	"net/netip"
	"sync"
)

// limited is a listener that bounds the number of open connections, and the share
// of one peer. If all places are taken, connections wait in the kernel's queue. If
// a peer has its share, limited closes the peer's next connection at once, so that
// it does not delay the connections behind it in the queue.
type limited struct {
	net.Listener
	places chan struct{}
	peers  *shares
	closed chan struct{}
	once   sync.Once
}

func limitConnections(l net.Listener, n, share int) net.Listener {
	return &limited{Listener: l, places: make(chan struct{}, n), peers: newShares(n, share), closed: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.places
			return nil, err
		}
		leave, ok := l.peers.take(c.RemoteAddr().String())
		if !ok {
			_ = c.Close() // no byte was sent
			continue
		}
		return &counted{Conn: c, leave: sync.OnceFunc(func() { leave(); <-l.places })}, nil
	}
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// counted is a connection that gives its place back when it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// shares is a number of places, of which one peer gets at most a part. A caller
// never waits for a place.
type shares struct {
	whole, each int

	mu    sync.Mutex // guards what follows
	taken int
	held  map[netip.Prefix]int // :: peer -> its places; no entry for none
}

func newShares(whole, each int) *shares {
	return &shares{whole: whole, each: each, held: map[netip.Prefix]int{}}
}

// take takes a place for the peer at address ("host:port"). It returns a function
// that gives the place back, to be called once. If there is no place, ok is false.
func (s *shares) take(address string) (leave func(), ok bool) {
	peer := peerOf(address)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == s.whole || s.held[peer] == s.each {
		return nil, false
	}
	s.taken++
	s.held[peer]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taken--
		if s.held[peer]--; s.held[peer] == 0 {
			delete(s.held, peer)
		}
	}, true
}

// peerOf returns the range of addresses that counts as one peer: an IPv4 address, or
// the first 64 bits of an IPv6 address, because a host chooses the rest freely (RFC
// 4291, section 2.5.4). Texts that are no address share one entry.
func peerOf(address string) netip.Prefix {
	addrPort, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Prefix{}
	}
	addr := addrPort.Addr().Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(addr, bits).Masked()
}
