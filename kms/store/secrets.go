package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/kv"
)

// secretPrefixes are the prefixes of items with sealed secrets, in the order of a walk. A
// record that moves during the walk, with its seal unchanged, moves to a later prefix, so the
// walk meets it.
var secretPrefixes = []string{KeyMeta, prefixRec, prefixNext, prefixOld, prefixMade}

// KEK returns the name of the key-encryption key that seals.
func (s *Store) KEK() string { return s.kek.Current() }

// KEKs returns the names of the key-encryption keys that this server has.
func (s *Store) KEKs() []string { return s.kek.Names() }

// SecretsAfter returns at most limit items with sealed secrets that come after the given key,
// and the key of the last; "" if there are no more.
func (s *Store) SecretsAfter(ctx context.Context, after string, limit int) (items []kv.Item, last string, err error) {
	at := max(0, slices.IndexFunc(secretPrefixes, func(prefix string) bool { return strings.HasPrefix(after, prefix) }))
	for _, prefix := range secretPrefixes[at:] {
		from := ""
		if strings.HasPrefix(after, prefix) {
			from = after
		}
		all, err := s.Engine.List(ctx, prefix, from, limit-len(items))
		if err != nil {
			return nil, "", err
		}
		items = append(items, all...)
		if len(items) == limit {
			return items, items[limit-1].Key, nil
		}
	}
	return items, "", nil
}

// Reseal seals an item's secrets under the current key-encryption key. stale is false if that
// key already seals them.
func (s *Store) Reseal(item kv.Item) (write kv.Write, stale bool, err error) {
	switch {
	case item.Key == KeyMeta:
		return s.resealMeta(item)
	case strings.HasPrefix(item.Key, prefixMade):
		return s.resealMade(item)
	}
	var old stored
	if err := strictjson.Unmarshal(item.Value, &old); err != nil {
		return kv.Write{}, false, fmt.Errorf("key %q: %v", item.Key, err)
	}
	if old.Sealed.KEK == s.kek.Current() {
		return kv.Write{}, false, nil
	}
	r, err := decodeStored(item.Value)
	if err != nil {
		return kv.Write{}, false, fmt.Errorf("key %q: %w", item.Key, err)
	}
	key, err := s.Key(r)
	if err != nil {
		return kv.Write{}, false, err
	}
	defer clear(key)
	if old.Sealed, err = s.kek.Seal(s.rand, key, s.about(r)); err != nil {
		return kv.Write{}, false, err
	}
	return kv.Write{Key: item.Key, Value: encodeJSON(old)}, true, nil
}

func (s *Store) resealMeta(item kv.Item) (kv.Write, bool, error) {
	var m meta
	if err := decodeItem(item, &m); err != nil {
		return kv.Write{}, false, err
	}
	stale := false
	for _, x := range []struct {
		label  string
		sealed *kek.Sealed
	}{{logKeyLabel, &m.LogKey}, {nonceKeyLabel, &m.NonceKey}} {
		if x.sealed.KEK == s.kek.Current() {
			continue
		}
		about := kek.About(x.label, []byte(m.Cluster))
		secret, err := s.kek.Open(*x.sealed, about)
		if err != nil {
			return kv.Write{}, false, err
		}
		*x.sealed, err = s.kek.Seal(s.rand, secret, about)
		clear(secret)
		if err != nil {
			return kv.Write{}, false, err
		}
		stale = true
	}
	return kv.Write{Key: item.Key, Value: encodeJSON(m)}, stale, nil
}

// ForgetKEKs makes the item of meta without the key-encryption keys that seal no secret, and
// returns the others. changes is false if all are in use.
func (s *Store) ForgetKEKs(ctx context.Context, item kv.Item) (write kv.Write, inUse []string, changes bool, err error) {
	var m meta
	if err := decodeItem(item, &m); err != nil {
		return kv.Write{}, nil, false, err
	}
	used := map[string]bool{s.kek.Current(): true, m.LogKey.KEK: true, m.NonceKey.KEK: true}
	for _, prefix := range secretPrefixes[1:] {
		err := kv.Each(ctx, s.Engine, prefix, func(item kv.Item) error {
			if prefix == prefixMade {
				var x made
				err := decodeItem(item, &x)
				used[x.Sealed.KEK] = true
				return err
			}
			var x stored
			err := decodeItem(item, &x)
			used[x.Sealed.KEK] = true
			return err
		})
		if err != nil {
			return kv.Write{}, nil, false, err
		}
	}
	kept := slices.DeleteFunc(slices.Clone(m.KEKs), func(name string) bool { return !used[name] })
	changes = len(kept) != len(m.KEKs)
	m.KEKs = kept
	return kv.Write{Key: item.Key, Value: encodeJSON(m)}, kept, changes, nil
}
