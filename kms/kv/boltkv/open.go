package boltkv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// lockTimeout is how long Open waits for another process to release the file.
const lockTimeout = 2 * time.Second

// ErrLocked says that another process has the file open.
var ErrLocked = errors.New("another process has it open: one server at a time")

// Create makes an empty store file at path, mode 0600. The error matches os.ErrExist if the
// file exists.
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
		meta := tx.Bucket(bucketMeta)
		return errors.Join(meta.Put(metaFormat, []byte(fileFormat)), meta.Put(metaState, state{}.encode()))
	})
	return errors.Join(err, db.Close())
}

// Open opens the file at path, which must exist, and reads all of it. The error matches
// ErrLocked if another process has it open.
func Open(path string) (*Store, error) {
	s := &Store{path: path, failed: make(chan struct{})}
	err := guarded(s.open)
	if err != nil && s.file != nil {
		s.letGo() // bbolt may have panicked while the file was open
	}
	if errors.Is(err, errDamaged) {
		return nil, fmt.Errorf("opening store %s: %w: put back a copy of it (docs/kms.md, Backup)", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", path, err)
	}
	return s, nil
}

// letGo unlocks and closes the file without bbolt, because bbolt may hold its locks for ever
// after a panic. Closing the file does not end the lock, because the mapping keeps it.
func (s *Store) letGo() error {
	return errors.Join(syscall.Flock(int(s.file.Fd()), syscall.LOCK_UN), s.file.Close())
}

// open lets bbolt see only a file that verify has read, under the lock. bbolt takes the same
// lock again, which succeeds: it uses the same open file.
func (s *Store) open() (err error) {
	s.db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{
		Timeout:         lockTimeout,
		PreLoadFreelist: true,
		FreelistType:    bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, _ os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag&^os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
			if err != nil {
				return nil, err
			}
			s.file = f
			if err := lock(f); err != nil {
				return nil, err
			}
			if err := checkFile(f); err != nil {
				return nil, err
			}
			return f, nil
		},
	})
	return err
}

// lock takes the lock of a file, within lockTimeout.
func lock(f *os.File) error {
	for start := time.Now(); ; time.Sleep(lockTimeout / 40) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case err != syscall.EWOULDBLOCK:
			return fmt.Errorf("locking: %w", err)
		case time.Since(start) > lockTimeout:
			return ErrLocked
		}
	}
}

// checkFile checks a file before bbolt maps it.
func checkFile(f *os.File) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file")
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("its mode is %04o, want no bit of 0077", info.Mode().Perm())
	}
	return verify(f)
}

// A bbolt file begins with two meta pages (bbolt, internal/common/meta.go). The valid one with
// the higher transaction ID counts. Offsets in bytes within a page.
const (
	pageSize     = 4096 // of files that Create made
	metaStart    = 16   // after the page's header
	metaMagic    = 0xED0CDAED
	metaPageSize = metaStart + 8
	metaRoot     = metaStart + 16
	metaFreelist = metaStart + 32
	metaPages    = metaStart + 40 // number of pages
	metaTxid     = metaStart + 48
	metaSum      = metaStart + 56
	metaEnd      = metaStart + 64
)

// meta is a valid meta page.
type meta struct{ root, freelist, pages, txid uint64 }

// metas returns the meta page that counts, and how many of the two are valid. While a
// transaction ends it is one. The error says that neither is valid, or that the file has fewer
// pages than it claims.
func metas(f *os.File) (newest meta, valid int, err error) {
	info, err := f.Stat()
	if err != nil {
		return meta{}, 0, err
	}
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
		if size := little.Uint32(page[metaPageSize:]); size != pageSize {
			return meta{}, 0, fmt.Errorf("its pages have %d bytes, want %d", size, pageSize)
		}
		valid++
		m := meta{little.Uint64(page[metaRoot:]), little.Uint64(page[metaFreelist:]), little.Uint64(page[metaPages:]), little.Uint64(page[metaTxid:])}
		if valid == 1 || m.txid > newest.txid {
			newest = m
		}
	}
	switch {
	case valid == 0:
		return meta{}, 0, fmt.Errorf("neither of its two meta pages is valid: %w", errDamaged)
	case uint64(info.Size())/pageSize < newest.pages:
		return meta{}, 0, fmt.Errorf("it has %d bytes, want at least %d pages of %d: the file was cut: %w", info.Size(), newest.pages, pageSize, errDamaged)
	}
	return newest, valid, nil
}
