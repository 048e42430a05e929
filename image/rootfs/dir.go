//go:build linux

package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ReadDir adds the files below a directory to the tree as they are: owners,
// modes, times, hard links, device nodes, attributes. (trusted attributes are
// shown to root alone.) What is mounted below is part of it. A file that
// changes before its data is read is an error when the filesystem is written;
// only after that may what is returned be closed.
func (t *Tree) ReadDir(dir string) (io.Closer, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	w := dirWalker{tree: t, base: dir, root: root, seen: map[fileID]string{}}
	if err := w.walk("."); err != nil {
		root.Close()
		return nil, fmt.Errorf("reading directory %s: %w", dir, err)
	}
	return root, nil
}

// fileID tells files of one machine apart.
type fileID struct{ device, inode uint64 }

type dirWalker struct {
	tree *Tree
	base string
	root *os.Root
	seen map[fileID]string // :: file with several names -> its first
}

func (w *dirWalker) walk(name string) error {
	info, err := w.root.Lstat(name)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("no ownership from this operating system")
	}
	if !info.IsDir() && stat.Nlink > 1 {
		id := fileID{stat.Dev, stat.Ino}
		if first, ok := w.seen[id]; ok {
			return w.tree.Link(name, first)
		}
		w.seen[id] = name
	}
	n, err := w.inode(name, info, stat)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if err := w.tree.Add(name, n); err != nil {
		return err
	}
	if !info.IsDir() {
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
		if err := w.walk(path.Join(name, child)); err != nil {
			return err
		}
	}
	return nil
}

func (w *dirWalker) inode(name string, info fs.FileInfo, stat *syscall.Stat_t) (*Inode, error) {
	n := &Inode{Mode: info.Mode(), UID: stat.Uid, GID: stat.Gid, ModTime: info.ModTime()}
	switch {
	case info.Mode().IsRegular():
		n.Size = info.Size()
		as := listed{fileID{stat.Dev, stat.Ino}, stat.Size, stat.Mtim}
		n.Open = func() (io.ReadCloser, error) { return w.open(name, as) }
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := w.root.Readlink(name)
		if err != nil {
			return nil, err
		}
		n.Target = target
	case info.Mode()&fs.ModeDevice != 0:
		n.Major, n.Minor = unix.Major(stat.Rdev), unix.Minor(stat.Rdev)
	}
	var err error
	n.Xattrs, err = xattrs(filepath.Join(w.base, name))
	return n, err
}

// listed is what a file was when its directory was read. There is one for each
// file of the tree, and fs.FileInfo is several times as large.
type listed struct {
	id      fileID
	size    int64
	modTime syscall.Timespec
}

// open opens a file and checks that it is still the one that was listed.
func (w *dirWalker) open(name string, as listed) (io.ReadCloser, error) {
	f, err := w.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	same := func() error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		now, ok := info.Sys().(*syscall.Stat_t)
		if !ok || as != (listed{fileID{now.Dev, now.Ino}, now.Size, now.Mtim}) {
			return fmt.Errorf("%q has changed since the tree was read", name)
		}
		return nil
	}
	if err := same(); err != nil {
		f.Close()
		return nil, err
	}
	return &steadyFile{f, same}, nil
}

// steadyFile ends with an error when the file changed while it was read.
type steadyFile struct {
	*os.File
	same func() error
}

func (f *steadyFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	if err == io.EOF {
		if changed := f.same(); changed != nil {
			err = changed
		}
	}
	return n, err
}

// xattrs reads all extended attributes that a file shows.
func xattrs(name string) (map[string]string, error) {
	size, err := unix.Llistxattr(name, nil)
	if errors.Is(err, unix.ENOTSUP) || size == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing extended attributes: %w", err)
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(name, list); err != nil {
		return nil, fmt.Errorf("listing extended attributes: %w", err)
	}
	all := map[string]string{}
	for attribute := range strings.SplitSeq(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00") {
		value := make([]byte, maxXattrValue)
		size, err := unix.Lgetxattr(name, attribute, value)
		if err != nil {
			return nil, fmt.Errorf("reading extended attribute %q: %w", attribute, err)
		}
		all[attribute] = string(value[:size])
	}
	return all, nil
}
