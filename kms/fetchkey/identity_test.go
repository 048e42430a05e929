package fetchkey

import (
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/test/spiffetest"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// agent is a Workload API that knows no entry at first.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	ca    *spiffetest.Authority
	t     testing.TB
	deny  int64
	asked atomic.Int64
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if a.asked.Add(1) <= a.deny {
		return status.Error(codes.PermissionDenied, "no identity issued")
	}
	return stream.Send(a.ca.Response(a.t, vmID))
}

// serve answers at path after a while.
func (a *agent) serve(path string, after time.Duration) {
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, a)
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(after)
		l, err := net.Listen("unix", path)
		if err != nil {
			a.t.Error(err)
			return
		}
		server.Serve(l)
	}()
	a.t.Cleanup(func() { server.Stop(); <-done })
}

// TestWorkloadAPI is an agent that starts late, and syncs later: waiting for it
// costs little more than its own time.
func TestWorkloadAPI(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	a := &agent{ca: spiffetest.New(t), t: t, deny: 4}
	const late = 300 * time.Millisecond
	a.serve(path, late)
	start := time.Now()
	id, err := WorkloadAPI("unix://"+path, 10*time.Second)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if id.SVID.ID != vmID {
		t.Errorf("got %s", id.SVID.ID)
	}
	if _, err := id.Bundles.GetX509BundleForTrustDomain(vmID.TrustDomain()); err != nil {
		t.Error(err)
	}
	if took, most := time.Since(start), late+time.Second; took > most {
		t.Errorf("took %s, want at most %s", took, most)
	}
}

func TestWorkloadAPIGivesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	_, err := WorkloadAPI("unix://"+path, 200*time.Millisecond)(t.Context())
	if err == nil || !strings.Contains(err.Error(), "tries") || !strings.Contains(err.Error(), "agent.sock") {
		t.Errorf("no agent: got error %v", err)
	}
	a := &agent{ca: spiffetest.New(t), t: t, deny: 1 << 40}
	a.serve(path, 0)
	_, err = WorkloadAPI("unix://"+path, 2*time.Second)(t.Context())
	if status.Code(err) != codes.PermissionDenied && !strings.Contains(err.Error(), "PermissionDenied") {
		t.Errorf("no entry: got error %v, want PermissionDenied", err)
	}
}
