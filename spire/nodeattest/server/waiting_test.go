package server

import (
	"testing"
	"time"

	nodeattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/nodeattestor/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rootvouch/rootvouch/spire/nodeattest"
)

func TestSilentPeer(t *testing.T) {
	for _, c := range []struct {
		hello bool
		limit time.Duration
	}{{false, helloTimeout}, {true, answerTimeout}} {
		f := load(t)
		if c.hello {
			f.plugin.helloTimeout, f.plugin.answerTimeout = time.Hour, 50*time.Millisecond
		} else {
			f.plugin.helloTimeout, f.plugin.answerTimeout = 50*time.Millisecond, time.Hour
		}
		f.mustConfigure()
		if _, err := f.begin(c.hello).Recv(); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("hello %v: got %v, want %v", c.hello, err, codes.DeadlineExceeded)
		}
	}
	if helloTimeout > 5*time.Second {
		t.Errorf("a peer has %v to greet", helloTimeout)
	}
}

// begin begins an exchange, and takes the nonce of one that greets.
func (f *fixture) begin(hello bool) nodeattestorv1.NodeAttestor_AttestClient {
	f.Helper()
	stream, err := f.client.Attest(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	if !hello {
		return stream
	}
	if err := stream.Send(&nodeattestorv1.AttestRequest{Request: &nodeattestorv1.AttestRequest_Payload{Payload: nodeattest.Hello()}}); err != nil {
		f.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		f.Fatal(err)
	}
	return stream
}

// Of too many who wait, who waited longest has to go: the newcomer is served.
func TestTooManyPeers(t *testing.T) {
	f := load(t)
	f.plugin.helloTimeout, f.plugin.answerTimeout = time.Hour, time.Hour
	f.plugin.waiting.max = 3
	f.mustConfigure()
	var idle []nodeattestorv1.NodeAttestor_AttestClient
	for range 5 {
		idle = append(idle, f.begin(true))
	}
	if _, err := f.attest(f.genuine(f.launch)); err != nil {
		t.Errorf("who answers is kept out: %v", err)
	}
	for i, stream := range idle[:3] {
		if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("peer %d: got %v, want %v", i, err, codes.Unavailable)
		}
	}
	f.plugin.waiting.mu.Lock()
	defer f.plugin.waiting.mu.Unlock()
	if n := f.plugin.waiting.queue.Len(); n != 2 {
		t.Errorf("%d peers are waited for, want 2", n)
	}
}
