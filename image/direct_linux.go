package image

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/rootvouch/rootvouch/internal/durable"
)

// directFile writes bulk data past the page cache. A disk's data is written once and
// made durable at the end. Through the page cache, writing would cost more processor
// time than hashing and encrypting. If the filesystem has no direct I/O, bulk data
// goes through the cache.
type directFile struct {
	*durable.File
	direct *os.File
	refuse atomic.Bool // direct I/O did not work
}

func openDirect(f *durable.File) *directFile {
	d := &directFile{File: f}
	direct, err := f.Reopen(os.O_WRONLY | syscall.O_DIRECT)
	d.direct = direct
	d.refuse.Store(err != nil)
	return d
}

// close closes the second descriptor. The owner of the file closes the file itself.
func (d *directFile) close() error {
	if d.direct == nil {
		return nil
	}
	return d.direct.Close()
}

// WriteBulkAt is like WriteAt for blocks in memory of buffers.
func (d *directFile) WriteBulkAt(b []byte, offset int64) (int, error) {
	if d.refuse.Load() {
		return d.WriteAt(b, offset)
	}
	n, err := d.direct.WriteAt(b, offset)
	if errors.Is(err, syscall.EINVAL) {
		d.refuse.Store(true)
		return d.WriteAt(b, offset)
	}
	return n, err
}

// Reserve allocates space for the first size bytes. So a full disk shows before the work, and
// writes need not wait for one another to find space.
func (d *directFile) Reserve(size int64) error {
	err := syscall.Fallocate(int(d.Fd()), 0, 0, size)
	if errors.Is(err, syscall.ENOSPC) {
		return &os.PathError{Op: "reserve space for", Path: d.Path(), Err: err}
	}
	return nil // reserving is optional
}
