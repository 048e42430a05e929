package boot

import (
	"context"
	"time"
)

// poll is how often a step looks whether what it waits for is there.
const poll = 20 * time.Millisecond

// pause waits for one poll, or returns the error of an ended ctx.
func pause(ctx context.Context) error { return sleep(ctx, poll) }

// sleep waits for d, or returns the error of an ended ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
