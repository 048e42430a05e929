// Package store says what the key server's book holds, and reads it.
//
// The book is kept by an engine (package kv), under these keys; package ledger is the only
// one to change it:
//
//	meta                      what Create made: the log's name and the cluster's keys
//	epoch                     nothing; written with every change of a record
//	rec/DISK                  a Record, and its key sealed with it
//	next/DISK                 one that is to take its place when a boot has confirmed it
//	old/DISK/GENERATION       one that counts no more, and can be brought back
//	made/ID                   a key that was made here, sealed, until its disk is registered
//	count                     how many disks have a record
//	use/DISK                  a Use: how often a key was released lately, where that is bounded
//	by/SHA-256 OF ID/DISK     nothing: which records name a SPIFFE ID
//	vol/DISK                  a Volume: what is known of its contents, where it is written
//	gen/DISK                  the newest generation; it outlives the record
//	lease/DISK/LAUNCH         a Lease: this launch has had the disk's key
//	blob/SHA-256/CHUNK        reference values, certificates, CRLs: once for each content
//	lane/LANE                 a Lane: the end of a replica's lane of the log
//	seg/LANE/SEQUENCE         a Segment: leaves that are not in the log yet
//	ckpt                      a Checkpoint: what the log has
//	copy/REPLICA              a Copy: what a replica's directory has of it
//	copies                    nothing; written when a copy comes or goes
//	replica/REPLICA           a Replica: a server that lives, and its clock
//
// What it protects: without the key-encryption key nobody reads a key, and nobody changes
// a record, because each key is sealed together with its whole record. What it does not
// protect: whoever can write the book can put back an older copy of it, or delete leases.
// An older book by itself shows at the next start, when it is held against the log.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/pins"
)

// ErrNotFound says that there is no record for a disk.
var ErrNotFound = errors.New("no record for this disk")

// Store reads the book. Its methods may be called from several goroutines.
type Store struct {
	Engine kv.Engine

	kek  *kek.Ring
	meta meta
	keys Keys
	rand io.Reader

	blobs   sync.Map // :: SHA-256 of a blob that is there -> nothing
	records decoded
}

// On is the same store over another engine that keeps the same book.
func (s *Store) On(e kv.Engine) *Store {
	return &Store{Engine: e, kek: s.kek, meta: s.meta, keys: s.keys, rand: s.rand}
}

// Keys of items with one place.
const (
	KeyEpoch      = "epoch"
	KeyCheckpoint = "ckpt"
	KeyCount      = "count"
	KeyMeta       = "meta"

	prefixNext = "next/"
	prefixRec  = "rec/"
	prefixBlob = "blob/"
)

// KeyRecord is where the record of a disk is.
func KeyRecord(disk pins.UUID) string { return prefixRec + disk.String() }

// KeyStaged is where a record is that is to take the place of the disk's own.
func KeyStaged(disk pins.UUID) string { return prefixNext + disk.String() }

// KeyKept is where a record of a disk is that counts no more.
func KeyKept(disk pins.UUID, generation uint64) string {
	return fmt.Sprintf("%s%020d", prefixKept(disk), generation)
}

// prefixOld is where all records are that count no more.
const prefixOld = "old/"

func prefixKept(disk pins.UUID) string { return prefixOld + disk.String() + "/" }

// KeyGeneration is where the newest generation of a disk is.
func KeyGeneration(disk pins.UUID) string { return "gen/" + disk.String() }

// KeyCaller is where the index says that a disk's record names a SPIFFE ID.
func KeyCaller(id spiffeid.ID, disk pins.UUID) string { return prefixCaller(id) + disk.String() }

func prefixCaller(id spiffeid.ID) string {
	sum := sha256.Sum256([]byte(id.String()))
	return "by/" + hex.EncodeToString(sum[:]) + "/"
}

// Get returns the record of a disk. The error matches ErrNotFound when there is none.
func (s *Store) Get(ctx context.Context, disk pins.UUID) (Record, error) {
	items, err := s.Engine.Get(ctx, KeyRecord(disk))
	if err != nil {
		return Record{}, err
	}
	return RecordOf(items[0], disk)
}

// RecordOf reads the item of a disk's record: its own, one that is staged, or one that is
// kept. The error matches ErrNotFound when there is none.
func RecordOf(item kv.Item, disk pins.UUID) (Record, error) {
	if item.Mod == 0 {
		return Record{}, ErrNotFound
	}
	r, err := decodeStored(item.Value)
	if err != nil {
		return Record{}, fmt.Errorf("disk %s: %w", disk, err)
	}
	if r.DiskUUID != disk {
		return Record{}, fmt.Errorf("disk %s: record is for disk %s", disk, r.DiskUUID)
	}
	if old := strings.HasPrefix(item.Key, prefixOld); old != (r.kept != nil) || old && item.Key != KeyKept(disk, r.Generation) {
		return Record{}, fmt.Errorf("disk %s: record of generation %d is at another place than it belongs", disk, r.Generation)
	}
	r.item, r.mod = item.Key, item.Mod
	return r, nil
}

// Both returns the record of a disk, and the one that is staged to take its place; either
// may be missing (nil). The error matches ErrNotFound when both are.
func (s *Store) Both(ctx context.Context, disk pins.UUID) (current, staged *Record, err error) {
	items, err := s.Engine.Get(ctx, KeyRecord(disk), KeyStaged(disk))
	if err != nil {
		return nil, nil, err
	}
	found := [2]*Record{}
	for i, item := range items {
		switch r, err := s.records.recordOf(item, disk); {
		case err == nil:
			found[i] = &r
		case !errors.Is(err, ErrNotFound):
			return nil, nil, err
		}
	}
	if found[0] == nil && found[1] == nil {
		return nil, nil, ErrNotFound
	}
	return found[0], found[1], nil
}

// KeptOf returns the records of a disk that count no more, the oldest generation first.
func (s *Store) KeptOf(ctx context.Context, disk pins.UUID) ([]Record, error) {
	return s.kept(ctx, prefixKept(disk), "", 0)
}

// KeptAfter returns at most limit records of all disks that count no more, which come after
// one.
func (s *Store) KeptAfter(ctx context.Context, after string, limit int) ([]Record, error) {
	return s.kept(ctx, prefixOld, after, limit)
}

// maxKept bounds how many records of one disk are read at once.
const maxKept = 1000

func (s *Store) kept(ctx context.Context, prefix, after string, limit int) ([]Record, error) {
	if limit == 0 {
		limit = maxKept
	}
	items, err := s.Engine.List(ctx, prefix, after, limit)
	if err != nil {
		return nil, err
	}
	var all []Record
	for _, item := range items {
		name, _, _ := strings.Cut(item.Key[len(prefixOld):], "/")
		disk, err := pins.ParseUUID(name)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", item.Key, err)
		}
		r, err := RecordOf(item, disk)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// Mod is the revision of the transaction that wrote the record.
func (r Record) Mod() int64 { return r.mod }

// List returns at most limit records of disks whose UUID comes after another; the zero UUID
// is before all.
func (s *Store) List(ctx context.Context, after pins.UUID, limit int) ([]Record, error) {
	from := ""
	if after != (pins.UUID{}) {
		from = KeyRecord(after)
	}
	items, err := s.Engine.List(ctx, prefixRec, from, limit)
	if err != nil {
		return nil, err
	}
	var all []Record
	for _, item := range items {
		disk, err := pins.ParseUUID(item.Key[len(prefixRec):])
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", item.Key, err)
		}
		r, err := RecordOf(item, disk)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// ByCaller returns the records that name a SPIFFE ID, those that are staged as well.
func (s *Store) ByCaller(ctx context.Context, id spiffeid.ID) ([]Record, error) {
	var found []Record
	prefix := prefixCaller(id)
	err := kv.Each(ctx, s.Engine, prefix, func(item kv.Item) error {
		disk, err := pins.ParseUUID(item.Key[len(prefix):])
		if err != nil {
			return fmt.Errorf("key %q: %w", item.Key, err)
		}
		current, staged, err := s.Both(ctx, disk)
		if errors.Is(err, ErrNotFound) {
			return nil // deleted meanwhile
		}
		for _, r := range []*Record{current, staged} {
			if r != nil && r.SPIFFEID == id {
				found = append(found, *r)
			}
		}
		return err
	})
	return found, err
}

// KnowsCaller reports whether any record names a SPIFFE ID.
func (s *Store) KnowsCaller(ctx context.Context, id spiffeid.ID) (bool, error) {
	items, err := s.Engine.List(ctx, prefixCaller(id), "", 1)
	return len(items) > 0, err
}

// Key returns the key that was registered with exactly the record r, which one of the
// methods above has returned. The error matches kek.ErrWrongKey when the record was changed
// in the store. The caller wipes the key.
func (s *Store) Key(r Record) ([]byte, error) {
	key, err := s.kek.Open(r.sealed, s.about(r))
	if err != nil {
		return nil, fmt.Errorf("opening the key of disk %s: %w", r.DiskUUID, err)
	}
	if len(key) != keyapi.KeySize {
		clear(key)
		return nil, fmt.Errorf("opening the key of disk %s: it has %d bytes, want %d", r.DiskUUID, len(key), keyapi.KeySize)
	}
	return key, nil
}

// about is what a record's key is sealed with.
func (s *Store) about(r Record) kek.AAD {
	return kek.About(recordLabel, []byte(s.meta.Cluster), r.encode())
}

// Seal makes the item of a record with its key, at a key of the book; r.Version is set here.
func (s *Store) Seal(at string, r Record, key []byte) (kv.Write, error) {
	r.Version = recordVersion
	if err := r.Check(); err != nil {
		return kv.Write{}, fmt.Errorf("putting a record: %v", err)
	}
	if len(key) != keyapi.KeySize {
		return kv.Write{}, fmt.Errorf("putting a record: key has %d bytes, want %d", len(key), keyapi.KeySize)
	}
	data := r.encode()
	if again, err := decodeRecord(data); err != nil || string(again.encode()) != string(data) {
		return kv.Write{}, fmt.Errorf("putting a record: it does not read back the same: %v", err)
	}
	sealed, err := s.kek.Seal(s.rand, key, s.about(r))
	if err != nil {
		return kv.Write{}, err
	}
	return kv.Write{Key: at, Value: encodeJSON(stored{Record: data, Sealed: sealed})}, nil
}

// Keep makes the item of a record that counts no more, as it is, with its key.
func Keep(r Record, k Kept) kv.Write {
	return kv.Write{Key: KeyKept(r.DiskUUID, r.Generation), Value: encodeJSON(stored{Record: r.encode(), Sealed: r.sealed, Kept: &k})}
}

// CountOf reads the item of a number, 0 where there is none.
func CountOf(item kv.Item) (uint64, error) { return GenerationOf(item) }

// SetCount makes the item of how many disks have a record.
func SetCount(n uint64) kv.Write {
	return kv.Write{Key: KeyCount, Value: strconv.AppendUint(nil, n, 10)}
}

// Count is how many disks have a record.
func (s *Store) Count(ctx context.Context) (uint64, error) {
	items, err := s.Engine.Get(ctx, KeyCount)
	if err != nil {
		return 0, err
	}
	return CountOf(items[0])
}

// GenerationOf reads the item of a disk's newest generation, 0 where there was none.
func GenerationOf(item kv.Item) (uint64, error) {
	if item.Mod == 0 {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(item.Value), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("key %q: %w", item.Key, err)
	}
	return n, nil
}

// SetGeneration makes the item of a disk's newest generation.
func SetGeneration(disk pins.UUID, n uint64) kv.Write {
	return kv.Write{Key: KeyGeneration(disk), Value: strconv.AppendUint(nil, n, 10)}
}

// encodeJSON writes a value of this package.
func encodeJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic("store: internal error: " + err.Error())
	}
	return data
}

// decodeItem reads the JSON value of an item.
func decodeItem(item kv.Item, v any) error {
	if err := strictjson.Unmarshal(item.Value, v); err != nil {
		return fmt.Errorf("key %q: %v", item.Key, err)
	}
	return nil
}
