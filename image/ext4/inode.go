package ext4

import (
	"fmt"
	"io"
)

// File types in an inode's mode (include/uapi/linux/stat.h).
const (
	typeMask      = 0o170000
	typeDirectory = 0o040000
	typeSymlink   = 0o120000
)

// Inode is a file.
type Inode struct {
	Number      uint32
	Mode        uint16 // as in st_mode
	Links       uint16
	UID, GID    uint32
	Size        int64
	Seconds     int64 // last change of the data, since 1970
	Nanoseconds uint32
	Device      uint32 // of a device node, in the kernel's new encoding

	flags uint32
	place [60]byte // i_block: map of the data, or the target of a short link
}

// Flags of an inode (i_flags).
const (
	flagCompressed = 0x4
	flagEncrypted  = 0x800
	flagExtents    = 0x80000
	flagInline     = 0x10000000
)

// Inode reads an inode.
func (f *FS) Inode(number uint32) (Inode, error) {
	group := uint32(0)
	if number != 0 {
		group = (number - 1) / f.inodesPerGroup
	}
	if number == 0 || number > f.inodes || int(group) >= len(f.tables) {
		return Inode{}, fmt.Errorf("reading inode %d: got one beyond the %d of the filesystem", number, f.inodes)
	}
	at := int64(f.tables[group])*f.blockSize + int64((number-1)%f.inodesPerGroup)*f.inodeSize
	raw := make([]byte, f.inodeSize)
	if _, err := f.r.ReadAt(raw, at); err != nil {
		return Inode{}, fmt.Errorf("reading inode %d: %w", number, err)
	}
	i := Inode{
		Number: number, Mode: le.Uint16(raw), Links: le.Uint16(raw[0x1a:]),
		UID:     uint32(le.Uint16(raw[0x02:])) | uint32(le.Uint16(raw[0x78:]))<<16,
		GID:     uint32(le.Uint16(raw[0x18:])) | uint32(le.Uint16(raw[0x7a:]))<<16,
		Size:    int64(le.Uint32(raw[0x04:])) | int64(le.Uint32(raw[0x6c:]))<<32,
		Seconds: int64(int32(le.Uint32(raw[0x10:]))),
		flags:   le.Uint32(raw[0x20:]),
	}
	copy(i.place[:], raw[0x28:])
	if len(raw) >= 0x8c && le.Uint16(raw[0x80:]) >= 0x0c { // i_extra_isize covers i_mtime_extra
		extra := le.Uint32(raw[0x88:])
		i.Seconds += int64(extra&3) << 32
		i.Nanoseconds = extra >> 2
	}
	if i.Device = le.Uint32(i.place[:]); i.Device != 0 { // the old encoding
		i.Device = i.Device&0xff | i.Device>>8&0xff<<8
	} else {
		i.Device = le.Uint32(i.place[4:])
	}
	if i.Size < 0 {
		return Inode{}, fmt.Errorf("reading inode %d: the size is %d bytes", number, i.Size)
	}
	if i.flags&(flagCompressed|flagEncrypted|flagInline) != 0 {
		return Inode{}, fmt.Errorf("reading inode %d: i_flags is %#x, data that this reader does not know", number, i.flags)
	}
	return i, nil
}

// IsDir reports whether i is a directory.
func (i Inode) IsDir() bool { return i.Mode&typeMask == typeDirectory }

// maxTarget is PATH_MAX (include/uapi/linux/limits.h).
const maxTarget = 4096

// Target reads a symbolic link.
func (f *FS) Target(i Inode) (string, error) {
	if i.Mode&typeMask != typeSymlink || i.Size == 0 || i.Size >= maxTarget {
		return "", fmt.Errorf("reading inode %d: mode %o with %d bytes is no symbolic link", i.Number, i.Mode, i.Size)
	}
	if i.Size < int64(len(i.place)) && i.flags&flagExtents == 0 {
		return string(i.place[:i.Size]), nil
	}
	target, err := io.ReadAll(f.Data(i))
	return string(target), err
}

// Entry is a name in a directory.
type Entry struct {
	Name   string
	Number uint32 // of the inode
}

// maxDirectory bounds a directory in bytes.
const maxDirectory = 1 << 30

// Entries reads a directory, without "." and "..". The nodes of a hash tree are made to look
// like blocks without names, so Entries skips them.
func (f *FS) Entries(dir Inode) ([]Entry, error) {
	if !dir.IsDir() || dir.Size > maxDirectory || dir.Size%f.blockSize != 0 {
		return nil, fmt.Errorf("reading inode %d: mode %o with %d bytes is no directory", dir.Number, dir.Mode, dir.Size)
	}
	var all []Entry
	data := f.Data(dir)
	block := make([]byte, f.blockSize)
	for range dir.Size / f.blockSize {
		if _, err := io.ReadFull(data, block); err != nil {
			return nil, fmt.Errorf("reading directory %d: %w", dir.Number, err)
		}
		for rest := block; len(rest) > 0; {
			const header = 8
			length, name := 0, 0
			if len(rest) >= header {
				length, name = int(le.Uint16(rest[4:])), int(rest[6])
			}
			if length == 0xffff || length == 0 && f.blockSize == 1<<16 { // 64 KiB does not fit into 16 bits
				length = len(rest)
			}
			if length < header || length > len(rest) || header+name > length {
				return nil, fmt.Errorf("reading directory %d: an entry of %d bytes with a name of %d, and %d are left of its block", dir.Number, length, name, len(rest))
			}
			entry := Entry{string(rest[header : header+name]), le.Uint32(rest)}
			if entry.Number != 0 && entry.Name != "." && entry.Name != ".." {
				all = append(all, entry)
			}
			rest = rest[length:]
		}
	}
	return all, nil
}
