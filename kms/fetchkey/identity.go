package fetchkey

import (
	"context"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// step is the wait between two tries of the Workload API. The step adds to the boot time: an
// agent has no socket until it has attested the node, and answers PermissionDenied until it has
// synced the entry.
const step = 50 * time.Millisecond

// WorkloadAPI returns a function that gets this process's SVID from the SPIFFE Workload API at
// address (unix:///path). While there is no agent or no entry yet, the function asks again for
// as long as patience.
func WorkloadAPI(address string, patience time.Duration) func(context.Context) (Identity, error) {
	return func(ctx context.Context) (Identity, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		// By default gRPC waits a second after the first failure to connect.
		dial := workloadapi.WithDialOptions(grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: step, Multiplier: 1, MaxDelay: step},
			MinConnectTimeout: time.Second,
		}))
		client, err := workloadapi.New(ctx, workloadapi.WithAddr(address), dial)
		if err != nil {
			return Identity{}, fmt.Errorf("opening the Workload API: %v", err)
		}
		defer client.Close()
		var last error
		for tries := 1; ; tries++ {
			got, err := client.FetchX509Context(ctx)
			if err == nil {
				return Identity{got.DefaultSVID(), got.Bundles}, nil
			}
			if last == nil || ctx.Err() == nil && status.Code(err) != codes.DeadlineExceeded {
				last = err // an error of the expired context would say less
			}
			if !passes(err) || !pause(ctx, step) {
				return Identity{}, fmt.Errorf("asking the Workload API, %d tries: %w", tries, last)
			}
		}
	}
}

// passes reports whether a failure of the Workload API may pass.
func passes(err error) bool {
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unavailable, codes.ResourceExhausted, codes.Aborted, codes.Internal:
		return true
	}
	return false
}
