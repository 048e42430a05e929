package boltkv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// lockTimeout is how long Open waits for another process to let the file go.
const lockTimeout = 2 * time.Second

// ErrLocked says that another process has the file open.
var ErrLocked = errors.New("another process has it open: one server at a time")

// Create makes an empty file at path, mode 0600. The error matches os.ErrExist when there
// is one already.
func Create(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return &os.PathError{Op: "creating store", Path: path, Err: os.ErrExist}
	}
	part := path + ".part"
	if err := create(part); err != nil {
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

func create(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:  lockTimeout,
		PageSize: pageSize,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			return os.OpenFile(name, flag|os.O_EXCL, perm)
		},
	})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketItems, bucketMeta} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(metaFormat, []byte(format))
	})
	return errors.Join(err, db.Close())
}

// Open opens the file at path, which must exist, and reads all of it. The error matches
// ErrLocked where another process has it open.
func Open(path string) (*Store, error) {
	s := &Store{path: path, failed: make(chan struct{})}
	err := guarded(func() error { return s.open() })
	if err == nil {
		err = guarded(func() error { return s.db.View(whole) })
	}
	if err != nil && s.file != nil {
		s.letGo() // bbolt may have panicked with it open
	}
	if errors.Is(err, errDamaged) {
		return nil, fmt.Errorf("opening store %s: %w: put back a copy of it (docs/kms.md, Backup)", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", path, err)
	}
	return s, nil
}

// letGo unlocks and closes the file without bbolt, which may hold its locks for ever where
// it panicked. The lock does not end with the file: what is mapped keeps it.
func (s *Store) letGo() error {
	return errors.Join(syscall.Flock(int(s.file.Fd()), syscall.LOCK_UN), s.file.Close())
}

func (s *Store) open() error {
	if err := checkFile(s.path); err != nil {
		return err
	}
	var err error
	s.db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{
		Timeout:         lockTimeout,
		PreLoadFreelist: true,
		FreelistType:    bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag&^os.O_CREATE, perm)
			s.file = f
			return f, err
		},
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return ErrLocked
	}
	return err
}

// checkFile looks at a file before bbolt maps it.
func checkFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is no regular file")
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("its mode is %04o, want none of 0077", info.Mode().Perm())
	}
	valid, err := metas(f)
	if err == nil && valid < 2 {
		err = fmt.Errorf("one of its two meta pages is not valid, and so the last transaction may be missing: %w", errDamaged)
	}
	return err
}

// whole reads every item, in order, and finds it by its key: what is there must not be hidden
// by a way to it that is not.
func whole(tx *bbolt.Tx) error {
	items, meta := tx.Bucket(bucketItems), tx.Bucket(bucketMeta)
	if items == nil || meta == nil {
		return errors.New("it is no store of a key server")
	}
	if got := meta.Get(metaFormat); string(got) != format {
		return fmt.Errorf("format is %q, want %q", got, format)
	}
	// Keys that are in one page, in order, are found if the first and the last of them
	// are: each comparison on the way there says the same of both, and so of all between.
	found := func(key []byte) error {
		if key != nil && items.Get(key) == nil {
			return fmt.Errorf("item %q is not found by its key: %w", key, errDamaged)
		}
		return nil
	}
	var count uint64
	var last []byte
	cursor := items.Cursor()
	for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
		if _, _, err := unpack(string(k), v); err != nil {
			return err
		}
		if last != nil && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("item %q comes after %q: %w", k, last, errDamaged)
		}
		if last == nil || page(last) != page(k) {
			if err := errors.Join(found(last), found(k)); err != nil {
				return err
			}
		}
		last = k
		count++
	}
	if err := found(last); err != nil {
		return err
	}
	if want := number(meta, metaCount); count != want {
		return fmt.Errorf("%d items, want %d: %w", count, want, errDamaged)
	}
	return nil
}

// page is where in memory the page is that holds a key: the file is mapped.
func page(key []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(key))) / pageSize }

// A bbolt file begins with two meta pages (bbolt, internal/common/meta.go): the valid one
// with the higher transaction ID counts. Offsets in bytes within a page.
const (
	pageSize     = 4096 // of a file that create made
	metaStart    = 16   // behind the page's header
	metaMagic    = 0xED0CDAED
	metaPageSize = metaStart + 8
	metaPgid     = metaStart + 40 // how many pages there are
	metaTxid     = metaStart + 48
	metaSum      = metaStart + 56
	metaEnd      = metaStart + 64
)

// metas says how many of the two meta pages are valid: one while a transaction ends. The
// error says that there is none, or that the file has fewer pages than it says.
func metas(f *os.File) (valid int, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	var want, newest uint64
	for _, at := range []int64{0, pageSize} {
		page := make([]byte, metaEnd)
		if _, err := f.ReadAt(page, at); err != nil {
			continue
		}
		sum := fnv.New64a()
		sum.Write(page[metaStart:metaSum])
		little := binary.LittleEndian
		if little.Uint32(page[metaStart:]) != metaMagic || little.Uint64(page[metaSum:]) != sum.Sum64() {
			continue
		}
		valid++
		if txid := little.Uint64(page[metaTxid:]); valid == 1 || txid > newest {
			newest = txid
			want = little.Uint64(page[metaPgid:]) * uint64(little.Uint32(page[metaPageSize:]))
		}
	}
	switch {
	case valid == 0:
		return 0, fmt.Errorf("neither of its two meta pages is valid: %w", errDamaged)
	case uint64(info.Size()) < want:
		return 0, fmt.Errorf("it has %d bytes, want at least %d: it was cut: %w", info.Size(), want, errDamaged)
	}
	return valid, nil
}
