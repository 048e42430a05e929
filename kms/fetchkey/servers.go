package fetchkey

import (
	"context"
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/keyapi"
)

// Bounds of the wait after each round of addresses.
const (
	firstWait = 50 * time.Millisecond
	maxWait   = 2 * time.Second
)

// servers asks the addresses of the key server one after the other, as long as patience lasts.
// It asks the address that answered last first.
type servers struct {
	clients []*client
	at      int           // index of the address to ask next
	failed  int           // failures since the last answer
	tries   int           // failures in all
	wait    time.Duration // the wait after the next round in which all fail
	last    error         // the newest failure before patience ended
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

// post sends the same bytes to one address after the other until a server answers or ctx ends.
// So if a reply was lost, the server gets the same request again. A server that released the
// key gives the same answer again.
func (s *servers) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	for {
		data, err := s.clients[s.at].post(ctx, path, body)
		var again *retryError
		if !errors.As(err, &again) {
			s.failed, s.wait = 0, firstWait
			return data, err
		}
		if ctx.Err() == nil || s.last == nil {
			s.last = err // an error of the expired context would say less
		}
		if !s.next(ctx) {
			return nil, s.last
		}
	}
}

// next moves to the next address, after a wait if all have failed. It reports whether time is
// left.
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

// pause waits for d, and reports whether ctx is still live.
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
