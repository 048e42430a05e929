//go:build linux

package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
)

// ReadDir adds the files below a directory to the tree unchanged: owners, modes, times, hard
// links, device nodes, attributes, holes. (Only root sees trusted attributes.) Mounted file
// systems are included, except those that the running kernel makes up, such as /proc: they
// become empty directories. If a file changes before its data is read, writing the filesystem
// fails. The caller may close the result only after that. Reading stops when ctx ends.
func (r *Reader) ReadDir(ctx context.Context, dir string) (io.Closer, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	w := dirWalker{Reader: r, base: dir, root: root, seen: map[fileID]string{}, value: make([]byte, xattrSizeMax)}
	if err := w.walk(ctx, ".", 0); err != nil {
		root.Close()
		return nil, fmt.Errorf("reading directory %s: %w", dir, err)
	}
	return root, nil
}

// fileID identifies a file on one machine.
type fileID struct{ device, inode uint64 }

type dirWalker struct {
	*Reader
	base  string
	root  *os.Root
	seen  map[fileID]string // :: file with several names -> its first name
	files []*dirFiles       // one for each device
	value []byte            // buffer for an extended attribute
	types map[uint64]string // :: mount -> its filesystem's type; nil before the first mount
}

// dirFiles is the content of a directory tree's files on one device. Stored.At is a file's
// inode number there.
type dirFiles struct {
	root   *os.Root
	device uint64
}

// walk visits name and all below it. above is the device of the directory that contains name.
func (w *dirWalker) walk(ctx context.Context, name string, above uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := w.root.Lstat(name)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("this operating system does not tell the ownership")
	}
	left := false
	if name != "." && (info.IsDir() || stat.Dev != above) {
		if m, ok := w.mountAt(name, filepath.Join(w.base, name)); ok {
			w.mounts = append(w.mounts, m)
			left = m.Left
		}
	}
	if left && !info.IsDir() {
		return nil
	}
	if !info.IsDir() && stat.Nlink > 1 {
		id := fileID{stat.Dev, stat.Ino}
		if first, ok := w.seen[id]; ok {
			return w.Tree.Link(name, first)
		}
		w.seen[id] = name
	}
	f, err := w.file(name, stat)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if err := w.Tree.Add(name, f); err != nil {
		return err
	}
	if !info.IsDir() || left {
		return nil
	}
	d, err := w.root.Open(name)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, child := range names {
		if err := w.walk(ctx, path.Join(name, child), stat.Dev); err != nil {
			return err
		}
	}
	return nil
}

// alwaysAsk is the size in bytes from which a file is asked for its holes even if it has as
// many blocks as it needs, because some blocks may be beyond its end.
const alwaysAsk = 64 << 10

func (w *dirWalker) file(name string, stat *syscall.Stat_t) (f rootfs.File, err error) {
	f = rootfs.File{Mode: uint16(stat.Mode), UID: stat.Uid, GID: stat.Gid, Time: erofs.Time{Seconds: stat.Mtim.Sec, Nanoseconds: uint32(stat.Mtim.Nsec)}}
	switch f.Mode & erofs.TypeMask {
	case erofs.TypeRegular:
		f.Size, f.At = stat.Size, int64(stat.Ino)
		files := w.filesOf(stat.Dev)
		f.Content = files
		if stat.Size <= rootfs.MaxFile && (stat.Blocks*512 < stat.Size || stat.Size >= alwaysAsk) { // Add refuses a larger file
			f.Content, err = files.holes(name, rootfs.Stored{At: f.At, Size: f.Size, Time: f.Time})
		}
	case erofs.TypeSymlink:
		f.Target, err = w.root.Readlink(name)
	case erofs.TypeCharDevice, erofs.TypeBlockDevice:
		f.Device, err = rootfs.DeviceNumber(unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
	}
	if err == nil {
		f.Xattrs, err = w.fileXattrs(name)
	}
	return f, err
}

// filesOf returns the content of the files of a device.
func (w *dirWalker) filesOf(device uint64) *dirFiles {
	for _, f := range w.files {
		if f.device == device {
			return f
		}
	}
	f := &dirFiles{w.root, device}
	w.files = append(w.files, f)
	return f
}

// holes asks the file system where a file has data.
func (f *dirFiles) holes(name string, s rootfs.Stored) (rootfs.Content, error) {
	file, err := f.openSteady(name, s)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := dataOf(file.File, s.Size)
	if err != nil {
		return nil, err
	}
	return rootfs.WithHoles(f, s.Size, slices.Values(data)), nil
}

// dataOf lists the parts of a file that have data. A file system without support for holes
// reports the whole file.
func dataOf(f *os.File, size int64) ([]rootfs.Extent, error) {
	var data []rootfs.Extent
	for at := int64(0); at < size; {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole from at on
			return data, nil
		}
		if err != nil {
			return nil, fmt.Errorf("looking for holes: %w", err)
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("looking for holes: %w", err)
		}
		if start < at || end <= start {
			return nil, fmt.Errorf("looking for holes: data from byte %d to %d after byte %d", start, end, at)
		}
		data = append(data, rootfs.Extent{Start: start, End: min(end, size)})
		at = end
	}
	return data, nil
}

// Open implements rootfs.Content.
func (f *dirFiles) Open(name string, s rootfs.Stored) (io.ReadCloser, error) {
	return f.openSteady(name, s)
}

// openSteady opens a file and checks that it is still the one listed.
func (f *dirFiles) openSteady(name string, want rootfs.Stored) (*steadyFile, error) {
	file, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	s := &steadyFile{file, f.device, want}
	if err := s.same(); err != nil {
		file.Close()
		return nil, err
	}
	return s, nil
}

// steadyFile ends with an error if the file changed while it was read.
type steadyFile struct {
	*os.File
	device uint64
	want   rootfs.Stored
}

// same compares the file with its listed state.
func (f *steadyFile) same() error {
	var now syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &now); err != nil {
		return &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	time := erofs.Time{Seconds: now.Mtim.Sec, Nanoseconds: uint32(now.Mtim.Nsec)}
	if now.Dev != f.device || int64(now.Ino) != f.want.At || now.Size != f.want.Size || time != f.want.Time {
		return errors.New("it has changed since the tree was read")
	}
	return nil
}

func (f *steadyFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	if errors.Is(err, io.EOF) {
		if changed := f.same(); changed != nil {
			err = changed
		}
	}
	return n, err
}

// xattrSizeMax is XATTR_SIZE_MAX (include/uapi/linux/limits.h) in bytes.
const xattrSizeMax = 1 << 16

// fileXattrs reads all visible extended attributes of a file.
func (w *dirWalker) fileXattrs(name string) (map[string]string, error) {
	full := filepath.Join(w.base, name)
	if len(full) >= unix.PathMax {
		parent, err := w.root.Open(path.Dir(name))
		if err != nil {
			return nil, err
		}
		defer parent.Close()
		full = fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), path.Base(name))
	}
	size, err := unix.Llistxattr(full, nil)
	if errors.Is(err, unix.ENOTSUP) || size == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing extended attributes: %w", err)
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(full, list); err != nil {
		return nil, fmt.Errorf("listing extended attributes: %w", err)
	}
	var all map[string]string
	for attribute := range strings.SplitSeq(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00") {
		size, err := unix.Lgetxattr(full, attribute, w.value)
		if err != nil {
			return nil, fmt.Errorf("reading extended attribute %q: %w", attribute, err)
		}
		if all, err = w.xattr(all, attribute, string(w.value[:size])); err != nil {
			return nil, err
		}
	}
	return all, nil
}
