package fetchkey

import (
	"context"
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/keyapi"
)

// Bounds of the wait after each round of the addresses.
const (
	firstWait = 50 * time.Millisecond
	maxWait   = 2 * time.Second
)

// servers are the addresses of the key server, asked one after the other, and the
// patience with them. The address that answered last is asked first.
type servers struct {
	clients []*client
	at      int           // which is asked next
	failed  int           // failures since the last answer
	tries   int           // failures in all
	wait    time.Duration // after the next whole round of failures
	last    error         // the newest failure that was not the end of our patience
}

func newServers(addresses []string, server spiffeid.ID, id Identity) *servers {
	return serversOf(addresses, func(address string) *client { return newClient(address, server, id) })
}

func serversOf(addresses []string, open func(address string) *client) *servers {
	s := &servers{wait: firstWait}
	for _, address := range addresses {
		s.clients = append(s.clients, open(address))
	}
	return s
}

func (s *servers) close() {
	for _, c := range s.clients {
		c.close()
	}
}

// post sends the same bytes to one address after the other until a server answers
// or ctx ends. So a request whose reply was lost reaches the server again as it was,
// and a server that released answers it again.
func (s *servers) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	for {
		data, err := s.clients[s.at].post(ctx, path, body)
		var again *retryError
		if !errors.As(err, &again) {
			s.failed, s.wait = 0, firstWait
			return data, err
		}
		if ctx.Err() == nil || s.last == nil {
			s.last = err // what ends with our patience says less than what was wrong before
		}
		if !s.next(ctx) {
			return nil, s.last
		}
	}
}

// next moves on to the next address, after a wait when all have failed. It reports
// whether there is time for it.
func (s *servers) next(ctx context.Context) bool {
	s.at = (s.at + 1) % len(s.clients)
	s.tries++
	s.failed++
	if s.failed%len(s.clients) != 0 {
		return ctx.Err() == nil
	}
	wait := s.wait
	s.wait = min(2*s.wait, maxWait)
	return pause(ctx, wait)
}

// nonce asks for a nonce.
func (s *servers) nonce(ctx context.Context) (evidence.Nonce, error) {
	data, err := s.post(ctx, keyapi.PathNonce, keyapi.Encode(keyapi.NonceRequest{Version: keyapi.Version}))
	if err != nil {
		return evidence.Nonce{}, err
	}
	reply, err := keyapi.Decode[keyapi.NonceReply](data)
	return reply.Nonce, err
}

// release asks for the key, and returns it sealed.
func (s *servers) release(ctx context.Context, path string, request keyapi.ReleaseRequest) ([]byte, error) {
	data, err := s.post(ctx, path, keyapi.Encode(request))
	if err != nil {
		return nil, err
	}
	reply, err := keyapi.Decode[keyapi.ReleaseReply](data)
	return reply.Sealed, err
}

// pause waits for d, and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
