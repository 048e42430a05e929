package server

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// maxWaiting bounds the exchanges that wait for their peers at once, each of which
// takes two goroutines and a gRPC stream.
const maxWaiting = 4096

// errDisplaced is the cause for which the exchange that waited longest ends.
var errDisplaced = errors.New("too many peers wait: try again")

// waiting are the exchanges that wait for their peers. When there are too many the
// oldest ends: strangers who say nothing keep nobody out, since a guest with an
// AMD-SP answers within milliseconds, and they would have to begin max exchanges
// in that time.
type waiting struct {
	max int

	mu    sync.Mutex
	queue list.List // of context.CancelCauseFunc, oldest first; guarded by mu
}

// enter adds an exchange. Its context ends with errDisplaced as the cause when it
// has to give way; leave is called when it waits no more.
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
		w.queue.Remove(place) // nothing if it is not in there
		w.mu.Unlock()
		cancel(nil)
	}
}
