package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"

	"github.com/rootvouch/rootvouch/volume"
	"golang.org/x/sys/unix"
)

const (
	// transfer is the largest size of one read or write through a buffer of the device, in bytes.
	transfer = 1 << 20
	// alignment is what O_DIRECT needs of memory, in bytes.
	alignment = 4096
)

// device reads and writes a disk without the page cache. dm-integrity does not use
// the page cache either, so cached bytes would be stale. Offsets and sizes are
// multiples of the sector size. Aligned memory, such as a large buffer, goes to the disk
// without a copy.
type device struct {
	file    *os.File
	buffers sync.Pool // of []byte, aligned for O_DIRECT
}

// openDevice opens the disk with this name and number.
func openDevice(name, number string, flags int) (*device, error) {
	file, err := os.OpenFile(filepath.Join("/dev", strings.ReplaceAll(name, "!", "/")), flags|unix.O_DIRECT|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the volume's disk: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		file.Close()
		return nil, fmt.Errorf("opening the volume's disk: %w", err)
	}
	if got := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)); st.Mode&unix.S_IFMT != unix.S_IFBLK || got != number {
		file.Close()
		return nil, fmt.Errorf("opening the volume's disk: %s has number %s, want %s", name, got, number)
	}
	if flags&os.O_RDWR != 0 {
		// The kernel opens even a read-only disk for writing.
		if readOnly, err := unix.IoctlGetInt(int(file.Fd()), unix.BLKROGET); err != nil || readOnly != 0 {
			file.Close()
			return nil, errors.Join(fmt.Errorf("opening the volume's disk: %s is read-only, want one that can be written", name), err)
		}
	}
	return &device{file: file}, nil
}

func (d *device) buffer() ([]byte, error) {
	if b, ok := d.buffers.Get().(*[]byte); ok {
		return *b, nil
	}
	return unix.Mmap(-1, 0, transfer, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

// aligned reports whether the kernel can use the memory as it is.
func aligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%alignment == 0
}

// ReadAt implements io.ReaderAt.
func (d *device) ReadAt(b []byte, at int64) (int, error) {
	if aligned(b) {
		return d.file.ReadAt(b, at)
	}
	buf, err := d.buffer()
	if err != nil {
		return 0, err
	}
	defer d.buffers.Put(&buf)
	for done := 0; done < len(b); {
		piece := buf[:min(transfer, len(b)-done)]
		n, err := d.file.ReadAt(piece, at+int64(done))
		done += copy(b[done:], piece[:n])
		if err != nil && done < len(b) {
			return done, err
		}
	}
	return len(b), nil
}

// WriteAt implements io.WriterAt.
func (d *device) WriteAt(b []byte, at int64) (int, error) {
	if aligned(b) {
		return d.file.WriteAt(b, at)
	}
	buf, err := d.buffer()
	if err != nil {
		return 0, err
	}
	defer d.buffers.Put(&buf)
	for done := 0; done < len(b); {
		piece := buf[:copy(buf, b[done:])]
		n, err := d.file.WriteAt(piece, at+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return len(b), nil
}

// Sync makes all writes durable.
func (d *device) Sync() error { return d.file.Sync() }

// close makes all writes durable, and closes the disk.
func (d *device) close() error {
	err := d.Sync()
	if closeErr := d.file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("writing the volume's disk: %w", err)
	}
	return nil
}

var _ volume.Disk = (*device)(nil)
