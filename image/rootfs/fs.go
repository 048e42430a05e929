package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/erofs/go-erofs"
)

// view shows a Tree to erofs.Writer.CopyFrom as an fs.FS whose file
// information carries *erofs.Stat. Names need not be UTF-8.
//
// go-erofs 0.3.1 has no call for hard links. The first name of an inode, in
// sorted order, stands for the file; every other name is a placeholder of the
// same type, and Plan points its directory entry at the first one's inode.
type view struct {
	root  *Inode
	first map[*Inode]string // :: inode with several names -> the one that is written
	open  func(n *Inode) io.ReadCloser

	opened opened
}

func (v *view) find(name string) (*Inode, error) {
	parts, err := split(name)
	if err != nil {
		return nil, err
	}
	n := v.root
	for _, part := range parts {
		if n = n.entries[part]; n == nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
	}
	return n, nil
}

// Stat implements fs.StatFS.
func (v *view) Stat(name string) (fs.FileInfo, error) {
	n, err := v.find(name)
	if err != nil {
		return nil, err
	}
	return v.info(name, n), nil
}

// ReadDir implements fs.ReadDirFS.
func (v *view) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := v.find(name)
	if err != nil {
		return nil, err
	}
	var list []fs.DirEntry
	for _, child := range n.names() {
		list = append(list, v.info(path.Join(name, child), n.entries[child]))
	}
	return list, nil
}

// ReadLink is what CopyFrom asks for the target of a symbolic link.
func (v *view) ReadLink(name string) (string, error) {
	n, err := v.find(name)
	if err != nil {
		return "", err
	}
	return n.Target, nil
}

// Open implements fs.FS. No file is opened before it is read: CopyFrom keeps
// what Open returns for every file of the tree until the end.
func (v *view) Open(name string) (fs.File, error) {
	n, err := v.find(name)
	if err != nil {
		return nil, err
	}
	return &lazyFile{n: n, view: v}, nil
}

func (v *view) info(name string, n *Inode) info {
	first, shared := v.first[n]
	return info{name: path.Base(name), n: n, placeholder: shared && first != name}
}

// info is fs.FileInfo and fs.DirEntry of one name.
type info struct {
	name        string
	n           *Inode
	placeholder bool
}

func (i info) Name() string               { return i.name }
func (i info) Mode() fs.FileMode          { return i.n.Mode }
func (i info) Type() fs.FileMode          { return i.n.Mode.Type() }
func (i info) ModTime() time.Time         { return i.n.ModTime }
func (i info) IsDir() bool                { return i.n.Mode.IsDir() }
func (i info) Info() (fs.FileInfo, error) { return i, nil }

func (i info) Size() int64 {
	if i.placeholder {
		return 0
	}
	return i.n.Size
}

// Sys returns *erofs.Stat.
func (i info) Sys() any {
	s := &erofs.Stat{
		UID: i.n.UID, GID: i.n.GID,
		// Times before 1970 wrap around here and back in the kernel, which
		// reads the field as signed.
		Mtime: uint64(i.n.ModTime.Unix()), MtimeNs: uint32(i.n.ModTime.Nanosecond()),
		Nlink: i.n.links,
	}
	if i.placeholder {
		s.Nlink = 1
		return s
	}
	if i.n.Mode&fs.ModeDevice != 0 {
		// new_encode_dev of include/linux/kdev_t.h
		s.Rdev = i.n.Minor&0xff | i.n.Major<<8 | i.n.Minor&^0xff<<12
	}
	if i.IsDir() {
		s.Nlink = 2
		for _, child := range i.n.entries {
			if child.Mode.IsDir() {
				s.Nlink++
			}
		}
	}
	if len(i.n.Xattrs) > 0 {
		s.Xattrs = map[string]string{}
		for name, value := range i.n.Xattrs {
			prefix, suffix, _ := xattrIndex(name)
			if suffix == "" {
				// go-erofs 0.3.1 has a dot too many in its prefixes of ACLs;
				// without it the kernel would not find them.
				prefix += "."
			}
			s.Xattrs[prefix+suffix] = value
		}
	}
	return s
}

// lazyFile opens at the first Read and gives exactly Size bytes or an error:
// go-erofs 0.3.1 does not notice when a small file gives fewer.
//
// There is one for each file of the tree: it knows no name, and what it has
// opened is the view's, since go-erofs reads one after the other.
type lazyFile struct {
	n    *Inode
	view *view
}

// opened is the file that is being read.
type opened struct {
	by   *lazyFile
	file io.ReadCloser
	left int64
}

func (f *lazyFile) Stat() (fs.FileInfo, error) { return info{n: f.n}, nil }

func (f *lazyFile) Read(b []byte) (int, error) {
	o := &f.view.opened
	if o.by != f {
		if o.by != nil {
			o.by.Close()
		}
		*o = opened{f, f.view.open(f.n), f.n.Size}
	}
	if o.left == 0 {
		return 0, io.EOF
	}
	n, err := o.file.Read(b[:min(int64(len(b)), o.left)])
	o.left -= int64(n)
	switch {
	case o.left == 0:
		// The writer asks for no more than Size bytes: what the source has to
		// say at its end (a changed file, a bad checksum) is heard here.
		if _, err := o.file.Read(make([]byte, 1)); err != io.EOF {
			if err == nil {
				err = errors.New("it has grown")
			}
			return n, fmt.Errorf("reading to its end: %w", err)
		}
		return n, nil
	case err == io.EOF:
		return n, fmt.Errorf("%w with %d bytes missing", io.ErrUnexpectedEOF, o.left)
	}
	return n, err
}

func (f *lazyFile) Close() error {
	o := &f.view.opened
	if o.by != f {
		return nil
	}
	file := o.file
	*o = opened{}
	return file.Close()
}
