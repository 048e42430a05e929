package kvtest

import (
	"context"
	"fmt"
	"sync"

	"github.com/rootvouch/rootvouch/kms/kv"
)

// Fate is what happens to a transaction whose caller does not learn the outcome.
type Fate int

// The fates.
const (
	Known   Fate = iota // the caller learns the outcome
	Never               // it does not happen
	Now                 // it happens
	Later               // it runs before the next transaction, and happens if its conditions hold then
	Twice               // it happens, and the caller gets the answer to a second copy, whose conditions fail
	Full                // it does not happen, because the engine is full
	FullNow             // it happens and fills the engine: etcd gives the same answer in both cases
)

// Flaky is an engine that sometimes hides the outcome of a transaction.
type Flaky struct {
	kv.Engine
	Fate func() Fate

	mu   sync.Mutex // guards late
	late []func()
}

// Commit implements kv.Engine.
func (f *Flaky) Commit(ctx context.Context, conditions []kv.Cond, writes []kv.Write) (int64, error) {
	f.Settle()
	switch f.Fate() {
	case Never:
		return 0, kv.ErrUnknown
	case Now:
		if _, err := f.Engine.Commit(ctx, conditions, writes); err != nil {
			return 0, err
		}
		return 0, kv.ErrUnknown
	case Twice:
		_, err := f.Engine.Commit(ctx, conditions, writes)
		return 0, err
	case Full:
		return 0, fmt.Errorf("%w: %w", kv.ErrUnknown, kv.ErrFull)
	case FullNow:
		if _, err := f.Engine.Commit(ctx, conditions, writes); err != nil {
			return 0, err
		}
		return 0, fmt.Errorf("%w: %w", kv.ErrUnknown, kv.ErrFull)
	case Later:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.late = append(f.late, func() { f.Engine.Commit(context.WithoutCancel(ctx), conditions, writes) })
		return 0, kv.ErrUnknown
	}
	return f.Engine.Commit(ctx, conditions, writes)
}

// Settle runs the transactions whose fate is Later.
func (f *Flaky) Settle() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, happen := range f.late {
		happen()
	}
	f.late = nil
}
