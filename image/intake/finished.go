package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	eroread "github.com/erofs/go-erofs"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/ext4"
	"github.com/rootvouch/rootvouch/image/rootfs"
)

// maxFinished bounds the names that are read from a finished filesystem. The memory for a tree
// of that size stays below that of a build.
const maxFinished = 500_000

// names counts up to maxFinished.
type names int

func (n *names) next(ctx context.Context) error {
	if *n++; *n > maxFinished {
		return fmt.Errorf("it has more than %d names", maxFinished)
	}
	return ctx.Err()
}

// ReadExt4 adds the files of an ext2, ext3 or ext4 filesystem to the tree, without their
// extended attributes. The tree is good for inspection, but not for a build.
func (r *Reader) ReadExt4(ctx context.Context, image io.ReaderAt) error {
	f, err := ext4.Open(image)
	if err != nil {
		return err
	}
	w := ext4Walker{r.Tree, ext4Files{f}, map[uint32]string{}, 0}
	return w.walk(ctx, ".", ext4.Root)
}

type ext4Walker struct {
	tree  *rootfs.Tree
	files ext4Files
	seen  map[uint32]string // :: directory, or file with several names -> its first
	names names
}

func (w *ext4Walker) walk(ctx context.Context, name string, number uint32) error {
	if err := w.names.next(ctx); err != nil {
		return err
	}
	if first, ok := w.seen[number]; ok {
		return w.tree.Link(name, first) // Link refuses a directory
	}
	i, err := w.files.fs.Inode(number)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if i.IsDir() || i.Links > 1 {
		w.seen[number] = name
	}
	f, err := w.files.file(i)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if err := w.tree.Add(name, f); err != nil {
		return err
	}
	if !i.IsDir() {
		return nil
	}
	entries, err := w.files.fs.Entries(i)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	for _, e := range entries {
		if err := w.walk(ctx, path.Join(name, e.Name), e.Number); err != nil {
			return err
		}
	}
	return nil
}

// ext4Files is the content of the files of an ext4 filesystem; Stored.At is a file's
// inode number.
type ext4Files struct{ fs *ext4.FS }

func (c ext4Files) file(i ext4.Inode) (f rootfs.File, err error) {
	f = rootfs.File{Mode: i.Mode, UID: i.UID, GID: i.GID, Time: erofs.Time{Seconds: i.Seconds, Nanoseconds: i.Nanoseconds}}
	switch i.Mode & erofs.TypeMask {
	case erofs.TypeRegular:
		f.Size, f.At, f.Content = i.Size, int64(i.Number), c
	case erofs.TypeSymlink:
		f.Target, err = c.fs.Target(i)
	case erofs.TypeCharDevice, erofs.TypeBlockDevice:
		f.Device = i.Device
	}
	return f, err
}

// Open implements rootfs.Content.
func (c ext4Files) Open(_ string, s rootfs.Stored) (io.ReadCloser, error) {
	i, err := c.fs.Inode(uint32(s.At))
	if err != nil {
		return nil, err
	}
	return io.NopCloser(c.fs.Data(i)), nil
}

// ReadEROFS adds the files of an EROFS filesystem to the tree. It refuses a filesystem with
// compressed files.
func (r *Reader) ReadEROFS(ctx context.Context, image io.ReaderAt) error {
	f, err := eroread.Open(image)
	if errors.Is(err, eroread.ErrNotImplemented) {
		return errors.New("its files are compressed")
	}
	if err != nil {
		return err
	}
	files, count := &erofsFiles{fs: f}, names(0)
	return fs.WalkDir(f, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = count.next(ctx)
		}
		if err != nil {
			return err
		}
		file, err := files.file(name, d)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		return r.Tree.Add(name, file)
	})
}

// erofsFiles is the content of the files of an EROFS filesystem. Stored.At is the index of a
// file's name in names.
type erofsFiles struct {
	fs    fs.FS
	names []string
}

// file ignores hard links, because an inspected tree does not need them.
func (c *erofsFiles) file(name string, d fs.DirEntry) (rootfs.File, error) {
	info, err := d.Info()
	if err != nil {
		return rootfs.File{}, err
	}
	s, ok := info.Sys().(*eroread.Stat)
	if !ok {
		return rootfs.File{}, fmt.Errorf("%T does not tell the ownership", info.Sys())
	}
	f := rootfs.File{Mode: erofsMode(info.Mode()), UID: s.UID, GID: s.GID, Xattrs: s.Xattrs,
		Time: erofs.Time{Seconds: int64(s.Mtime), Nanoseconds: s.MtimeNs}}
	switch f.Mode & erofs.TypeMask {
	case erofs.TypeRegular:
		f.Size, f.At, f.Content = info.Size(), int64(len(c.names)), c
		c.names = append(c.names, name)
	case erofs.TypeSymlink:
		f.Target, err = fs.ReadLink(c.fs, name)
	case erofs.TypeCharDevice, erofs.TypeBlockDevice:
		f.Device = s.Rdev
	}
	return f, err
}

// Open implements rootfs.Content.
func (c *erofsFiles) Open(_ string, s rootfs.Stored) (io.ReadCloser, error) {
	return c.fs.Open(c.names[s.At])
}

// erofsMode is st_mode for a mode of go-erofs 0.3.1, which has Go's type bits, and the other
// bits either as on the disk or as in Go.
func erofsMode(m fs.FileMode) uint16 {
	mode := uint16(m & 0o7777)
	for bit, to := range map[fs.FileMode]uint16{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= to
		}
	}
	types := map[fs.FileMode]uint16{0: erofs.TypeRegular, fs.ModeDir: erofs.TypeDirectory, fs.ModeSymlink: erofs.TypeSymlink,
		fs.ModeNamedPipe: erofs.TypeFIFO, fs.ModeSocket: erofs.TypeSocket, fs.ModeDevice: erofs.TypeBlockDevice,
		fs.ModeDevice | fs.ModeCharDevice: erofs.TypeCharDevice}
	return mode | types[m.Type()]
}
