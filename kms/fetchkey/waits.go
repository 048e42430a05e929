package fetchkey

import (
	"context"
	"time"
)

// Bounds of the wait between two tries of the key server.
const (
	firstWait = 50 * time.Millisecond
	maxWait   = 2 * time.Second
)

// waits counts tries and waits between them, twice as long each time.
type waits struct {
	next  time.Duration
	count int
}

func newWaits() *waits { return &waits{next: firstWait} }

// sleep waits, and reports whether there is time for another try.
func (w *waits) sleep(ctx context.Context) bool {
	w.count++
	wait := w.next
	w.next = min(2*w.next, maxWait)
	return pause(ctx, wait)
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
