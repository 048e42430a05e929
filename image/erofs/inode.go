package erofs

// Layout says where the data of an inode is (i_format, bits 1 to 3).
type Layout uint16

// The layouts that this package writes.
const (
	Plain    Layout = 0 // in whole blocks, from block Inode.U on
	Inline   Layout = 2 // after the inode and its attributes, in the same block
	BlockMap Layout = 4 // in chunks; a map after the inode has their blocks
)

const (
	compactSize  = 32
	extendedSize = 64
	xattrHeader  = 12
)

// Inode is the content of an inode.
type Inode struct {
	Mode     uint16 // type and permissions, as in st_mode
	UID, GID uint32
	Links    uint32
	Size     uint64 // bytes
	Time     Time
	Serial   uint32 // i_ino: the number that 32-bit systems see
	Xattrs   string // EncodeXattrs
	Layout   Layout
	U        uint32 // i_u: first block of data, device number or ChunkFormat
}

// compact reports whether the short form can hold n.
func (n Inode) compact(built Time) bool {
	const most = 1<<16 - 1
	return n.Time == built && n.UID <= most && n.GID <= most && n.Links <= most && n.Size < 1<<32
}

// HeadSize returns the size in bytes of the inode with its attributes. Inline data follow it.
// built is the superblock's.
func (n Inode) HeadSize(built Time) int {
	size := n.BareSize(built)
	if len(n.Xattrs) > 0 {
		size += xattrHeader + len(n.Xattrs)
	}
	return size
}

// BareSize returns the size in bytes of the inode without its attributes. That part must not
// cross a block.
func (n Inode) BareSize(built Time) int {
	if n.compact(built) {
		return compactSize
	}
	return extendedSize
}

// Append writes the inode and its attributes, HeadSize bytes (struct
// erofs_inode_compact or erofs_inode_extended, struct erofs_xattr_ibody_header).
func (n Inode) Append(b []byte, built Time) []byte {
	format, xattrs := uint16(n.Layout)<<1, uint16(0)
	if len(n.Xattrs) > 0 {
		xattrs = 1 + uint16(len(n.Xattrs)/xattrUnit)
	}
	if n.compact(built) {
		b = le.AppendUint16(b, format)
		b = le.AppendUint16(b, xattrs)
		b = le.AppendUint16(b, n.Mode)
		b = le.AppendUint16(b, uint16(n.Links))
		b = le.AppendUint32(b, uint32(n.Size))
		b = le.AppendUint32(b, 0) // reserved
		b = le.AppendUint32(b, n.U)
		b = le.AppendUint32(b, n.Serial)
		b = le.AppendUint16(b, uint16(n.UID))
		b = le.AppendUint16(b, uint16(n.GID))
		b = le.AppendUint32(b, 0) // reserved
	} else {
		b = le.AppendUint16(b, format|1)
		b = le.AppendUint16(b, xattrs)
		b = le.AppendUint16(b, n.Mode)
		b = le.AppendUint16(b, 0) // reserved
		b = le.AppendUint64(b, n.Size)
		b = le.AppendUint32(b, n.U)
		b = le.AppendUint32(b, n.Serial)
		b = le.AppendUint32(b, n.UID)
		b = le.AppendUint32(b, n.GID)
		b = le.AppendUint64(b, uint64(n.Time.Seconds)) // the kernel reads it as signed
		b = le.AppendUint32(b, n.Time.Nanoseconds)
		b = le.AppendUint32(b, n.Links)
		b = append(b, make([]byte, 16)...) // reserved
	}
	if len(n.Xattrs) > 0 {
		b = append(b, make([]byte, xattrHeader)...) // no name filter, no shared attributes
		b = append(b, n.Xattrs...)
	}
	return b
}
