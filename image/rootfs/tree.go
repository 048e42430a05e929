// Package rootfs makes an EROFS root filesystem from a tar, a directory or the
// layers of an OCI image.
//
// Nothing is extracted: a Tree holds the metadata of every file, and the place
// where its data lies. So ownership, device nodes and capabilities need no
// privileges, and what a tar says cannot reach out of it. Whatever EROFS or the
// writer cannot keep is refused by name; nothing is dropped in silence.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Limits of the kernel (include/uapi/linux/limits.h, fs/erofs) in bytes.
const (
	maxName       = 255  // NAME_MAX
	maxSymlink    = 4095 // PATH_MAX less the final zero byte
	maxXattrValue = 1<<16 - 1
	maxXattrs     = 1 << 17 // all of one inode; the inode counts them in units of 4 bytes, 16 bits
)

// Inode is one file of a Tree; hard links are several names of one Inode.
type Inode struct {
	Mode         fs.FileMode // type, permissions, setuid, setgid, sticky
	UID, GID     uint32
	ModTime      time.Time
	Size         int64             // bytes, of a regular file
	Target       string            // of a symbolic link
	Major, Minor uint32            // of a device node
	Xattrs       map[string]string // :: full name, as getfattr shows it -> value

	// Open returns the data of a regular file; nil means none.
	Open func() (io.ReadCloser, error)

	entries map[string]*Inode // :: name -> child, of a directory
	links   int               // names, of anything but a directory
}

// Tree is a file tree under construction.
type Tree struct{ root *Inode }

// New returns a tree with nothing but a root directory: mode 0755, owner root,
// time 0.
func New() *Tree { return &Tree{newDirectory()} }

func newDirectory() *Inode {
	return &Inode{Mode: fs.ModeDir | 0o755, ModTime: time.Unix(0, 0), entries: map[string]*Inode{}}
}

// split cuts a name as archives have it ("./etc/passwd", "/etc/passwd", "etc/")
// into its parts. The root has none.
func split(name string) ([]string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return nil, fmt.Errorf("%q: the name contains a zero byte", name)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return nil, fmt.Errorf("%q: the name contains %q", name, "..")
		case len(part) > maxName:
			return nil, fmt.Errorf("%q: a part of the name has %d bytes, want at most %d", name, len(part), maxName)
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// directory finds the directory at parts. With create, missing ones are made
// like New's root.
func (t *Tree) directory(parts []string, create bool) (*Inode, error) {
	dir := t.root
	for i, part := range parts {
		next := dir.entries[part]
		if next == nil && create {
			next = newDirectory()
			dir.entries[part] = next
		}
		if next == nil {
			return nil, fmt.Errorf("%q: %w", path.Join(parts[:i+1]...), fs.ErrNotExist)
		}
		if !next.Mode.IsDir() {
			return nil, fmt.Errorf("%q is not a directory", path.Join(parts[:i+1]...))
		}
		dir = next
	}
	return dir, nil
}

// Add gives n a name. As in an archive, what comes later replaces what came
// before; directories merge. Refused are: a name below something that is not a
// directory, and anything but a directory in place of one that is not empty.
func (t *Tree) Add(name string, n *Inode) error {
	parts, err := split(name)
	if err != nil {
		return err
	}
	if err := n.check(); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if n.Mode.IsDir() && n.entries == nil {
		n.entries = map[string]*Inode{}
	}
	if len(parts) == 0 {
		if !n.Mode.IsDir() {
			return fmt.Errorf("%q: the root is not a directory", name)
		}
		n.entries = t.root.entries
		t.root = n
		return nil
	}
	dir, err := t.directory(parts[:len(parts)-1], true)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	last := parts[len(parts)-1]
	if old := dir.entries[last]; old != nil && old.Mode.IsDir() {
		if n.Mode.IsDir() {
			n.entries = old.entries
		} else if len(old.entries) > 0 {
			return fmt.Errorf("%q: replaces a directory that is not empty", name)
		}
	} else if old != nil {
		old.links--
	}
	// Not a part of the whole name, which would stay with it.
	dir.entries[strings.Clone(last)] = n
	if !n.Mode.IsDir() {
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
	if n.Mode.IsDir() {
		return fmt.Errorf("%q: hard link to the directory %q", name, target)
	}
	if parts, err := split(name); err == nil && len(parts) > 0 {
		if dir, err := t.directory(parts[:len(parts)-1], false); err == nil && dir.entries[parts[len(parts)-1]] == n {
			return nil // it has this name already
		}
	}
	return t.Add(name, n)
}

func (t *Tree) lookup(name string) (*Inode, error) {
	parts, err := split(name)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		return t.root, nil
	}
	dir, err := t.directory(parts[:len(parts)-1], false)
	if err != nil {
		return nil, err
	}
	n := dir.entries[parts[len(parts)-1]]
	if n == nil {
		return nil, fmt.Errorf("%q: %w", name, fs.ErrNotExist)
	}
	return n, nil
}

// Remove takes a name, and all below it, out of the tree. An absent name is no
// error.
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
	if n := dir.entries[last]; n != nil {
		n.unlink()
		delete(dir.entries, last)
	}
	return nil
}

// Clear empties a directory. An absent one is no error.
func (t *Tree) Clear(name string) error {
	n, err := t.lookup(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, child := range n.entries {
		child.unlink()
	}
	clear(n.entries)
	return nil
}

func (n *Inode) unlink() {
	if !n.Mode.IsDir() {
		n.links--
	}
	for _, child := range n.entries {
		child.unlink()
	}
}

// Exclude removes every file whose path from the root matches pattern, in the
// syntax of path.Match; a pattern without a slash matches the last part of a
// name anywhere. It returns how many names went.
func (t *Tree) Exclude(pattern string) (int, error) {
	pattern = strings.TrimPrefix(pattern, "/")
	if _, err := path.Match(pattern, ""); err != nil {
		return 0, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	count := 0
	var walk func(dir *Inode, prefix string)
	walk = func(dir *Inode, prefix string) {
		for _, name := range dir.names() {
			full := prefix + name
			matched, _ := path.Match(pattern, full) // the syntax was checked
			if !matched && !strings.Contains(pattern, "/") {
				matched, _ = path.Match(pattern, name)
			}
			child := dir.entries[name]
			if matched {
				child.unlink()
				delete(dir.entries, name)
				count++
			} else if child.Mode.IsDir() {
				walk(child, full+"/")
			}
		}
	}
	walk(t.root, "")
	return count, nil
}

// names returns the names in a directory, sorted bytewise.
func (n *Inode) names() []string {
	names := make([]string, 0, len(n.entries))
	for name := range n.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// check refuses what EROFS cannot hold.
func (n *Inode) check() error {
	switch n.Mode.Type() {
	case 0, fs.ModeDir, fs.ModeNamedPipe, fs.ModeSocket:
	case fs.ModeSymlink:
		if len(n.Target) == 0 || len(n.Target) > maxSymlink {
			return fmt.Errorf("symbolic link to %d bytes, want 1 to %d", len(n.Target), maxSymlink)
		}
		if strings.IndexByte(n.Target, 0) >= 0 {
			return errors.New("the target of the symbolic link contains a zero byte")
		}
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		if n.Major >= 1<<12 || n.Minor >= 1<<20 {
			return fmt.Errorf("device %d:%d, want a major of 12 and a minor of 20 bits", n.Major, n.Minor)
		}
	default:
		return fmt.Errorf("file type %v cannot be kept", n.Mode.Type())
	}
	if n.Size < 0 || n.Size > 0 && (!n.Mode.IsRegular() || n.Open == nil) {
		return fmt.Errorf("size of %d bytes without data", n.Size)
	}
	total := 0
	for name, value := range n.Xattrs {
		_, suffix, ok := xattrIndex(name)
		if !ok {
			return fmt.Errorf("extended attribute %q cannot be kept: EROFS knows user, trusted, security and POSIX ACLs", name)
		}
		if len(suffix) > maxName || len(value) > maxXattrValue {
			return fmt.Errorf("extended attribute %q has a name of %d and a value of %d bytes, want at most %d and %d", name, len(name), len(value), maxName, maxXattrValue)
		}
		total += len(suffix) + len(value) + 8
	}
	if total > maxXattrs {
		return fmt.Errorf("extended attributes have %d bytes, want at most %d", total, maxXattrs)
	}
	return nil
}

// xattrIndex splits an attribute's name as EROFS does (fs/erofs/erofs_fs.h,
// EROFS_XATTR_INDEX_*) and tells whether it can.
func xattrIndex(name string) (prefix, suffix string, ok bool) {
	for _, prefix := range []string{"user.", "trusted.", "security."} {
		if suffix, found := strings.CutPrefix(name, prefix); found && suffix != "" {
			return prefix, suffix, true
		}
	}
	if name == "system.posix_acl_access" || name == "system.posix_acl_default" {
		return name, "", true
	}
	return "", "", false
}
