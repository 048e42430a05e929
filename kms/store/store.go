// Package store defines what the key server's store holds, and reads it.
//
// An engine (package kv) keeps these keys. Only package ledger changes them:
//
//	meta                      what Create made: the log's name and the cluster's keys
//	epoch                     nothing; written with every change of a record
//	rec/DISK                  a Record, and its key sealed with it
//	next/DISK                 a staged Record: it replaces rec/DISK when a boot has confirmed it
//	old/DISK/GENERATION       a Record that is no longer in force, and can be restored
//	made/ID                   a key that the server made, sealed, until its disk is registered
//	count                     the number of disks with a record
//	use/DISK                  a Use: releases of the last hour, if the record has a limit
//	by/SHA-256 OF ID/DISK     no value; index of the records with a SPIFFE ID
//	vol/DISK                  a Volume: the known state of a writable volume
//	gen/DISK                  the newest generation; it outlives the record
//	lease/DISK/LAUNCH         a Lease: this launch has had the disk's key
//	blob/SHA-256/CHUNK        reference values, certificates, CRLs: once for each content
//	lane/LANE                 a Lane: the end of a replica's lane of the log
//	seg/LANE/SEQUENCE         a Segment: leaves that are not in the log yet
//	ckpt                      a Checkpoint: the published state of the log
//	copy/REPLICA              a Copy: the state of a replica's directory of the log
//	copies                    no value; written when a copy is added or removed
//	replica/REPLICA           a Replica: a live server, and its clock
//
// Without the key-encryption key nobody can read a key or change a record, because each key is
// sealed together with its whole record. But an attacker who can write the store can put back
// an older copy of it, or delete leases. An older store alone is detected at the next start,
// when the server compares it with the log.
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

// Store reads the key server's store. Its methods may be called from several goroutines.
type Store struct {
	Engine kv.Engine

	kek  *kek.Ring
	meta meta
	keys Keys
	rand io.Reader

	blobs   sync.Map // :: SHA-256 of a stored blob -> nothing
	records decoded
}

// On returns the same store over another engine that keeps the same items.
func (s *Store) On(e kv.Engine) *Store {
	return &Store{Engine: e, kek: s.kek, meta: s.meta, keys: s.keys, rand: s.rand}
}

// Keys of single items.
const (
	KeyEpoch      = "epoch"
	KeyCheckpoint = "ckpt"
	KeyCount      = "count"
	KeyMeta       = "meta"

	prefixNext = "next/"
	prefixRec  = "rec/"
	prefixBlob = "blob/"
)

// KeyRecord is the key of a disk's record.
func KeyRecord(disk pins.UUID) string { return prefixRec + disk.String() }

// KeyStaged is the key of a disk's staged record.
func KeyStaged(disk pins.UUID) string { return prefixNext + disk.String() }

// KeyKept is the key of a disk's record that is no longer in force.
func KeyKept(disk pins.UUID, generation uint64) string {
	return fmt.Sprintf("%s%020d", prefixKept(disk), generation)
}

// prefixOld is the prefix of all records that are no longer in force.
const prefixOld = "old/"

func prefixKept(disk pins.UUID) string { return prefixOld + disk.String() + "/" }

// KeyGeneration is the key of a disk's newest generation.
func KeyGeneration(disk pins.UUID) string { return "gen/" + disk.String() }

// KeyCaller is the key of the index entry from a SPIFFE ID to a disk's record.
func KeyCaller(id spiffeid.ID, disk pins.UUID) string { return prefixCaller(id) + disk.String() }

func prefixCaller(id spiffeid.ID) string {
	sum := sha256.Sum256([]byte(id.String()))
	return "by/" + hex.EncodeToString(sum[:]) + "/"
}

// Get returns the record of a disk. The error matches ErrNotFound if there is none.
func (s *Store) Get(ctx context.Context, disk pins.UUID) (Record, error) {
	items, err := s.Engine.Get(ctx, KeyRecord(disk))
	if err != nil {
		return Record{}, err
	}
	return RecordOf(items[0], disk)
}

// RecordOf decodes the item of a disk's record: its own, a staged one, or a kept one. The error
// matches ErrNotFound if there is none.
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
		return Record{}, fmt.Errorf("disk %s: record of generation %d is under the wrong key", disk, r.Generation)
	}
	r.item, r.mod = item.Key, item.Mod
	return r, nil
}

// Both returns the record of a disk and its staged record. Either may be missing (nil). The
// error matches ErrNotFound if both are.
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

// KeptOf returns the records of a disk that are no longer in force, oldest generation first.
func (s *Store) KeptOf(ctx context.Context, disk pins.UUID) ([]Record, error) {
	return s.kept(ctx, prefixKept(disk), "", 0)
}

// KeptAfter returns at most limit records of all disks that are no longer in force, and come
// after the given key.
func (s *Store) KeptAfter(ctx context.Context, after string, limit int) ([]Record, error) {
	return s.kept(ctx, prefixOld, after, limit)
}

// maxKept bounds how many kept records of one disk are read at once.
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

// Mod returns the revision of the transaction that wrote the record.
func (r Record) Mod() int64 { return r.mod }

// List returns at most limit records of disks whose UUID comes after the given one. The zero
// UUID is before all.
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

// ByCaller returns the records with a SPIFFE ID, staged ones included.
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

// KnowsCaller reports whether any record has this SPIFFE ID.
func (s *Store) KnowsCaller(ctx context.Context, id spiffeid.ID) (bool, error) {
	items, err := s.Engine.List(ctx, prefixCaller(id), "", 1)
	return len(items) > 0, err
}

// Key returns the key that was registered with exactly the record r. r must come from one of
// the methods above. The error matches kek.ErrWrongKey if the record was changed in the store.
// The caller wipes the key.
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

// about is the associated data of the seal of a record's key.
func (s *Store) about(r Record) kek.AAD {
	return kek.About(recordLabel, []byte(s.meta.Cluster), r.encode())
}

// Seal makes the item of a record and its key, at the store's key at. It sets r.Version.
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

// Keep makes the item of a record that is no longer in force, with its key.
func Keep(r Record, k Kept) kv.Write {
	return kv.Write{Key: KeyKept(r.DiskUUID, r.Generation), Value: encodeJSON(stored{Record: r.encode(), Sealed: r.sealed, Kept: &k})}
}

// CountOf decodes the item of a number. Without an item it returns 0.
func CountOf(item kv.Item) (uint64, error) { return GenerationOf(item) }

// SetCount makes the item with the number of disks that have a record.
func SetCount(n uint64) kv.Write {
	return kv.Write{Key: KeyCount, Value: strconv.AppendUint(nil, n, 10)}
}

// Count returns the number of disks that have a record.
func (s *Store) Count(ctx context.Context) (uint64, error) {
	items, err := s.Engine.Get(ctx, KeyCount)
	if err != nil {
		return 0, err
	}
	return CountOf(items[0])
}

// GenerationOf decodes the item of a disk's newest generation. Without an item it returns 0.
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

// encodeJSON encodes a value of this package.
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
