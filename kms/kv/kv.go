// Package kv is the interface between the key server's book and the engine that stores the book.
//
// An engine is a map from keys to values that changes by transactions. A transaction has
// conditions on some keys, and writes. If all conditions hold, the engine makes all writes;
// otherwise the engine makes none. Reads and transactions are linearizable. Package kvtest
// has the test suite that each engine passes.
package kv

import (
	"context"
	"errors"
	"fmt"
)

// Bounds of one transaction. They are those of etcd, whose default is 128 operations
// and 1.5 MiB for a request, and hold for every engine.
const (
	MaxOps   = 128     // conditions, and as many writes
	MaxBytes = 1 << 20 // of all keys and values together
)

// Errors of an engine.
var (
	// ErrUnknown says that a transaction may take effect now, later or never. Only one
	// that cannot take effect beside it may follow: see package ledger.
	ErrUnknown = errors.New("outcome of the transaction is unknown")
	// ErrBroken says that the engine cannot be used any more in this process.
	ErrBroken = errors.New("store is broken")
	// ErrFull says that there is no room. Nothing was changed, unless the error matches
	// ErrUnknown too: then it was or was not, and a read says which.
	ErrFull = errors.New("store is full")
)

// Item is what an engine has under a key.
type Item struct {
	Key   string
	Value []byte
	// Mod is the revision of the transaction that wrote it, from 1; 0 where there is
	// nothing under the key.
	Mod int64
}

// Cond holds if the item under Key was last written by the transaction with revision
// Mod; with 0, if there is none.
type Cond struct {
	Key string
	Mod int64
}

// Write puts Value under Key, or deletes what is there.
type Write struct {
	Key    string
	Value  []byte
	Delete bool
}

// Engine keeps items. Its methods may be called from several goroutines.
type Engine interface {
	// Commit makes all writes if all conditions hold, and is durable when it returns
	// true. With false nothing was changed, but for a copy of the same transaction that came
	// before: a network may deliver one twice. No two writes have the same key. The error
	// matches ErrUnknown where it is not known which; with any other nothing was changed.
	Commit(ctx context.Context, conditions []Cond, writes []Write) (bool, error)
	// Get returns the items under keys, in their order, as they stand at one moment.
	// There are at most MaxOps.
	Get(ctx context.Context, keys ...string) ([]Item, error)
	// List returns at most limit items whose keys begin with prefix and come after
	// another key (in bytewise order; "" is before all).
	List(ctx context.Context, prefix, after string, limit int) ([]Item, error)
	// Revision is that of the newest transaction. All that have one up to it are seen by
	// whoever reads afterwards.
	Revision(ctx context.Context) (int64, error)
	// Close ends what the engine does. Nothing can be done with it afterwards.
	Close() error
}

// Check reports whether a transaction is within the bounds.
func Check(conditions []Cond, writes []Write) error {
	size := 0
	for _, c := range conditions {
		size += len(c.Key)
	}
	for _, w := range writes {
		size += len(w.Key) + len(w.Value)
	}
	switch {
	case len(conditions) > MaxOps || len(writes) > MaxOps:
		return fmt.Errorf("transaction has %d conditions and %d writes, want at most %d of each", len(conditions), len(writes), MaxOps)
	case size > MaxBytes:
		return fmt.Errorf("transaction has %d bytes, want at most %d", size, MaxBytes)
	}
	return nil
}

// Each calls visit with every item whose key begins with prefix, in order, until it
// fails. Items that are written meanwhile may be among them or not.
func Each(ctx context.Context, e Engine, prefix string, visit func(Item) error) error {
	const page = 500
	after := ""
	for {
		items, err := e.List(ctx, prefix, after, page)
		if err != nil {
			return err
		}
		for _, item := range items {
			if err := visit(item); err != nil {
				return err
			}
		}
		if len(items) < page {
			return nil
		}
		after = items[len(items)-1].Key
	}
}
