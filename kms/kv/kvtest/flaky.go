package kvtest

import (
	"context"
	"fmt"
	"sync"

	"github.com/rootvouch/rootvouch/kms/kv"
)

// Fate is what becomes of a transaction whose outcome its caller does not learn.
type Fate int

// The fates.
const (
	Known   Fate = iota // the caller learns the outcome
	Never               // it does not happen
	Now                 // it happens
	Later               // it happens before the next one, or does not, as its conditions have it
	Twice               // it happens, and a copy of it, whose conditions do not hold, is answered
	Full                // it does not happen: there is no room
	FullNow             // it happens, and then there is no room: etcd says the same of both
)

// Flaky is an engine that does not always tell what became of a transaction.
type Flaky struct {
	kv.Engine
	Fate func() Fate

	mu   sync.Mutex // guards late
	late []func()
}

// Commit implements kv.Engine.
func (f *Flaky) Commit(ctx context.Context, conditions []kv.Cond, writes []kv.Write) (bool, error) {
	f.Settle()
	switch f.Fate() {
	case Never:
		return false, kv.ErrUnknown
	case Now:
		if _, err := f.Engine.Commit(ctx, conditions, writes); err != nil {
			return false, err
		}
		return false, kv.ErrUnknown
	case Twice:
		_, err := f.Engine.Commit(ctx, conditions, writes)
		return false, err
	case Full:
		return false, fmt.Errorf("%w: %w", kv.ErrUnknown, kv.ErrFull)
	case FullNow:
		if _, err := f.Engine.Commit(ctx, conditions, writes); err != nil {
			return false, err
		}
		return false, fmt.Errorf("%w: %w", kv.ErrUnknown, kv.ErrFull)
	case Later:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.late = append(f.late, func() { f.Engine.Commit(context.WithoutCancel(ctx), conditions, writes) })
		return false, kv.ErrUnknown
	}
	return f.Engine.Commit(ctx, conditions, writes)
}

// Settle makes the transactions that were to happen later.
func (f *Flaky) Settle() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, happen := range f.late {
		happen()
	}
	f.late = nil
}
