package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
)

// Buckets of the database.
const (
	bucketMeta        = "meta"
	bucketRecords     = "records"     // :: disk UUID -> Record
	bucketKeys        = "keys"        // :: disk UUID -> key sealed with its Record
	bucketValues      = "values"      // :: disk UUID -> refval.json of its Record
	bucketCallers     = "callers"     // :: SPIFFE ID, NUL, disk UUID -> nothing
	bucketGenerations = "generations" // :: disk UUID -> newest generation, big-endian uint64
	bucketReleases    = "releases"    // :: disk UUID, REPORT_ID -> Release
)

// Members of the meta bucket.
const (
	metaFormat = "format"     // :: the label storeLabel
	metaCheck  = "kek_check"  // :: nothing, sealed under the key-encryption key
	metaHead   = "audit_head" // :: audit.Head of the last change, release or start
)

func buckets() []string {
	return []string{bucketMeta, bucketRecords, bucketKeys, bucketValues, bucketCallers, bucketGenerations, bucketReleases}
}

const (
	storeLabel  = "rootvouch kms store v1"
	recordLabel = "rootvouch kms record v1"
)

// lockTimeout is how long Open waits for another process to let the file go.
const lockTimeout = 2 * time.Second

// ErrWrongKEK says that the store belongs to another key-encryption key.
var ErrWrongKEK = errors.New("store belongs to another key-encryption key")

// Store is an open store. Its methods may be called from several goroutines; every
// change is durable when the method returns.
type Store struct {
	db   *bbolt.DB
	kek  *kek.KEK
	rand io.Reader
}

// Create makes an empty store at path, mode 0600, for k. The error matches
// os.ErrExist when there is one already.
func Create(path string, k *kek.KEK, rand io.Reader) error {
	if _, err := os.Lstat(path); err == nil {
		return &os.PathError{Op: "creating store", Path: path, Err: os.ErrExist}
	}
	part := path + ".part"
	if err := create(part, k, rand); err != nil {
		return fmt.Errorf("creating store %s: %w", path, err)
	}
	defer os.Remove(part)
	// link(2) fails on an existing name where rename(2) would replace it.
	if err := os.Link(part, path); err != nil {
		return fmt.Errorf("creating store: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("creating store: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("creating store: syncing its directory: %w", err)
	}
	return nil
}

func create(path string, k *kek.KEK, rand io.Reader) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	check, err := k.Seal(rand, nil, kek.About(storeLabel))
	if err != nil {
		return err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			return os.OpenFile(name, flag|os.O_EXCL, perm)
		},
	})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets() {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		meta := tx.Bucket([]byte(bucketMeta))
		if err := meta.Put([]byte(metaFormat), []byte(storeLabel)); err != nil {
			return err
		}
		return meta.Put([]byte(metaCheck), check)
	})
	return errors.Join(err, db.Close())
}

// Open opens the store at path, which must exist. The error matches ErrWrongKEK
// when it was made for another key-encryption key than k.
func Open(path string, k *kek.KEK, rand io.Reader) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:         lockTimeout,
		PreLoadFreelist: true,
		FreelistType:    bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			return os.OpenFile(name, flag&^os.O_CREATE, perm)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", path, err)
	}
	s := &Store{db, k, rand}
	if err := db.View(s.check); err != nil {
		db.Close()
		return nil, fmt.Errorf("opening store %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) check(tx *bbolt.Tx) error {
	for _, name := range buckets() {
		if tx.Bucket([]byte(name)) == nil {
			return fmt.Errorf("bucket %q is missing", name)
		}
	}
	meta := tx.Bucket([]byte(bucketMeta))
	if got := meta.Get([]byte(metaFormat)); string(got) != storeLabel {
		return fmt.Errorf("format is %q, want %q", got, storeLabel)
	}
	if _, err := s.kek.Open(meta.Get([]byte(metaCheck)), kek.About(storeLabel)); err != nil {
		return ErrWrongKEK
	}
	return nil
}

// Close closes the store after the changes that are under way.
func (s *Store) Close() error { return s.db.Close() }

// Head is the head of the audit log that the store is level with: what has a line
// after it is not in the store. It is the zero Head in a new store.
func (s *Store) Head() (audit.Head, error) {
	var head audit.Head
	err := s.db.View(func(tx *bbolt.Tx) error {
		text := tx.Bucket([]byte(bucketMeta)).Get([]byte(metaHead))
		if text == nil {
			return nil
		}
		var err error
		head, err = audit.ParseHead(string(text))
		return err
	})
	return head, err
}

func putHead(tx *bbolt.Tx, head audit.Head) error {
	return tx.Bucket([]byte(bucketMeta)).Put([]byte(metaHead), []byte(head.String()))
}
