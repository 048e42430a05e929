package rootfs

import (
	"fmt"
	"path"
	"slices"
)

// On-disk format of EROFS (Linux, fs/erofs/erofs_fs.h): offsets and sizes in
// bytes, little-endian.
const (
	superblockAt = 1024
	atInodes     = superblockAt + 0x10 // u64: number of inodes
	atMetaBlock  = superblockAt + 0x28 // u32: block where inodes start
	inodeUnit    = 32                  // an inode number counts these from there
	compactInode = 32
	fullInode    = 64
	xattrHeader  = 12
	direntSize   = 12
	layoutPlain  = 0
	layoutInline = 2
)

// findPatches reads the sketch's directories and finds, for every placeholder,
// the entry that has to point elsewhere.
func (p *Plan) findPatches(s *sketch) error {
	if len(p.view.first) == 0 {
		return nil
	}
	r := linkReader{sketch: s, view: p.view, inodes: map[*Inode]uint64{}}
	var meta [4]byte
	s.ReadAt(meta[:], atMetaBlock)
	r.meta = int64(le.Uint32(meta[:])) * BlockSize
	if err := r.directory(p.view.root, ".", 0); err != nil {
		return err
	}
	for _, l := range r.links {
		change := patch{offset: l.at}
		le.PutUint64(change.old[:], l.placeholder)
		le.PutUint64(change.new[:], r.inodes[l.n])
		p.patches = append(p.patches, change)
	}
	// Placeholders are no inodes.
	count := patch{offset: atInodes}
	s.ReadAt(count.old[:], atInodes)
	le.PutUint64(count.new[:], le.Uint64(count.old[:])-uint64(len(r.links)))
	p.patches = append(p.patches, count)
	slices.SortFunc(p.patches, func(a, b patch) int { return int(a.offset - b.offset) })
	return nil
}

// linkReader walks directories of the sketch and of the tree side by side.
type linkReader struct {
	sketch *sketch
	view   *view
	meta   int64             // byte where inodes start
	inodes map[*Inode]uint64 // :: inode with several names -> its number
	links  []link
}

// link is a directory entry of a placeholder.
type link struct {
	n           *Inode
	at          int64 // byte of the entry's inode number
	placeholder uint64
}

func (r *linkReader) directory(dir *Inode, name string, number uint64) error {
	at := r.meta + int64(number)*inodeUnit
	var inode [fullInode]byte
	r.sketch.ReadAt(inode[:], at)
	format, xattrs := le.Uint16(inode[0:]), int64(le.Uint16(inode[2:]))
	size, end := int64(le.Uint32(inode[8:])), at+compactInode
	if format&1 != 0 {
		size, end = int64(le.Uint64(inode[8:])), at+fullInode
	}
	if xattrs > 0 {
		end += xattrHeader + (xattrs-1)*4
	}
	data := end
	switch layout := format >> 1 & 7; layout {
	case layoutInline:
	case layoutPlain:
		data = int64(le.Uint32(inode[16:])) * BlockSize
	default:
		return fmt.Errorf("directory %q has layout %d", name, layout)
	}
	for ; size > 0; size, data = size-BlockSize, data+BlockSize {
		block := make([]byte, min(size, BlockSize))
		r.sketch.ReadAt(block, data)
		if err := r.block(dir, name, block, data); err != nil {
			return err
		}
	}
	return nil
}

// block reads one block of entries, which starts at byte at.
func (r *linkReader) block(dir *Inode, name string, block []byte, at int64) error {
	count := int(le.Uint16(block[8:])) / direntSize
	for i := range count {
		entry := block[i*direntSize:]
		start, end := int(le.Uint16(entry[8:])), len(block)
		if i+1 < count {
			end = int(le.Uint16(entry[direntSize+8:]))
		}
		for end > start && block[end-1] == 0 {
			end--
		}
		base := string(block[start:end])
		if base == "." || base == ".." {
			continue
		}
		child := dir.entries[base]
		if child == nil {
			return fmt.Errorf("directory %q has %q, which is not in the tree", name, base)
		}
		full, number := path.Join(name, base), le.Uint64(entry)
		switch first, shared := r.view.first[child]; {
		case child.Mode.IsDir():
			if err := r.directory(child, full, number); err != nil {
				return err
			}
		case shared && first == full:
			r.inodes[child] = number
		case shared:
			r.links = append(r.links, link{child, at + int64(i)*direntSize, number})
		}
	}
	return nil
}
