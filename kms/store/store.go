package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.etcd.io/bbolt"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

// ErrNotFound says that there is no record for a disk.
var ErrNotFound = errors.New("no record for this disk")

// Get returns the record of a disk. The error matches ErrNotFound when there is
// none.
func (s *Store) Get(disk pins.UUID) (Record, error) {
	var r Record
	err := s.db.View(func(tx *bbolt.Tx) (err error) {
		r, err = get(tx, disk)
		return err
	})
	return r, err
}

func get(tx *bbolt.Tx, disk pins.UUID) (Record, error) {
	data := tx.Bucket([]byte(bucketRecords)).Get(disk[:])
	if data == nil {
		return Record{}, ErrNotFound
	}
	r, err := decodeRecord(data)
	if err != nil {
		return Record{}, fmt.Errorf("disk %s: %w", disk, err)
	}
	if r.DiskUUID != disk {
		return Record{}, fmt.Errorf("disk %s: record is for disk %s", disk, r.DiskUUID)
	}
	return r, nil
}

// List returns all records, by disk UUID.
func (s *Store) List() ([]Record, error) {
	var all []Record
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketRecords)).ForEach(func(disk, _ []byte) error {
			r, err := get(tx, pins.UUID(disk))
			all = append(all, r)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Current reports whether r is still the record of its disk, with nothing changed.
func (s *Store) Current(r Record) (bool, error) {
	var same bool
	err := s.db.View(func(tx *bbolt.Tx) error {
		same = bytes.Equal(tx.Bucket([]byte(bucketRecords)).Get(r.DiskUUID[:]), r.encode())
		return nil
	})
	return same, err
}

// ByCaller returns the records that name a SPIFFE ID.
func (s *Store) ByCaller(id spiffeid.ID) ([]Record, error) {
	var found []Record
	err := s.db.View(func(tx *bbolt.Tx) (err error) {
		found, err = byCaller(tx, id)
		return err
	})
	return found, err
}

func byCaller(tx *bbolt.Tx, id spiffeid.ID) ([]Record, error) {
	var found []Record
	prefix := append([]byte(id.String()), 0)
	cursor := tx.Bucket([]byte(bucketCallers)).Cursor()
	for k, _ := cursor.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = cursor.Next() {
		r, err := get(tx, pins.UUID(k[len(prefix):]))
		if err != nil {
			return nil, err
		}
		found = append(found, r)
	}
	return found, nil
}

// KnowsCaller reports whether any record names a SPIFFE ID.
func (s *Store) KnowsCaller(id spiffeid.ID) (bool, error) {
	var known bool
	err := s.db.View(func(tx *bbolt.Tx) error {
		prefix := append([]byte(id.String()), 0)
		k, _ := tx.Bucket([]byte(bucketCallers)).Cursor().Seek(prefix)
		known = bytes.HasPrefix(k, prefix)
		return nil
	})
	return known, err
}

// Key returns the key that was registered with exactly the record r. The error
// matches kek.ErrWrongKey when the record is another by now, or was changed in the
// file. The caller wipes the key.
func (s *Store) Key(r Record) ([]byte, error) {
	var key []byte
	err := s.db.View(func(tx *bbolt.Tx) (err error) {
		sealed := tx.Bucket([]byte(bucketKeys)).Get(r.DiskUUID[:])
		if key, err = s.kek.Open(sealed, kek.About(recordLabel, r.encode())); err != nil {
			return fmt.Errorf("opening the key of disk %s: %w", r.DiskUUID, err)
		}
		return nil
	})
	if err == nil && len(key) != keyapi.KeySize {
		clear(key)
		return nil, fmt.Errorf("opening the key of disk %s: it has %d bytes, want %d", r.DiskUUID, len(key), keyapi.KeySize)
	}
	return key, err
}

// Values returns the refval.json that was registered with the record r, or nil
// when there is none.
func (s *Store) Values(r Record) ([]byte, error) {
	if r.ReferenceValues == (pins.Digest{}) {
		return nil, nil
	}
	var values []byte
	err := s.db.View(func(tx *bbolt.Tx) error {
		values = bytes.Clone(tx.Bucket([]byte(bucketValues)).Get(r.DiskUUID[:]))
		return nil
	})
	if got := pins.Digest(sha256.Sum256(values)); err == nil && got != r.ReferenceValues {
		return nil, fmt.Errorf("reading the reference values of disk %s: SHA-256 is %s, want %s", r.DiskUUID, got, r.ReferenceValues)
	}
	return values, err
}

// NextGeneration is the generation of the next record for a disk.
func (s *Store) NextGeneration(disk pins.UUID) (uint64, error) {
	var next uint64
	err := s.db.View(func(tx *bbolt.Tx) error {
		next = generation(tx, disk) + 1
		return nil
	})
	return next, err
}

func generation(tx *bbolt.Tx, disk pins.UUID) uint64 {
	value := tx.Bucket([]byte(bucketGenerations)).Get(disk[:])
	if len(value) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(value)
}

// Put registers r, its refval.json (nil where there is none) and its key, in place
// of what the disk had, and head with them. r.Generation must be the
// NextGeneration; r.Version and r.ReferenceValues are set here.
func (s *Store) Put(r Record, values, key []byte, head audit.Head) error {
	r.Version = recordVersion
	if r.ReferenceValues = (pins.Digest{}); values != nil {
		r.ReferenceValues = sha256.Sum256(values)
	}
	if err := r.Check(); err != nil {
		return fmt.Errorf("putting a record: %v", err)
	}
	if len(key) != keyapi.KeySize {
		return fmt.Errorf("putting a record: key has %d bytes, want %d", len(key), keyapi.KeySize)
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		if got, want := r.Generation, generation(tx, r.DiskUUID)+1; got != want {
			return fmt.Errorf("putting a record: generation is %d, want %d", got, want)
		}
		if err := forget(tx, r.DiskUUID); err != nil {
			return err
		}
		number := binary.BigEndian.AppendUint64(nil, r.Generation)
		if err := tx.Bucket([]byte(bucketGenerations)).Put(r.DiskUUID[:], number); err != nil {
			return err
		}
		if values != nil {
			if err := tx.Bucket([]byte(bucketValues)).Put(r.DiskUUID[:], values); err != nil {
				return err
			}
		}
		if err := s.put(tx, r, key); err != nil {
			return err
		}
		return putHead(tx, head)
	})
}

// put writes a record and its key, sealed with it.
func (s *Store) put(tx *bbolt.Tx, r Record, key []byte) error {
	data := r.encode()
	if again, err := decodeRecord(data); err != nil || !bytes.Equal(again.encode(), data) {
		return fmt.Errorf("putting a record: it does not read back the same: %v", err)
	}
	sealed, err := s.kek.Seal(s.rand, key, kek.About(recordLabel, data))
	if err != nil {
		return err
	}
	if err := tx.Bucket([]byte(bucketRecords)).Put(r.DiskUUID[:], data); err != nil {
		return err
	}
	if err := tx.Bucket([]byte(bucketKeys)).Put(r.DiskUUID[:], sealed); err != nil {
		return err
	}
	return tx.Bucket([]byte(bucketCallers)).Put(callerKey(r), nil)
}

func callerKey(r Record) []byte {
	return append(append([]byte(r.SPIFFEID.String()), 0), r.DiskUUID[:]...)
}

// forget removes a disk's record, key and reference values if there are any.
func forget(tx *bbolt.Tx, disk pins.UUID) error {
	old, err := get(tx, disk)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := tx.Bucket([]byte(bucketCallers)).Delete(callerKey(old)); err != nil {
		return err
	}
	for _, name := range []string{bucketKeys, bucketValues} {
		if err := tx.Bucket([]byte(name)).Delete(disk[:]); err != nil {
			return err
		}
	}
	return tx.Bucket([]byte(bucketRecords)).Delete(disk[:])
}

// SetState enables or disables a record, which seals its key anew, and puts head
// with it. The error matches ErrNotFound when there is none.
func (s *Store) SetState(disk pins.UUID, state State, now time.Time, head audit.Head) error {
	r, err := s.Get(disk)
	if err != nil {
		return err
	}
	key, err := s.Key(r)
	if err != nil {
		return err
	}
	defer clear(key)
	return s.db.Update(func(tx *bbolt.Tx) error {
		if !bytes.Equal(tx.Bucket([]byte(bucketRecords)).Get(disk[:]), r.encode()) {
			return fmt.Errorf("setting the state of disk %s: its record was changed meanwhile", disk)
		}
		r.State, r.Changed = state, now.UTC().Round(0)
		if err := s.put(tx, r, key); err != nil {
			return err
		}
		return putHead(tx, head)
	})
}

// Delete removes the record and the key of a disk, not its releases, and puts head
// with it. The error matches ErrNotFound when there is none. bbolt does not wipe
// the pages that it frees: the sealed key can stay in the file for a while.
func (s *Store) Delete(disk pins.UUID, head audit.Head) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		if tx.Bucket([]byte(bucketRecords)).Get(disk[:]) == nil {
			return ErrNotFound
		}
		if err := forget(tx, disk); err != nil {
			return err
		}
		return putHead(tx, head)
	})
}
