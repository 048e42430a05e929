// Package wait pauses for a given time, or until a context ends.
package wait

import (
	"context"
	"time"
)

// Poll is the time between two checks of a condition that a step waits for.
const Poll = 20 * time.Millisecond

// Pause waits for one Poll, or returns the error of an ended ctx.
func Pause(ctx context.Context) error { return For(ctx, Poll) }

// For waits for d, or returns the error of an ended ctx.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
