// Package ext4 reads the files of an ext2, ext3 or ext4 filesystem.
//
// image build uses it to inspect a filesystem before a VM boots from it. The package refuses
// features that it does not know, and changes nothing. It checks every value that could make it
// loop, or allocate more than a block or a directory has. The format is that of Linux 6.12,
// fs/ext4/ext4.h and Documentation/filesystems/ext4. Integers are little-endian.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Root is the inode of the root directory (EXT4_ROOT_INO).
const Root = 2

const (
	superblockAt   = 1024
	superblockSize = 1024
	magic          = 0xef53
)

// Incompatible features (s_feature_incompat) that do not matter to a reader, or that this
// reader knows. It refuses compressed, encrypted and inline data, a journal that needs
// recovery, and block group descriptors spread over the disk.
const (
	incompatFileType = 0x2
	incompat64Bit    = 0x80
	incompatKnown    = incompatFileType |
		0x40 | // extents
		incompat64Bit |
		0x100 | // MMP
		0x200 | // flexible block groups
		0x400 | // attributes in inodes of their own
		0x2000 | // seed of the checksums
		0x4000 | // large directories
		0x20000 // names without case
)

// maxGroups bounds the number of block groups: as many as a usual filesystem of 128 TiB has.
const maxGroups = 1 << 20

var le = binary.LittleEndian

// FS is a filesystem.
type FS struct {
	r              io.ReaderAt
	blockSize      int64
	blocks         uint64
	inodes         uint32
	inodesPerGroup uint32
	inodeSize      int64
	tables         []uint64 // :: block group -> first block of its inodes
}

// Open reads the superblock and the block group descriptors.
func Open(r io.ReaderAt) (*FS, error) {
	sb := make([]byte, superblockSize)
	if _, err := r.ReadAt(sb, superblockAt); err != nil {
		return nil, fmt.Errorf("reading superblock: %w", err)
	}
	if got := le.Uint16(sb[0x38:]); got != magic {
		return nil, fmt.Errorf("reading superblock: s_magic is %#x, want %#x", got, magic)
	}
	incompat := le.Uint32(sb[0x60:])
	if unknown := incompat &^ incompatKnown; unknown != 0 {
		return nil, fmt.Errorf("reading superblock: s_feature_incompat has %#x, which this reader does not know", unknown)
	}
	f := &FS{r: r, blocks: uint64(le.Uint32(sb[0x04:])), inodes: le.Uint32(sb[0x00:]), inodesPerGroup: le.Uint32(sb[0x28:]), inodeSize: 128}
	if log := le.Uint32(sb[0x18:]); log <= 6 {
		f.blockSize = 1024 << log
	}
	if le.Uint32(sb[0x4c:]) > 0 { // s_rev_level
		f.inodeSize = int64(le.Uint16(sb[0x58:]))
	}
	descriptor := int64(32)
	if incompat&incompat64Bit != 0 {
		f.blocks |= uint64(le.Uint32(sb[0x150:])) << 32
		descriptor = int64(le.Uint16(sb[0xfe:]))
	}
	perGroup := uint64(le.Uint32(sb[0x20:]))
	if f.blockSize == 0 || f.inodesPerGroup == 0 || perGroup == 0 || f.inodeSize < 128 || f.inodeSize > f.blockSize || descriptor < 32 || descriptor > f.blockSize {
		return nil, errors.New("reading superblock: sizes of blocks, inodes or block groups are impossible")
	}
	if perGroup > uint64(f.blockSize)*8 || f.inodesPerGroup > uint32(f.blockSize)*8 || f.blocks > 1<<40 {
		return nil, fmt.Errorf("reading superblock: %d blocks and %d inodes in a group, of %d blocks", perGroup, f.inodesPerGroup, f.blocks)
	}
	first := uint64(le.Uint32(sb[0x14:]))
	if first >= f.blocks {
		return nil, fmt.Errorf("reading superblock: the first block is %d of %d", first, f.blocks)
	}
	groups := (f.blocks - first + perGroup - 1) / perGroup
	if groups > maxGroups {
		return nil, fmt.Errorf("reading superblock: %d block groups, want at most %d", groups, maxGroups)
	}
	return f, f.readTables(int64(first+1)*f.blockSize, groups, descriptor)
}

// readTables reads the place of each block group's inodes.
func (f *FS) readTables(at int64, groups uint64, size int64) error {
	descriptor := make([]byte, size)
	for range groups {
		if _, err := f.r.ReadAt(descriptor, at); err != nil {
			return fmt.Errorf("reading block group descriptor: %w", err)
		}
		at += size
		table := uint64(le.Uint32(descriptor[0x08:]))
		if size >= 64 {
			table |= uint64(le.Uint32(descriptor[0x28:])) << 32
		}
		f.tables = append(f.tables, table)
	}
	return nil
}

// readBlock reads one block.
func (f *FS) readBlock(number uint64) ([]byte, error) {
	if number == 0 || number >= f.blocks {
		return nil, fmt.Errorf("reading block %d: got one beyond the %d of the filesystem", number, f.blocks)
	}
	block := make([]byte, f.blockSize)
	if _, err := f.r.ReadAt(block, int64(number)*f.blockSize); err != nil {
		return nil, fmt.Errorf("reading block %d: %w", number, err)
	}
	return block, nil
}
