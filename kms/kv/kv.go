// Package kv is the interface between the key server's store and the engine that keeps its
// bytes.
//
// An engine is a map from keys to values. Callers change the map by transactions. A transaction
// has conditions on some keys, and writes. If all conditions hold, the engine makes all writes;
// otherwise the engine makes none. Reads and transactions are linearizable. The keys of this
// package are names of items, not keys of disks. Package kvtest has the test suite that each
// engine passes.
package kv

import (
	"context"
	"errors"
	"fmt"
)

// Bounds of one transaction, for every engine. They are etcd's: by default 128 operations and
// 1.5 MiB for a request.
const (
	MaxOps   = 128     // conditions, and as many writes
	MaxBytes = 1 << 20 // of all keys and values together
)

// Errors of an engine.
var (
	// ErrUnknown says that a transaction may take effect now, later or never. The caller may
	// follow it only with a transaction that cannot take effect beside it: see package ledger.
	ErrUnknown = errors.New("outcome of the transaction is unknown")
	// ErrBroken says that the engine is unusable for the rest of this process.
	ErrBroken = errors.New("store is broken")
	// ErrFull says that the engine has no room. It changed nothing, unless the error matches
	// ErrUnknown too. Then a read shows whether it did.
	ErrFull = errors.New("store is full")
)

// Item is the value under one key.
type Item struct {
	Key   string
	Value []byte
	// Mod is the revision of the transaction that wrote the item, from 1; 0 if there is no
	// item.
	Mod int64
}

// Cond holds if the transaction with revision Mod was the last to write the item under Key.
// With Mod 0 it holds if there is no item.
type Cond struct {
	Key string
	Mod int64
}

// Write puts Value under Key, or deletes the item.
type Write struct {
	Key    string
	Value  []byte
	Delete bool
}

// Engine keeps items. Its methods may be called from several goroutines.
type Engine interface {
	// Commit makes all writes if all conditions hold. It then returns the transaction's
	// revision, and the writes are durable. Otherwise it returns 0 and changed nothing. The
	// exception is a transaction that a network delivered twice: 0 may then be the answer to
	// the second copy. No two writes may have the same key. If the outcome is unknown, the
	// error matches ErrUnknown. With any other error nothing was changed.
	Commit(ctx context.Context, conditions []Cond, writes []Write) (int64, error)
	// Get returns the items under keys, in their order, as they stand at one moment. It takes
	// at most MaxOps keys.
	Get(ctx context.Context, keys ...string) ([]Item, error)
	// List returns at most limit items whose keys begin with prefix and come after the key
	// after, in bytewise order. "" is before all keys.
	List(ctx context.Context, prefix, after string, limit int) ([]Item, error)
	// Revision returns the revision of the newest transaction. Every later read sees all
	// transactions up to it.
	Revision(ctx context.Context) (int64, error)
	// Close ends the engine. No method may be called afterwards.
	Close() error
}

// Check returns an error unless a transaction is within the bounds.
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

// Each calls visit with every item whose key begins with prefix, in order, until visit fails.
// Items that are written meanwhile may be included or not.
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
