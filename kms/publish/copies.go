package publish

import (
	"context"
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
)

// Errors of Join and Leave.
var (
	ErrJoined = errors.New("replica has a copy of the log already")
	ErrNoCopy = errors.New("replica has no copy of the log")
)

// Join registers a replica: from now on leaves stay in the book until it has them. It
// returns how many leaves the log has, which its directory must have at least, as a copy of
// another replica's, before it serves. The error matches ErrJoined.
func Join(ctx context.Context, s *store.Store, replica string) (int64, error) {
	var size int64
	err := change(ctx, s, replica, func(item kv.Item, checkpoint store.Checkpoint, p *Publisher) (kv.Write, error) {
		if item.Mod != 0 {
			return kv.Write{}, ErrJoined
		}
		tree, err := p.verify([]byte(checkpoint.Signed))
		size = tree.Size
		return store.SetCopy(replica, store.Copy{Size: tree.Size, Root: tree.Root, Lanes: checkpoint.Lanes}), err
	})
	return size, err
}

// Leave ends that: nobody waits for the replica's directory any more. Its lane stays. The
// error matches ErrNoCopy.
func Leave(ctx context.Context, s *store.Store, replica string) error {
	return change(ctx, s, replica, func(item kv.Item, _ store.Checkpoint, _ *Publisher) (kv.Write, error) {
		if item.Mod == 0 {
			return kv.Write{}, ErrNoCopy
		}
		return kv.Write{Key: item.Key, Delete: true}, nil
	})
}

// change writes a copy's item, with the log as it stands.
func change(ctx context.Context, s *store.Store, replica string, decide func(kv.Item, store.Checkpoint, *Publisher) (kv.Write, error)) error {
	const attempts = 100
	for range attempts {
		items, err := s.Engine.Get(ctx, store.KeyCopies, store.KeyCheckpoint, store.KeyCopy(replica))
		if err != nil {
			return err
		}
		checkpoint, err := store.CheckpointOf(items[1])
		if err != nil {
			return err
		}
		write, err := decide(items[2], checkpoint, &Publisher{store: s})
		if err != nil {
			return fmt.Errorf("replica %s: %w", replica, err)
		}
		var conditions []kv.Cond
		for _, item := range items {
			conditions = append(conditions, kv.Cond{Key: item.Key, Mod: item.Mod})
		}
		happened, err := s.Engine.Commit(ctx, conditions, []kv.Write{write, {Key: store.KeyCopies}})
		if happened || err != nil {
			return err
		}
	}
	return errors.New("the log moved on, again and again: try again")
}
