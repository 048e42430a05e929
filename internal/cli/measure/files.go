package measure

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/filekind"
	"github.com/rootvouch/rootvouch/snp/launch"
)

// maxBlob bounds a kernel or initramfs that is mapped, in bytes.
const maxBlob = 1 << 40

// hashFile hashes a kernel or initramfs, and refuses a file that cannot be one. If a file gives
// its bytes only once, only the first bytes are checked.
func hashFile(role cli.Role, path string) (sum [sha256.Size]byte, err error) {
	var refused error
	err = withFile(path, maxBlob, func(image []byte) error {
		return unfaulted(func() error {
			if refused = cli.CheckContent(role, path, image); refused == nil {
				sum = sha256.Sum256(image)
			}
			return nil
		})
	}, func(r io.Reader) error {
		head := bufio.NewReaderSize(r, filekind.HeadSize)
		first, err := head.Peek(filekind.HeadSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if refused = cli.CheckKind(role, path, filekind.Of(first)); refused == nil {
			sum, err = launch.HashBlob(head)
			return err
		}
		return nil
	})
	if err != nil {
		return sum, fmt.Errorf("reading %v: %w", role, err)
	}
	return sum, refused
}

// readFirmware reads and parses a firmware or an SVSM. Unless keep is set, the image is a
// mapping (see withFile) that needs unfaulted.
func readFirmware(role cli.Role, path string, keep bool) (image []byte, f *launch.Firmware, err error) {
	limit := int64(launch.MaxImageSize)
	if keep {
		limit = 0
	}
	err = withFile(path, limit, func(mapped []byte) error {
		image = mapped
		return nil
	}, func(r io.Reader) error {
		image, err = bounded.Read(r, launch.MaxImageSize)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading %v: %w", role, err)
	}
	if err := cli.CheckContent(role, path, image); err != nil {
		return nil, nil, err
	}
	if f, err = launch.ParseFirmware(image); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return image, f, nil
}

// withFile maps a regular file of 1 to limit bytes and passes it to mapped. It passes any other
// file to stream. A mapping copies nothing, and its first pages are hashed while the kernel
// maps the rest. The mapping stays until the process ends. It is not a snapshot: it may show
// later writes to the file, and a page that cannot be read is a fault (see unfaulted).
func withFile(path string, limit int64, mapped func([]byte) error, stream func(io.Reader) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return &os.PathError{Op: "read", Path: path, Err: unix.EISDIR}
	}
	if size := info.Size(); info.Mode().IsRegular() && size > 0 && size <= limit {
		image, err := unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
		if err == nil { // an error means no room, or a file system that cannot map
			go unix.Madvise(image, unix.MADV_POPULATE_READ) // Linux 5.14; without it each page costs a fault
			return mapped(image)
		}
	}
	return stream(file)
}

// unfaulted runs f, which reads mapped files. If a page cannot be read, because the file was
// truncated or its disk fails, unfaulted returns an error, as read(2) would.
func unfaulted(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch p := recover().(type) {
		case nil:
		case interface {
			runtime.Error
			Addr() uintptr
		}:
			err = errors.New("the file was truncated, or can no longer be read")
		default:
			panic(p)
		}
	}()
	return f()
}

// oneReaderEach refuses a pipe that is named twice, because each reader would get only a part
// of its bytes.
func oneReaderEach(paths ...string) error {
	var pipes []os.FileInfo
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
			continue // the reader of the file reports the error
		}
		for _, other := range pipes {
			if os.SameFile(info, other) {
				return fmt.Errorf("%s is a pipe, which can be read only once, but is named twice", path)
			}
		}
		pipes = append(pipes, info)
	}
	return nil
}
