package rootfs

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/image/erofs"
)

// BlockSize is the block size of the filesystem in bytes.
const BlockSize = erofs.BlockSize

// Plan is the layout of a filesystem. Its size is known before any data is read, so everything
// after it can be placed. docs/spec/image.md describes the layout:
//
//	superblock
//	inodes, each with its attributes and what is small enough to be inline
//	blocks of directories
//	blocks of files' data
//
// The inodes of a directory's files are stored together, sorted by name. Those of its first
// directory follow, and so on.
type Plan struct {
	// Size of the filesystem in bytes, a multiple of BlockSize.
	Size int64

	root    *inode
	built   erofs.Time // time of the newest file, so that a tree always gives the same bytes
	inodes  uint64
	chunked bool
	dirs    int64 // first block of directories
	data    int64 // first block of files' data
}

// dirent is a name in a directory. The list includes "." and "..", as in the filesystem.
type dirent struct {
	name string
	n    *inode
}

// Plan lays the filesystem out. The plan then owns the tree, which must not be used afterwards.
func (t *Tree) Plan() (*Plan, error) {
	p := &Plan{root: t.root, built: t.root.time}
	t.root = nil
	p.sort(p.root, p.root)
	at := int64(erofs.SuperblockAt + erofs.SuperblockSize)
	var dirs, data int64 // blocks
	err := p.walk(func(_ filePath, n *inode) error {
		p.inodes++
		head, tail := p.describe(n)
		switch {
		case head.Layout == erofs.BlockMap:
			p.chunked = true
			n.u = uint32(data)
			data += n.body.(*sparse).blocks()
		case tail == 0 && n.isDir():
			n.u = uint32(dirs)
			dirs += blocks(n.size)
		case tail == 0 && n.size > 0:
			n.u = uint32(data)
			data += blocks(n.size)
		}
		if dirs+data > math.MaxUint32 {
			return tooLarge(dirs + data)
		}
		n.place, at = place(at, head.BareSize(p.built), head.HeadSize(p.built), tail, head.Layout)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("laying out the filesystem: %w", err)
	}
	p.dirs = blocks(at)
	p.data = p.dirs + dirs
	if p.data+data > math.MaxUint32 {
		return nil, fmt.Errorf("laying out the filesystem: %w", tooLarge(p.data+data))
	}
	p.Size = (p.data + data) * BlockSize
	return p, nil
}

func tooLarge(count int64) error {
	return fmt.Errorf("%d blocks of %d bytes, want less than 2^32", count, BlockSize)
}

// blocks returns how many blocks size bytes take.
func blocks(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// place finds the first possible byte for an inode from at on, and the byte after the inode's
// data. bare is the inode's size, head its size with attributes, tail the size of its inline
// data or block map.
func place(at int64, bare, head, tail int, layout erofs.Layout) (start, end int64) {
	start = (at + erofs.InodeUnit - 1) / erofs.InodeUnit * erofs.InodeUnit
	crosses := func(from int64, size int) bool { return from%BlockSize+int64(size) > BlockSize }
	if crosses(start, bare) || layout == erofs.Inline && crosses(start+int64(head), tail) {
		start = blocks(start) * BlockSize
	}
	return start, start + int64(head) + int64(tail)
}

// sort turns the entries of dir and all below it into sorted lists, counts the
// links of directories and finds the newest file.
func (p *Plan) sort(dir, parent *inode) {
	d := dir.body.(*directory)
	d.list = make([]dirent, 0, len(d.entries)+2)
	d.list = append(d.list, dirent{".", dir}, dirent{"..", parent})
	for name, n := range d.entries {
		d.list = append(d.list, dirent{name, n})
	}
	d.entries = nil
	slices.SortFunc(d.list, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	dir.links, dir.size = 2, directorySize(d.list)
	for e := range d.children() {
		if p.built.Seconds < e.n.time.Seconds || p.built.Seconds == e.n.time.Seconds && p.built.Nanoseconds < e.n.time.Nanoseconds {
			p.built = e.n.time
		}
		if e.n.isDir() {
			dir.links++
			p.sort(e.n, dir)
		}
	}
}

// children yields the entries except "." and "..".
func (d *directory) children() iter.Seq[dirent] {
	return func(yield func(dirent) bool) {
		for _, e := range d.list {
			if e.name != "." && e.name != ".." && !yield(e) {
				return
			}
		}
	}
}

// directorySize is the size of a directory's data in bytes.
func directorySize(list []dirent) int64 {
	size := int64(0)
	for {
		fit, used := erofs.DirentsInBlock(len(list), func(i int) string { return list[i].name })
		if fit == len(list) {
			return size + int64(used)
		}
		size, list = size+BlockSize, list[fit:]
	}
}

// filePath is the path of an inode: the names of the directories above it, and its
// own.
type filePath []string

func (t filePath) String() string {
	if len(t) == 0 {
		return "."
	}
	return strings.Join(t, "/")
}

// walk visits every inode once, under its first name, in the order of their places.
// The path is valid until the visit ends. Places grow from visit to visit, also in
// the visit that gives them. So if an inode's place is not after the last one, the
// inode was visited under another name.
func (p *Plan) walk(visit func(name filePath, n *inode) error) error {
	last := int64(0) // place of the last visited inode
	once := func(name filePath, n *inode) error {
		if n.place != 0 && n.place <= last {
			return nil // under another of its names
		}
		if err := visit(name, n); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		last = n.place
		return nil
	}
	var below func(name filePath, dir *inode) error
	below = func(name filePath, dir *inode) error {
		d := dir.body.(*directory)
		for e := range d.children() {
			if err := once(append(name, e.name), e.n); err != nil {
				return err
			}
		}
		for e := range d.children() {
			if e.n.isDir() {
				if err := below(append(name, e.name), e.n); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := once(nil, p.root); err != nil {
		return err
	}
	return below(nil, p.root)
}

// describe returns the content of n's inode, and the size in bytes of its inline data or block
// map. Before the layout is made, U has no meaning.
func (p *Plan) describe(n *inode) (head erofs.Inode, tail int) {
	head = erofs.Inode{
		Mode: n.mode, UID: n.uid, GID: n.gid, Links: n.links, Size: uint64(n.size), Time: n.time,
		Serial: uint32(n.place / erofs.InodeUnit), Xattrs: n.xattrs, Layout: erofs.Plain, U: n.u,
	}
	if n.size == 0 {
		return head, 0 // U is a device number or zero
	}
	base := p.data
	switch n.body.(type) {
	case *sparse:
		bits := chunkBits(n.size)
		head.Layout, head.U = erofs.BlockMap, erofs.ChunkFormat(bits)
		return head, int(chunks(n.size, bits)) * erofs.BlockMapUnit
	case *directory:
		base = p.dirs
	}
	if n.size < BlockSize && int64(head.HeadSize(p.built)%BlockSize)+n.size <= BlockSize {
		head.Layout, head.U = erofs.Inline, 0
		return head, int(n.size)
	}
	head.U += uint32(base)
	return head, 0
}
