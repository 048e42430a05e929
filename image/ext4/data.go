package ext4

import (
	"fmt"
	"io"
)

// Data returns the data of a file. Holes, and reserved blocks that were never written, read as
// zeros.
func (f *FS) Data(i Inode) io.Reader { return &data{fs: f, inode: i} }

type data struct {
	fs    *FS
	inode Inode
	at    int64
}

func (d *data) Read(b []byte) (int, error) {
	if d.at >= d.inode.Size {
		return 0, io.EOF
	}
	within := d.at % d.fs.blockSize
	b = b[:min(int64(len(b)), d.fs.blockSize-within, d.inode.Size-d.at)]
	number, err := d.fs.blockOf(d.inode, uint64(d.at/d.fs.blockSize))
	if err != nil {
		return 0, fmt.Errorf("reading inode %d: %w", d.inode.Number, err)
	}
	if number == 0 {
		clear(b)
	} else if block, err := d.fs.readBlock(number); err != nil {
		return 0, fmt.Errorf("reading inode %d: %w", d.inode.Number, err)
	} else {
		copy(b, block[within:])
	}
	d.at += int64(len(b))
	return len(b), nil
}

// blockOf returns the disk block of a file's block, or 0 for a hole.
func (f *FS) blockOf(i Inode, logical uint64) (uint64, error) {
	if i.flags&flagExtents != 0 {
		return f.extentOf(i.place[:], logical)
	}
	const direct = 12
	number := func(table []byte, at uint64) uint64 { return uint64(le.Uint32(table[4*at:])) }
	if logical < direct {
		return number(i.place[:], logical), nil
	}
	logical -= direct
	each := uint64(f.blockSize / 4)
	for depth, reach := uint64(1), each; depth <= 3; depth, reach = depth+1, reach*each {
		if logical >= reach {
			logical -= reach
			continue
		}
		next := number(i.place[:], direct+depth-1)
		for reach /= each; next != 0; reach /= each {
			table, err := f.readBlock(next)
			if err != nil {
				return 0, err
			}
			next = number(table, logical/reach%each)
			if reach == 1 {
				return next, nil
			}
		}
		return 0, nil
	}
	return 0, fmt.Errorf("block %d is beyond the reach of a block map", logical)
}

// Extent trees (fs/ext4/ext4_extents.h): a header, then entries of the same size.
const (
	extentMagic    = 0xf30a
	extentSize     = 12
	maxExtentDepth = 5
	maxWritten     = 1 << 15 // blocks of an extent; a larger length marks an unwritten extent
)

// extentOf is blockOf for a file whose extent tree has the root node.
func (f *FS) extentOf(node []byte, logical uint64) (uint64, error) {
	for want := -1; ; want-- {
		count, depth := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
		if got := le.Uint16(node); got != extentMagic || count > len(node)/extentSize-1 || depth > maxExtentDepth || want >= 0 && depth != want {
			return 0, fmt.Errorf("extent tree: magic %#x, %d entries at depth %d", got, count, depth)
		}
		want = depth
		var last []byte // the last entry that begins at or before the block
		for e := range count {
			entry := node[extentSize*(e+1):][:extentSize]
			if uint64(le.Uint32(entry)) > logical {
				break
			}
			last = entry
		}
		if last == nil {
			return 0, nil
		}
		if depth == 0 {
			return extentBlock(last, logical), nil
		}
		var err error
		if node, err = f.readBlock(uint64(le.Uint32(last[4:])) | uint64(le.Uint16(last[8:]))<<32); err != nil {
			return 0, err
		}
	}
}

// extentBlock returns the disk block for a file's block in an extent.
func extentBlock(extent []byte, logical uint64) uint64 {
	into, length := logical-uint64(le.Uint32(extent)), uint64(le.Uint16(extent[4:]))
	if length > maxWritten || into >= length {
		return 0
	}
	return uint64(le.Uint32(extent[8:])) | uint64(le.Uint16(extent[6:]))<<32 + into
}
