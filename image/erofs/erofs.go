// Package erofs writes the structures of an uncompressed EROFS filesystem:
// superblock, inodes, extended attributes, directories and block maps.
//
// It knows bytes, not trees: package image/rootfs decides where inodes and data go.
// The format is that of Linux 6.12, fs/erofs/erofs_fs.h; docs/spec/image.md has the
// offset tables. Integers are little-endian.
package erofs

import "encoding/binary"

// Sizes in bytes.
const (
	BlockSize      = 4096
	InodeUnit      = 32 // an inode's number counts these from the start of the filesystem
	SuperblockAt   = 1024
	SuperblockSize = 128
)

const (
	magic         = 0xe0f5e1e2 // EROFS_SUPER_MAGIC_V1
	blockBits     = 12
	compatMtime   = 0x2 // EROFS_FEATURE_COMPAT_MTIME: the time of an inode is that of its data
	incompatChunk = 0x4 // EROFS_FEATURE_INCOMPAT_CHUNKED_FILE
)

// Superblock is the content of a superblock.
type Superblock struct {
	Root    uint16 // number of the root directory's inode
	Inodes  uint64
	Blocks  uint32 // blocks of the whole filesystem
	Built   Time   // also the time of every compact inode
	Chunked bool   // whether an inode has a block map
}

// Time is a point in time: seconds and nanoseconds since 1970 (UTC).
type Time struct {
	Seconds     int64
	Nanoseconds uint32
}

var le = binary.LittleEndian

// Append writes the superblock, SuperblockSize bytes (struct erofs_super_block).
// It has no checksum: a VM reads it through dm-verity.
func (s Superblock) Append(b []byte) []byte {
	incompat := uint32(0)
	if s.Chunked {
		incompat = incompatChunk
	}
	b = le.AppendUint32(b, magic)
	b = le.AppendUint32(b, 0) // checksum
	b = le.AppendUint32(b, compatMtime)
	b = append(b, blockBits, 0) // no further superblock slots
	b = le.AppendUint16(b, s.Root)
	b = le.AppendUint64(b, s.Inodes)
	b = le.AppendUint64(b, uint64(s.Built.Seconds))
	b = le.AppendUint32(b, s.Built.Nanoseconds)
	b = le.AppendUint32(b, s.Blocks)
	b = le.AppendUint32(b, 0)          // meta_blkaddr: inode numbers count from block 0
	b = le.AppendUint32(b, 0)          // xattr_blkaddr: no shared attributes
	b = append(b, make([]byte, 32)...) // uuid, volume_name
	b = le.AppendUint32(b, incompat)
	return append(b, make([]byte, SuperblockSize-0x54)...)
}
