// Package cpio reads and writes the cpio archives that make up an initramfs.
//
// The format is "newc" (Linux, Documentation/driver-api/early-userspace/
// buffer-format.rst), narrowed to one form for each content: owner, time and check
// are zero, inode numbers count from 1, names are sorted, hex digits are upper case,
// padding is zero. Reader refuses everything else, so it accepts exactly the archives
// that Writer makes.
//
// There are no hard links, FIFOs or sockets.
package cpio

import (
	"fmt"
	"path"
	"strings"
)

// Types of an entry: the S_IFMT part of Entry.Mode (inode(7)).
const (
	TypeMask      = 0o170000
	TypeRegular   = 0o100000
	TypeDirectory = 0o040000
	TypeSymlink   = 0o120000
	TypeChar      = 0o020000
	TypeBlock     = 0o060000
)

const permissionMask = 0o7777

// The kernel's limits in bytes, without the final NUL. The kernel skips longer
// names and link targets without a message (PATH_MAX in Linux, init/initramfs.c),
// and sizes have eight hex digits.
const (
	MaxName = 4095
	MaxSize = 1<<32 - 1
)

// Entry is one member of an archive.
type Entry struct {
	// Name is relative and clean, with slashes: "etc/passwd".
	Name string
	// Mode is type and permissions, as in stat(2).
	Mode uint32
	// Data is the content of a regular file, or the target of a symbolic link.
	Data []byte
	// Major and Minor number the device of a TypeChar or TypeBlock entry.
	Major, Minor uint32
}

const (
	magic       = "070701"
	headerSize  = 110 // bytes: magic, then 13 fields of 8 hex digits
	trailerName = "TRAILER!!!"
	align       = 4 // bytes; the kernel wants headers, data and archives to begin at a multiple
)

// header holds the 13 fields of a newc header in their order.
type header struct {
	ino, mode, uid, gid, nlink, mtime, size uint32
	major, minor, rmajor, rminor            uint32
	nameSize                                uint32 // bytes, with the final NUL
	check                                   uint32
}

// fields lists h in the order of the format.
func (h *header) fields() [13]*uint32 {
	return [13]*uint32{&h.ino, &h.mode, &h.uid, &h.gid, &h.nlink, &h.mtime, &h.size,
		&h.major, &h.minor, &h.rmajor, &h.rminor, &h.nameSize, &h.check}
}

// headerOf gives the only header that e can have as entry number ino.
func headerOf(e Entry, ino uint32) header {
	return header{ino: ino, mode: e.Mode, nlink: 1, size: uint32(len(e.Data)),
		rmajor: e.Major, rminor: e.Minor, nameSize: uint32(len(e.Name) + 1)}
}

// trailer is the header that ends an archive.
func trailer() header {
	return header{nlink: 1, nameSize: uint32(len(trailerName) + 1)}
}

// check returns an error if e cannot follow an entry named previous in an archive.
func (e Entry) check(previous string) error {
	if err := checkName(e.Name); err != nil {
		return err
	}
	if e.Name <= previous {
		return fmt.Errorf("name %q comes after %q, want names sorted and each once", e.Name, previous)
	}
	if e.Mode&^(TypeMask|permissionMask) != 0 {
		return fmt.Errorf("mode of %q is %#o, want type and permissions alone", e.Name, e.Mode)
	}
	hasData, hasDevice := false, false
	switch e.Mode & TypeMask {
	case TypeRegular:
		hasData = true
	case TypeSymlink:
		hasData = true
		if n := len(e.Data); n == 0 || n > MaxName || strings.IndexByte(string(e.Data), 0) >= 0 {
			return fmt.Errorf("target of %q has %d bytes, want 1 to %d without NUL", e.Name, n, MaxName)
		}
	case TypeChar, TypeBlock:
		hasDevice = true
	case TypeDirectory:
	default:
		return fmt.Errorf("type of %q is %#o, want a file, directory, symbolic link or device", e.Name, e.Mode&TypeMask)
	}
	if !hasData && len(e.Data) != 0 {
		return fmt.Errorf("size of %q is %d, want 0 for its type", e.Name, len(e.Data))
	}
	if !hasDevice && (e.Major != 0 || e.Minor != 0) {
		return fmt.Errorf("device number of %q is %d:%d, want 0:0 for its type", e.Name, e.Major, e.Minor)
	}
	if uint64(len(e.Data)) > MaxSize {
		return fmt.Errorf("size of %q is %d, want at most %d", e.Name, len(e.Data), uint64(MaxSize))
	}
	return nil
}

func checkName(name string) error {
	switch {
	case len(name) > MaxName:
		return fmt.Errorf("name has %d bytes, want at most %d", len(name), MaxName)
	case name == "" || name == "." || name == ".." || strings.HasPrefix(name, "../") ||
		strings.HasPrefix(name, "/") || path.Clean(name) != name || strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("name is %q, want a clean relative path", name)
	case name == trailerName:
		return fmt.Errorf("name is %q, which ends an archive", name)
	}
	return nil
}

// padding gives the number of zero bytes that follow n bytes.
func padding(n int64) int64 { return -n & (align - 1) }
