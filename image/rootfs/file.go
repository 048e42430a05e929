package rootfs

import (
	"io"
	"path"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/image/erofs"
)

// File is the file under a name of a Tree.
type File struct {
	Mode     uint16 // erofs.Inode.Mode
	UID, GID uint32
	Device   uint32 // only of a device node: see DeviceNumber
	Time     erofs.Time
	Target   string            // only of a symbolic link
	Size     int64             // of a regular file, in bytes
	Content  Content           // data of a regular file; nil if it is empty
	At       int64             // Stored.At
	Xattrs   map[string]string // full names
}

// Content is the data of regular files. One Content serves all files of an archive or a
// directory tree.
type Content interface {
	// Open returns the data of a file. name is its first name in the tree.
	Open(name string, s Stored) (io.ReadCloser, error)
}

// Stored identifies a file to a Content.
type Stored struct {
	At   int64 // as in File; the Content defines its meaning
	Size int64
	Time erofs.Time
}

// Add gives a file a name. As in an archive, a later file replaces an earlier one, and
// directories merge. Symbolic links in the path of the name are followed as in a chroot, so
// they never lead out of the tree. Add refuses a name below a file that is not a directory, and
// a replacement of a directory that is not empty, except by a directory.
func (t *Tree) Add(name string, f File) error {
	n := &inode{mode: f.Mode, uid: f.UID, gid: f.GID, u: f.Device, time: f.Time, at: f.At}
	switch f.Mode & erofs.TypeMask {
	case erofs.TypeSymlink:
		n.body, n.size = symlink(f.Target), int64(len(f.Target))
	case erofs.TypeRegular:
		n.size = f.Size
		if f.Content != nil {
			n.body = f.Content
		}
	}
	if err := t.encodeXattrs(n, f.Xattrs); err != nil {
		return err
	}
	return t.add(name, n)
}

// Node is a file of a Tree.
type Node struct {
	n    *inode
	name string
}

// Lookup returns the file of that name. It follows symbolic links in the path, but not in the
// last part.
func (t *Tree) Lookup(name string) (Node, error) {
	n, err := t.lookup(name)
	return Node{n, cleaned(name)}, err
}

// Follow returns the file of that name. It follows symbolic links, also in the last part. If
// the file does not exist, the error matches fs.ErrNotExist.
func (t *Tree) Follow(name string) (Node, error) {
	parts, err := split(name)
	if err != nil {
		return Node{}, err
	}
	n, err := t.follow(parts, false)
	return Node{n, cleaned(name)}, err
}

// cleaned is a name in the form of Node's names.
func cleaned(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

// Root returns the tree's root directory.
func (t *Tree) Root() Node { return Node{t.root, "."} }

// Name returns the path from the root by which the file was found.
func (n Node) Name() string { return n.name }

// IsDir reports whether the file is a directory.
func (n Node) IsDir() bool { return n.n.isDir() }

// Type returns the file's type: one of erofs.Type….
func (n Node) Type() uint16 { return n.n.mode & erofs.TypeMask }

// Stat returns all that the tree knows about the file, except its extended attributes.
func (n Node) Stat() File {
	f := File{Mode: n.n.mode, UID: n.n.uid, GID: n.n.gid, Time: n.n.time, At: n.n.at}
	switch b := n.n.body.(type) {
	case symlink:
		f.Target = string(b)
	case Content:
		f.Content = b
	}
	switch n.Type() {
	case erofs.TypeRegular:
		f.Size = n.n.size
	case erofs.TypeCharDevice, erofs.TypeBlockDevice:
		f.Device = n.n.u
	}
	return f
}

// Links counts the names of a file that is not a directory.
func (n Node) Links() int { return int(n.n.links) }

// Xattrs returns the extended attributes as erofs.EncodeXattrs writes them.
func (n Node) Xattrs() string { return n.n.xattrs }

// Open returns the data of a regular file.
func (n Node) Open() (io.ReadCloser, error) {
	if c, ok := n.n.body.(Content); ok {
		return c.Open(n.name, n.n.stored())
	}
	return io.NopCloser(emptyFile{}), nil
}

type emptyFile struct{}

func (emptyFile) Read([]byte) (int, error) { return 0, io.EOF }

// Children returns the files in a directory, sorted by name.
func (n Node) Children() []Node {
	names := n.n.names()
	nodes := make([]Node, len(names))
	for i, name := range names {
		nodes[i] = Node{n.n.entries()[name], path.Join(n.name, name)}
	}
	return nodes
}

// Walk visits the file and all files below it, in the order of their names. If visit
// returns false for a directory, Walk does not enter it.
func (n Node) Walk(visit func(Node) bool) {
	if !visit(n) {
		return
	}
	for _, child := range n.Children() {
		child.Walk(visit)
	}
}

// Marked reports whether overlayfs, under which a VM mounts its root, treats the file as its
// own and hides it: a whiteout (device 0:0), or a file with attributes of overlayfs.
func (t *Tree) Marked(n Node) bool {
	return n.Type() == erofs.TypeCharDevice && n.n.u == 0 || t.marked[n.n.xattrs]
}

// names returns the names in a directory, sorted bytewise.
func (n *inode) names() []string {
	names := make([]string, 0, len(n.entries()))
	for name := range n.entries() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (n *inode) stored() Stored { return Stored{n.at, n.size, n.time} }
