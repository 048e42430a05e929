// Package boltkv keeps the key server's store in one bbolt file.
//
// Every item has a checksum over its key, revision and value. The file also has the number of
// items and the sum of their checksums. Open reads the whole file. It refuses a file in which a
// bit was changed, or in which a page is older than the others.
package boltkv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"syscall"

	"go.etcd.io/bbolt"

	"github.com/rootvouch/rootvouch/kms/kv"
)

var (
	bucketItems = []byte("items") // :: key -> revision, checksum, value
	bucketMeta  = []byte("meta")

	metaFormat = []byte("format") // :: the label fileFormat
	metaState  = []byte("state")  // :: a state, packed as an item is
)

const (
	fileFormat = "rootvouch kms store v3"
	// overhead is the size of the fields before an item's value: revision (8 bytes), checksum (4).
	overhead = 12
)

// Store is an open store file.
type Store struct {
	path string
	db   *bbolt.DB
	file *os.File // the file that db has open

	mu     sync.Mutex // guards broken
	broken error
	failed chan struct{} // closed when broken is set
}

var _ kv.Engine = (*Store)(nil)

// Failed returns a channel that is closed when the store breaks. From then on every error
// matches kv.ErrBroken.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// breaks marks the store as broken. The first reason counts.
func (s *Store) breaks(reason error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken = fmt.Errorf("store %s: %w: %v", s.path, kv.ErrBroken, reason)
		close(s.failed)
	}
	return s.broken
}

// Broken returns why the store is unusable, or nil.
func (s *Store) Broken() error { return s.usable() }

func (s *Store) usable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// Commit implements kv.Engine. Any failure of the disk, except a full one, breaks the store:
// after a failed sync the kernel may have dropped written data, and a later sync would report
// success.
func (s *Store) Commit(_ context.Context, conditions []kv.Cond, writes []kv.Write) (int64, error) {
	if err := kv.Check(conditions, writes); err != nil {
		return 0, err
	}
	if err := s.usable(); err != nil {
		return 0, err
	}
	if err := s.inPlace(); err != nil {
		return 0, s.breaks(err)
	}
	holds, revision := false, int64(0)
	err := s.update(func(tx *bbolt.Tx) error {
		items := tx.Bucket(bucketItems)
		for _, c := range conditions {
			now, _, err := get(items, c.Key)
			if err != nil {
				return err
			}
			if now != c.Mod {
				return errConditions
			}
		}
		holds = true
		var err error
		revision, err = apply(tx, items, writes)
		return err
	})
	switch {
	case err == nil:
		return revision, nil
	case errors.Is(err, errConditions):
		return 0, nil
	case errors.Is(err, errDamaged):
		return 0, s.breaks(err)
	case full(err):
		return 0, fmt.Errorf("store %s: %w: %v", s.path, kv.ErrFull, err)
	case holds:
		return 0, fmt.Errorf("%w: %w", kv.ErrUnknown, s.breaks(err))
	}
	return 0, s.breaks(err)
}

var (
	errConditions = errors.New("conditions do not hold")
	errDamaged    = errors.New("file was damaged")
)

// full reports whether a write found no room, which bbolt undoes. ENOSPC from a sync is
// different: it has lost data. bbolt does not type all these errors: growing the file fails
// with a text.
func full(err error) bool {
	in, ok := errors.AsType[*os.PathError](err)
	return ok && in.Op == "write" && (errors.Is(in.Err, syscall.ENOSPC) || errors.Is(in.Err, syscall.EDQUOT))
}

func apply(tx *bbolt.Tx, items *bbolt.Bucket, writes []kv.Write) (int64, error) {
	meta := tx.Bucket(bucketMeta)
	s, err := decodeState(meta.Get(metaState))
	if err != nil {
		return 0, err
	}
	s.rev++
	for _, w := range writes {
		key := []byte(w.Key)
		had := items.Get(key)
		if _, _, err := unpack(key, had); err != nil {
			return 0, err
		}
		if had != nil {
			s.count, s.sum = s.count-1, s.sum-sumOf(had)
		}
		switch {
		case w.Delete && had != nil:
			err = items.Delete(key)
		case !w.Delete:
			item := pack(key, s.rev, w.Value)
			s.count, s.sum = s.count+1, s.sum+sumOf(item)
			err = items.Put(key, item)
		}
		if err != nil {
			return 0, err
		}
	}
	return int64(s.rev), meta.Put(metaState, s.encode())
}

// state is the state after the newest transaction, or the sum over some items.
type state struct {
	rev   uint64 // the transaction's revision, or the highest of the items
	count uint64 // number of items
	sum   uint64 // sum of the items' checksums, modulo 2^64
}

func (s *state) add(t state) {
	s.rev, s.count, s.sum = max(s.rev, t.rev), s.count+t.count, s.sum+t.sum
}

// encode packs a state with a checksum of its own.
func (s state) encode() []byte {
	value := binary.BigEndian.AppendUint64(nil, s.count)
	return pack(metaState, s.rev, binary.BigEndian.AppendUint64(value, s.sum))
}

func decodeState(data []byte) (state, error) {
	rev, value, err := unpack(metaState, data)
	if err == nil && len(value) != 16 {
		err = fmt.Errorf("state has %d bytes, want 16: %w", len(value), errDamaged)
	}
	if err != nil {
		return state{}, err
	}
	return state{uint64(rev), binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[8:])}, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key, mod, value []byte) uint32 {
	var size [4]byte
	binary.BigEndian.PutUint32(size[:], uint32(len(key)))
	sum := crc32.Update(crc32.Update(0, castagnoli, size[:]), castagnoli, key)
	return crc32.Update(crc32.Update(sum, castagnoli, mod), castagnoli, value)
}

func pack(key []byte, mod uint64, value []byte) []byte {
	out := binary.BigEndian.AppendUint64(make([]byte, 0, overhead+len(value)), mod)
	out = binary.BigEndian.AppendUint32(out, checksum(key, out, value))
	return append(out, value...)
}

// unpack reads what pack made. mod is 0 if there is no item. The value points into data.
func unpack(key, data []byte) (mod int64, value []byte, err error) {
	if data == nil {
		return 0, nil, nil
	}
	if len(data) < overhead || checksum(key, data[:8], data[overhead:]) != binary.BigEndian.Uint32(data[8:]) {
		return 0, nil, fmt.Errorf("item %q: its checksum is wrong: %w", key, errDamaged)
	}
	return int64(binary.BigEndian.Uint64(data)), data[overhead:], nil
}

// sumOf is the checksum of an item that unpack has read, for the state's sum.
func sumOf(data []byte) uint64 { return uint64(binary.BigEndian.Uint32(data[8:])) }

// get finds an item.
func get(items *bbolt.Bucket, key string) (mod int64, value []byte, err error) {
	k := []byte(key)
	return unpack(k, items.Get(k))
}

// Get implements kv.Engine.
func (s *Store) Get(_ context.Context, keys ...string) ([]kv.Item, error) {
	if len(keys) > kv.MaxOps {
		return nil, fmt.Errorf("reading %d keys, want at most %d", len(keys), kv.MaxOps)
	}
	all := make([]kv.Item, len(keys))
	err := s.view(func(tx *bbolt.Tx) error {
		items := tx.Bucket(bucketItems)
		for i, key := range keys {
			mod, value, err := get(items, key)
			if err != nil {
				return err
			}
			all[i] = kv.Item{Key: key, Value: bytes.Clone(value), Mod: mod}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// List implements kv.Engine.
func (s *Store) List(_ context.Context, prefix, after string, limit int) ([]kv.Item, error) {
	var all []kv.Item
	err := s.view(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucketItems).Cursor()
		for k, v := cursor.Seek([]byte(max(prefix, after))); k != nil && bytes.HasPrefix(k, []byte(prefix)) && len(all) < limit; k, v = cursor.Next() {
			if string(k) == after {
				continue
			}
			mod, value, err := unpack(k, v)
			if err != nil {
				return err
			}
			all = append(all, kv.Item{Key: string(k), Value: bytes.Clone(value), Mod: mod})
		}
		return nil
	})
	return all, err
}

// Revision implements kv.Engine.
func (s *Store) Revision(context.Context) (rev int64, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		s, err := decodeState(tx.Bucket(bucketMeta).Get(metaState))
		rev = int64(s.rev)
		return err
	})
	return rev, err
}

// view runs a read transaction. A damaged file breaks the store.
func (s *Store) view(read func(*bbolt.Tx) error) error {
	if err := s.usable(); err != nil {
		return err
	}
	err := guarded(func() error { return s.db.View(read) })
	if errors.Is(err, errDamaged) {
		return s.breaks(err)
	}
	return err
}

func (s *Store) update(change func(*bbolt.Tx) error) error {
	return guarded(func() error { return s.db.Update(change) })
}

// guarded turns a fault of bbolt into an error. On a damaged or shortened file bbolt panics, or
// reads memory beyond the file's end.
func guarded(f func() error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(before)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return f()
}

// inPlace returns an error unless the open file is still the one at its path, and complete.
func (s *Store) inPlace() error {
	open, err := s.file.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(s.path)
	switch {
	case err != nil:
		return fmt.Errorf("file was moved away: %v", err)
	case !os.SameFile(open, named):
		return errors.New("another file is at its path")
	}
	_, _, err = metas(s.file)
	return err
}

// Backup writes a copy of the file as it stands at one moment. The store stays in use
// meanwhile.
func (s *Store) Backup(w io.Writer) error {
	return s.view(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
}

// Size returns the file's size in bytes.
func (s *Store) Size() (int64, error) {
	info, err := s.file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Close implements kv.Engine.
func (s *Store) Close() error {
	if s.usable() != nil {
		return s.letGo()
	}
	return s.db.Close()
}
