// Package rootfs makes an EROFS root filesystem from a file tree.
//
// A Tree holds the metadata of every file and the place of its data. Package intake
// fills a Tree from a directory, a tar or the layers of an OCI image. Nothing is
// extracted, so ownership, device nodes and capabilities need no privileges, and no
// name can lead out of the tree. If EROFS cannot keep a property of a file, the Tree
// refuses the file by name.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/rootvouch/rootvouch/image/erofs"
)

// MaxSymlink bounds the target of a symbolic link in bytes: PATH_MAX less the final
// zero byte (include/uapi/linux/limits.h).
const MaxSymlink = 4095

// maxPath bounds a whole name in bytes, so that a small input cannot make a large tree. The
// kernel reads a name part by part.
const maxPath = 1 << 16

// MaxFile bounds a file in bytes, like the bound of pins on a disk.
const MaxFile = 1 << 50

// inode is one file of a Tree. Hard links are several names of one inode. A tree may have a
// million inodes, so an inode is small.
type inode struct {
	mode     uint16 // erofs.Inode.Mode
	links    uint32 // number of names; for a directory only set by the layout
	uid, gid uint32
	u        uint32 // device number of a device node; for other files see Plan
	time     erofs.Time
	size     int64  // bytes of data, of a target, or (after the layout) of a directory's entries
	xattrs   string // erofs.EncodeXattrs; shared by files with equal attributes
	body     body   // nil if there is none
	at       int64  // place of the data in the body's source, which defines its meaning
	place    int64  // offset of the inode in the filesystem, after the layout
}

// body is the content of a file: *directory, symlink or Content.
type body any

type symlink string

// sparse is content with holes.
type sparse struct {
	Content
	data []Extent // in order, with gaps between them
}

// Extent is a part of a file with data: from byte Start to before End.
type Extent struct{ Start, End int64 }

type directory struct {
	entries map[string]*inode // :: name -> child
	list    []dirent          // in a Plan, instead of entries
}

func (n *inode) isDir() bool { return n.mode&erofs.TypeMask == erofs.TypeDirectory }

// entries returns the children of a directory, and nil for any other file.
func (n *inode) entries() map[string]*inode {
	if d, ok := n.body.(*directory); ok {
		return d.entries
	}
	return nil
}

// Tree is a file tree under construction.
type Tree struct {
	root   *inode
	xattrs map[string]string // :: encoded attributes -> the shared copy
	marked map[string]bool   // encoded attributes that overlayfs treats as its own
}

// New returns a tree that has only a root directory: mode 0755, owner root, time 0.
func New() *Tree {
	return &Tree{root: newDirectory(), xattrs: map[string]string{}, marked: map[string]bool{}}
}

func newDirectory() *inode {
	return &inode{mode: erofs.TypeDirectory | 0o755, body: &directory{entries: map[string]*inode{}}}
}

// Empty reports whether the tree has only its root directory.
func (t *Tree) Empty() bool { return len(t.root.entries()) == 0 }

// encodeXattrs gives n its extended attributes.
func (t *Tree) encodeXattrs(n *inode, xattrs map[string]string) error {
	encoded, err := erofs.EncodeXattrs(xattrs)
	if err != nil || encoded == "" {
		return err
	}
	one, ok := t.xattrs[encoded]
	if !ok {
		one = encoded
		t.xattrs[encoded] = encoded
		for name := range xattrs {
			if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
				t.marked[encoded] = true
			}
		}
	}
	n.xattrs = one
	return nil
}

// split cuts a name of an archive ("./etc/passwd", "/etc/passwd", "etc/") into its parts. The
// root has no parts.
func split(name string) ([]string, error) {
	if len(name) > maxPath {
		return nil, fmt.Errorf("%q…: the name has %d bytes, want at most %d", name[:80], len(name), maxPath)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return nil, fmt.Errorf("%q: the name contains a zero byte", name)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return nil, fmt.Errorf("%q: the name contains %q", name, "..")
		case len(part) > erofs.MaxName:
			return nil, fmt.Errorf("%q: a part of the name has %d bytes, want at most %d", name, len(part), erofs.MaxName)
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// add implements Add.
func (t *Tree) add(name string, n *inode) error {
	parts, err := split(name)
	if err != nil {
		return err
	}
	if err := n.check(); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if n.isDir() && n.body == nil {
		n.body = &directory{entries: map[string]*inode{}}
	}
	if len(parts) == 0 {
		if !n.isDir() {
			return fmt.Errorf("%q: the root is not a directory", name)
		}
		n.body = t.root.body
		t.root = n
		return nil
	}
	dir, err := t.directory(parts[:len(parts)-1], true)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	last := parts[len(parts)-1]
	if old := dir.entries()[last]; old != nil && old.isDir() {
		if n.isDir() {
			n.body = old.body
		} else if len(old.entries()) > 0 {
			return fmt.Errorf("%q: replaces a directory that is not empty", name)
		}
	} else if old != nil {
		old.links--
	}
	// Cloned, because a part of the name would keep the whole name in memory.
	dir.entries()[strings.Clone(last)] = n
	if !n.isDir() {
		n.links++
	}
	return nil
}

// Link gives the file called target another name.
func (t *Tree) Link(name, target string) error {
	n, err := t.lookup(target)
	if err != nil {
		return fmt.Errorf("%q: hard link to %w", name, err)
	}
	if n.isDir() {
		return fmt.Errorf("%q: hard link to the directory %q", name, target)
	}
	if parts, err := split(name); err == nil && len(parts) > 0 {
		if dir, err := t.directory(parts[:len(parts)-1], false); err == nil && dir.entries()[parts[len(parts)-1]] == n {
			return nil // it already has this name
		}
	}
	return t.add(name, n)
}

// Remove removes a name, and all below it, from the tree. An absent name is not an error.
func (t *Tree) Remove(name string) error {
	parts, err := split(name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return t.Clear("")
	}
	dir, err := t.directory(parts[:len(parts)-1], false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	last := parts[len(parts)-1]
	if n := dir.entries()[last]; n != nil {
		n.unlink()
		delete(dir.entries(), last)
	}
	return nil
}

// Clear empties a directory. It leaves any other file alone. An absent name is not an error.
func (t *Tree) Clear(name string) error {
	parts, err := split(name)
	if err != nil {
		return err
	}
	n, err := t.follow(parts, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, child := range n.entries() {
		child.unlink()
	}
	clear(n.entries())
	return nil
}

func (n *inode) unlink() {
	if !n.isDir() {
		n.links--
	}
	for _, child := range n.entries() {
		child.unlink()
	}
}

// Exclude removes every file whose path from the root matches pattern, in the syntax of
// path.Match. A pattern without a slash matches the last part of any name. Exclude returns how
// many names it removed.
func (t *Tree) Exclude(pattern string) (int, error) {
	pattern = strings.TrimPrefix(pattern, "/")
	if _, err := path.Match(pattern, ""); err != nil {
		return 0, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	count := 0
	var walk func(dir *inode, prefix string)
	walk = func(dir *inode, prefix string) {
		for _, name := range dir.names() {
			full := prefix + name
			matched, _ := path.Match(pattern, full) // the syntax was checked
			if !matched && !strings.Contains(pattern, "/") {
				matched, _ = path.Match(pattern, name)
			}
			child := dir.entries()[name]
			if matched {
				child.unlink()
				delete(dir.entries(), name)
				count++
			} else if child.isDir() {
				walk(child, full+"/")
			}
		}
	}
	walk(t.root, "")
	return count, nil
}

// check refuses a file that EROFS cannot hold.
func (n *inode) check() error {
	switch n.mode & erofs.TypeMask {
	case erofs.TypeRegular:
		if n.size > MaxFile {
			return fmt.Errorf("file of %d bytes, want at most %d", n.size, int64(MaxFile))
		}
		_, ok := n.body.(Content)
		if n.size < 0 || n.size > 0 && !ok {
			return fmt.Errorf("size of %d bytes without data", n.size)
		}
	case erofs.TypeSymlink:
		target, _ := n.body.(symlink)
		if len(target) == 0 || len(target) > MaxSymlink {
			return fmt.Errorf("symbolic link to %d bytes, want 1 to %d", len(target), MaxSymlink)
		}
		if strings.IndexByte(string(target), 0) >= 0 {
			return errors.New("the target of the symbolic link contains a zero byte")
		}
	case erofs.TypeDirectory, erofs.TypeFIFO, erofs.TypeSocket, erofs.TypeCharDevice, erofs.TypeBlockDevice:
	default:
		return fmt.Errorf("file type %#o cannot be kept", n.mode&erofs.TypeMask)
	}
	return nil
}

// DeviceNumber is erofs.Inode.U of a device node (include/linux/kdev_t.h,
// new_encode_dev).
func DeviceNumber(major, minor uint32) (uint32, error) {
	if major >= 1<<12 || minor >= 1<<20 {
		return 0, fmt.Errorf("device %d:%d, want a major of 12 and a minor of 20 bits", major, minor)
	}
	return minor&0xff | major<<8 | minor&^0xff<<12, nil
}
