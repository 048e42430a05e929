package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/kv"
)

// ErrNotMade says that no such key waits, or that its time is over.
var ErrNotMade = errors.New("no key of this name was made, or its time is over")

const (
	prefixMade   = "made/"
	madeKeyLabel = "rootvouch kms made key v1"
	// MadeLife is how long a made key waits for its disk.
	MadeLife = 7 * 24 * time.Hour
)

// made is a key that waits for its disk.
type made struct {
	Made   time.Time  `json:"made"` // UTC
	Sealed kek.Sealed `json:"sealed"`
}

// KeyMade is the store's key of a disk key that waits for its disk.
func KeyMade(id string) string { return prefixMade + id }

// CheckMadeID returns an error unless id is valid for a made key: 32 hex digits.
func CheckMadeID(id string) error {
	if b, err := hex.DecodeString(id); err != nil || len(b) != 16 || hex.EncodeToString(b) != id {
		return fmt.Errorf("name of a key is %.40q, want 32 lower-case hex digits", id)
	}
	return nil
}

// MakeKey makes a key, and the item in which the key waits for its disk. The caller wipes the
// key.
func (s *Store) MakeKey(now time.Time) (id string, key []byte, write kv.Write, err error) {
	var name [16]byte
	key = make([]byte, keyapi.KeySize)
	for _, b := range [][]byte{name[:], key} {
		if _, err := io.ReadFull(s.rand, b); err != nil {
			return "", nil, kv.Write{}, fmt.Errorf("making a key: %w", err)
		}
	}
	id = hex.EncodeToString(name[:])
	sealed, err := s.kek.Seal(s.rand, key, s.aboutMade(id))
	if err != nil {
		clear(key)
		return "", nil, kv.Write{}, err
	}
	return id, key, kv.Write{Key: KeyMade(id), Value: encodeJSON(made{now, sealed})}, nil
}

// MadeKey opens the item of a waiting key. The error matches ErrNotMade. The caller wipes the
// key.
func (s *Store) MadeKey(item kv.Item, now time.Time) ([]byte, error) {
	if item.Mod == 0 {
		return nil, ErrNotMade
	}
	var m made
	if err := decodeItem(item, &m); err != nil {
		return nil, err
	}
	if now.Sub(m.Made) > MadeLife {
		return nil, ErrNotMade
	}
	return s.kek.Open(m.Sealed, s.aboutMade(item.Key[len(prefixMade):]))
}

func (s *Store) aboutMade(id string) kek.AAD {
	return kek.About(madeKeyLabel, []byte(s.meta.Cluster), []byte(id))
}

// OldMade returns writes that remove a few keys whose time is over.
func (s *Store) OldMade(ctx context.Context, now time.Time) ([]kv.Write, error) {
	const some = 50
	items, err := s.Engine.List(ctx, prefixMade, "", some)
	if err != nil {
		return nil, err
	}
	var writes []kv.Write
	for _, item := range items {
		var m made
		if err := decodeItem(item, &m); err != nil {
			return nil, err
		}
		if now.Sub(m.Made) > MadeLife {
			writes = append(writes, kv.Write{Key: item.Key, Delete: true})
		}
	}
	return writes, nil
}

// resealMade seals the item of a waiting key under the current key-encryption key.
func (s *Store) resealMade(item kv.Item) (kv.Write, bool, error) {
	var m made
	if err := decodeItem(item, &m); err != nil {
		return kv.Write{}, false, err
	}
	if m.Sealed.KEK == s.kek.Current() {
		return kv.Write{}, false, nil
	}
	about := s.aboutMade(item.Key[len(prefixMade):])
	key, err := s.kek.Open(m.Sealed, about)
	if err != nil {
		return kv.Write{}, false, err
	}
	defer clear(key)
	if m.Sealed, err = s.kek.Seal(s.rand, key, about); err != nil {
		return kv.Write{}, false, err
	}
	return kv.Write{Key: item.Key, Value: encodeJSON(m)}, true, nil
}
