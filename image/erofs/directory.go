package erofs

const (
	direntSize = 12
	// MaxName is the longest name in a directory, in bytes.
	MaxName = 255
)

// Dirent is an entry of a directory. The entries are sorted by name, bytewise; "." and ".." are
// sorted among them.
type Dirent struct {
	Name  string
	Inode uint64 // the inode's number
	Mode  uint16 // the inode's mode, for its type
}

// DirentsInBlock returns how many of count entries fit into one block, and how many bytes they
// take. name returns the name of an entry.
func DirentsInBlock(count int, name func(i int) string) (fit, size int) {
	for fit < count {
		more := direntSize + len(name(fit))
		if size+more > BlockSize {
			break
		}
		fit, size = fit+1, size+more
	}
	return fit, size
}

// AppendDirents writes the entries of one block (struct erofs_dirent), then
// their names.
func AppendDirents(b []byte, entries []Dirent) []byte {
	name := len(entries) * direntSize
	for _, e := range entries {
		b = le.AppendUint64(b, e.Inode)
		b = le.AppendUint16(b, uint16(name))
		b = append(b, fileType(e.Mode), 0)
		name += len(e.Name)
	}
	for _, e := range entries {
		b = append(b, e.Name...)
	}
	return b
}

// Types of files in Inode.Mode (inode(7), S_IFMT and following).
const (
	TypeMask        = 0xf000
	TypeSocket      = 0xc000
	TypeSymlink     = 0xa000
	TypeRegular     = 0x8000
	TypeBlockDevice = 0x6000
	TypeDirectory   = 0x4000
	TypeCharDevice  = 0x2000
	TypeFIFO        = 0x1000
)

// fileType is the type of a directory entry (FT_* of include/linux/fs_types.h).
func fileType(mode uint16) byte {
	switch mode & TypeMask {
	case TypeRegular:
		return 1
	case TypeDirectory:
		return 2
	case TypeCharDevice:
		return 3
	case TypeBlockDevice:
		return 4
	case TypeFIFO:
		return 5
	case TypeSocket:
		return 6
	case TypeSymlink:
		return 7
	}
	return 0
}
