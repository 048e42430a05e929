package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
)

// Errors of Join and Leave.
var (
	ErrJoined = errors.New("replica has a copy of the log already")
	ErrNoCopy = errors.New("replica has no copy of the log")
)

// Join registers a replica: from now on leaves stay in the store until the replica has them.
// Its copy starts at the length of the shortest other copy. So a directory copied later from
// any replica has these leaves, even if that replica is behind. Join returns their number. The
// error matches ErrJoined.
func Join(ctx context.Context, s *store.Store, replica string) (int64, error) {
	var shortest store.Copy
	err := change(ctx, s, replica, func(own kv.Item, others []store.Copy) (kv.Write, error) {
		switch {
		case own.Mod != 0:
			return kv.Write{}, ErrJoined
		case len(others) == 0:
			return kv.Write{}, errors.New("no other replica has a log to copy")
		}
		shortest = slices.MinFunc(others, func(a, b store.Copy) int { return cmp.Compare(a.Size, b.Size) })
		return store.SetCopy(replica, shortest), nil
	})
	return shortest.Size, err
}

// Leave removes a replica's copy: leaves no longer stay in the store for its directory. The
// replica's lane stays. The error matches ErrNoCopy.
func Leave(ctx context.Context, s *store.Store, replica string) error {
	return change(ctx, s, replica, func(own kv.Item, _ []store.Copy) (kv.Write, error) {
		if own.Mod == 0 {
			return kv.Write{}, ErrNoCopy
		}
		return kv.Write{Key: own.Key, Delete: true}, nil
	})
}

// change writes a copy's item, and makes the other copies conditions.
func change(ctx context.Context, s *store.Store, replica string, decide func(own kv.Item, others []store.Copy) (kv.Write, error)) error {
	const attempts = 100
	for range attempts {
		items, err := s.Engine.Get(ctx, store.KeyCopies, store.KeyCopy(replica))
		if err != nil {
			return err
		}
		own := items[1]
		var others []store.Copy
		err = kv.Each(ctx, s.Engine, store.PrefixCopy, func(item kv.Item) error {
			if item.Key == own.Key {
				return nil
			}
			c, err := store.CopyOf(item)
			items, others = append(items, item), append(others, c)
			return err
		})
		if err != nil {
			return err
		}
		write, err := decide(own, others)
		if err != nil {
			return fmt.Errorf("replica %s: %w", replica, err)
		}
		var conditions []kv.Cond
		for _, item := range items {
			conditions = append(conditions, kv.Cond{Key: item.Key, Mod: item.Mod})
		}
		revision, err := s.Engine.Commit(ctx, conditions, []kv.Write{write, {Key: store.KeyCopies}})
		if revision != 0 || err != nil {
			return err
		}
	}
	return errors.New("other servers changed the log too often meanwhile: try again")
}
