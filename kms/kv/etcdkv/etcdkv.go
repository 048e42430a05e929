// Package etcdkv keeps the key server's store in an etcd cluster.
//
// Transactions and reads are etcd's own, and linearizable. If the reply to a transaction is
// lost, etcd does not say whether the transaction happened. The engine then returns
// kv.ErrUnknown and leaves the decision to its caller. etcd's client may deliver a transaction
// twice (etcd#14890). The caller then gets the answer to the second copy, which says that the
// conditions do not hold.
package etcdkv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rootvouch/rootvouch/kms/kv"
)

const (
	// commitLimit bounds one proposal, an election of a new leader included.
	commitLimit = 3 * time.Second
	// readTry bounds one attempt of a read: if a member has not answered by then, the read asks
	// the next one. readLimit bounds the whole read.
	readTry   = time.Second
	readLimit = 10 * time.Second
	readPause = 50 * time.Millisecond
)

// Store is the part of a cluster that holds one store.
type Store struct {
	client *clientv3.Client
	prefix string
}

var _ kv.Engine = (*Store)(nil)

// Commit implements kv.Engine.
func (s *Store) Commit(ctx context.Context, conditions []kv.Cond, writes []kv.Write) (int64, error) {
	if err := kv.Check(conditions, writes); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	var compares []clientv3.Cmp
	for _, c := range conditions {
		compares = append(compares, clientv3.Compare(clientv3.ModRevision(s.prefix+c.Key), "=", c.Mod))
	}
	var ops []clientv3.Op
	for _, w := range writes {
		if w.Delete {
			ops = append(ops, clientv3.OpDelete(s.prefix+w.Key))
			continue
		}
		ops = append(ops, clientv3.OpPut(s.prefix+w.Key, string(w.Value)))
	}
	ctx, cancel := context.WithTimeout(ctx, commitLimit)
	defer cancel()
	reply, err := s.client.Txn(ctx).If(compares...).Then(ops...).Commit()
	switch {
	case err != nil:
		return 0, outcome(err)
	case !reply.Succeeded:
		return 0, nil
	}
	return reply.Header.Revision, nil
}

// refusals are the answers after which a transaction has not happened and will not. Every other
// error may come after etcd proposed the transaction.
var refusals = []error{
	rpctypes.ErrEmptyKey, rpctypes.ErrTooManyOps, rpctypes.ErrDuplicateKey, rpctypes.ErrRequestTooLarge,
	rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrAuthFailed,
}

func refused(err error) bool {
	for _, r := range refusals {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}

// outcome maps an error of a transaction to an error of kv. etcd answers "no space" in two
// cases: it did not accept the transaction, or it applied the transaction and thereby exceeded
// the quota.
func outcome(err error) error {
	switch {
	case refused(err):
		return fmt.Errorf("etcd: %w", err)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("etcd: %w: %w: %v", kv.ErrUnknown, kv.ErrFull, err)
	}
	return fmt.Errorf("etcd: %w: %v", kv.ErrUnknown, err)
}

// read asks one member after the other until one answers.
func read[Reply any](ctx context.Context, ask func(context.Context) (Reply, error)) (Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, readTry)
		reply, err := ask(try)
		cancel()
		if err == nil {
			return reply, nil
		}
		if refused(err) || ctx.Err() != nil {
			return reply, fmt.Errorf("etcd: %v", err)
		}
		select {
		case <-time.After(readPause):
		case <-ctx.Done():
			return reply, fmt.Errorf("etcd: %v", err)
		}
	}
}

// Get implements kv.Engine.
func (s *Store) Get(ctx context.Context, keys ...string) ([]kv.Item, error) {
	switch {
	case len(keys) > kv.MaxOps:
		return nil, fmt.Errorf("reading %d keys, want at most %d", len(keys), kv.MaxOps)
	case len(keys) == 0:
		return nil, nil
	}
	var ops []clientv3.Op
	for _, key := range keys {
		ops = append(ops, clientv3.OpGet(s.prefix+key))
	}
	reply, err := read(ctx, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return s.client.Txn(ctx).Then(ops...).Commit()
	})
	if err != nil {
		return nil, err
	}
	all := make([]kv.Item, len(keys))
	for i, one := range reply.Responses {
		all[i].Key = keys[i]
		if found := one.GetResponseRange().GetKvs(); len(found) > 0 {
			// Each answer has bytes of its own, even if a key is asked for twice.
			all[i].Value, all[i].Mod = bytes.Clone(found[0].Value), found[0].ModRevision
		}
	}
	return all, nil
}

// List implements kv.Engine.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]kv.Item, error) {
	if limit <= 0 {
		return nil, nil
	}
	from := prefix
	if after >= prefix && after != "" {
		from = after + "\x00"
	}
	whole := s.prefix + prefix
	reply, err := read(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, s.prefix+from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(whole)), clientv3.WithLimit(int64(limit)))
	})
	if err != nil {
		return nil, err
	}
	var all []kv.Item
	for _, item := range reply.Kvs {
		key, ok := strings.CutPrefix(string(item.Key), whole)
		if !ok { // after follows all keys with the prefix
			break
		}
		all = append(all, kv.Item{Key: prefix + key, Value: item.Value, Mod: item.ModRevision})
	}
	return all, nil
}

// Revision implements kv.Engine.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	reply, err := read(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, s.prefix, clientv3.WithCountOnly())
	})
	if err != nil {
		return 0, err
	}
	return reply.Header.Revision, nil
}

// Close implements kv.Engine.
func (s *Store) Close() error { return s.client.Close() }
