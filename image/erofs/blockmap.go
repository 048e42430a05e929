package erofs

// Hole is the block of a chunk without data: it reads as zeros and takes no
// space (EROFS_NULL_ADDR).
const Hole = 1<<32 - 1

// BlockMapUnit is the size of a block map's entry in bytes, and the alignment of the map. Each
// entry is the first block of a chunk, or Hole.
const BlockMapUnit = 4

// ChunkFormat is Inode.U of a file with a block map. The file's chunks have BlockSize << bits
// bytes (struct erofs_inode_chunk_info: bits in the lower five bits, no chunk indexes).
func ChunkFormat(bits int) uint32 { return uint32(bits) }

// AppendBlock writes one entry of a block map.
func AppendBlock(b []byte, block uint32) []byte { return le.AppendUint32(b, block) }
