package server

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// maxWaiting bounds the exchanges that wait for their peers at once. Each takes two goroutines
// and a gRPC stream.
const maxWaiting = 4096

// errDisplaced ends the exchange that has waited longest.
var errDisplaced = errors.New("too many peers wait: try again")

// waiting are the exchanges that wait for their peers. If there are too many, the oldest ends.
// So silent strangers keep nobody out: a guest with an AMD-SP answers within milliseconds, and
// the strangers would have to begin max exchanges in that time.
type waiting struct {
	max int

	mu    sync.Mutex
	queue list.List // of context.CancelCauseFunc, oldest first; guarded by mu
}

// enter adds an exchange. If the exchange has to give way, its context ends with the cause
// errDisplaced. The caller calls leave when the exchange no longer waits.
func (w *waiting) enter(ctx context.Context) (_ context.Context, leave func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	place := w.queue.PushBack(cancel)
	for w.queue.Len() > w.max {
		oldest := w.queue.Remove(w.queue.Front()).(context.CancelCauseFunc)
		oldest(errDisplaced)
	}
	return ctx, func() {
		w.mu.Lock()
		w.queue.Remove(place) // does nothing if it was removed
		w.mu.Unlock()
		cancel(nil)
	}
}
