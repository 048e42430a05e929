package rootfs

import (
	"archive/tar"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"
)

const tarBlock = 512 // bytes

// ReadTar adds the files of an uncompressed tar to the tree. Their data stays
// in r and is read when the filesystem is written.
func (t *Tree) ReadTar(r io.ReaderAt, size int64) error {
	if err := readTar(r, size, t.addEntry); err != nil {
		return fmt.Errorf("reading tar: %w", err)
	}
	return nil
}

// tarEntry is a header with the way to its data.
type tarEntry struct {
	*tar.Header
	open func() (io.ReadCloser, error)
}

// readTar calls add for each entry of an uncompressed tar. A tar that ends
// without its two blocks of zeros was cut off; one that goes on after them has
// entries that tar would not show. Both are refused.
func readTar(r io.ReaderAt, size int64, add func(tarEntry) error) error {
	section := io.NewSectionReader(r, 0, size)
	archive := tar.NewReader(section)
	// An entry starts at byte start, after skip more entries.
	start, skip := int64(0), 0
	for {
		header, err := archive.Next()
		at, seekErr := section.Seek(0, io.SeekCurrent)
		if seekErr != nil {
			return seekErr
		}
		if errors.Is(err, io.EOF) {
			if skip == 0 && at < start+2*tarBlock {
				return fmt.Errorf("it ends at byte %d without an end-of-archive marker: is it cut off?", at)
			}
			return onlyZeros(section, at)
		}
		if err != nil {
			return fmt.Errorf("at byte %d: %w", start, err)
		}
		e := tarEntry{Header: header}
		if isSparse(header) {
			// Its data is a map and fragments: archive/tar puts it together.
			e.open = reopen(r, size, start, skip)
			skip++
		} else {
			length := header.Size
			if header.Typeflag != tar.TypeReg {
				length = 0
			}
			e.open = func() (io.ReadCloser, error) {
				return io.NopCloser(io.NewSectionReader(r, at, length)), nil
			}
			start, skip = (at+length+tarBlock-1)/tarBlock*tarBlock, 0
		}
		if err := add(e); err != nil {
			return err
		}
	}
}

// reopen reads a sparse entry, which the archive has skip entries after start.
func reopen(r io.ReaderAt, size, start int64, skip int) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		archive := tar.NewReader(io.NewSectionReader(r, start, size-start))
		for range skip + 1 {
			if _, err := archive.Next(); err != nil {
				return nil, err
			}
		}
		return io.NopCloser(archive), nil
	}
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for name := range h.PAXRecords {
		if strings.HasPrefix(name, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// onlyZeros checks what follows the end-of-archive marker.
func onlyZeros(r io.Reader, at int64) error {
	buffer := make([]byte, 64<<10)
	for {
		n, err := r.Read(buffer)
		for i, c := range buffer[:n] {
			if c != 0 {
				return fmt.Errorf("data follows the end-of-archive marker, at byte %d", at+int64(i))
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// addEntry adds one entry to the tree.
func (t *Tree) addEntry(e tarEntry) error {
	if e.Typeflag == tar.TypeXGlobalHeader {
		for record := range e.PAXRecords {
			if record != "comment" {
				return fmt.Errorf("global PAX record %q cannot be kept", record)
			}
		}
		return nil
	}
	if e.Typeflag == tar.TypeLink {
		return t.Link(e.Name, e.Linkname)
	}
	n, err := e.inode()
	if err != nil {
		return fmt.Errorf("%q: %w", e.Name, err)
	}
	return t.Add(e.Name, n)
}

func (e tarEntry) inode() (*Inode, error) {
	n := &Inode{Mode: fs.FileMode(e.Mode & 0o777), ModTime: e.ModTime}
	for _, bit := range []struct {
		tar  int64
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if e.Mode&bit.tar != 0 {
			n.Mode |= bit.mode
		}
	}
	switch e.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		n.Size, n.Open = e.Size, e.open
	case tar.TypeDir:
		n.Mode |= fs.ModeDir
	case tar.TypeSymlink:
		n.Mode |= fs.ModeSymlink
		n.Target = e.Linkname
	case tar.TypeChar:
		n.Mode |= fs.ModeDevice | fs.ModeCharDevice
	case tar.TypeBlock:
		n.Mode |= fs.ModeDevice
	case tar.TypeFifo:
		n.Mode |= fs.ModeNamedPipe
	default:
		return nil, fmt.Errorf("entry of type %q cannot be kept", e.Typeflag)
	}
	for _, number := range []struct {
		name  string
		value int64
		field *uint32
	}{{"uid", int64(e.Uid), &n.UID}, {"gid", int64(e.Gid), &n.GID}, {"devmajor", e.Devmajor, &n.Major}, {"devminor", e.Devminor, &n.Minor}} {
		if number.value < 0 || number.value >= 1<<32-1 {
			return nil, fmt.Errorf("%s is %d, want 0 to 2^32-2", number.name, number.value)
		}
		*number.field = uint32(number.value)
	}
	if n.Mode&fs.ModeDevice == 0 {
		n.Major, n.Minor = 0, 0 // some writers leave other numbers there
	}
	var err error
	n.Xattrs, err = e.xattrs()
	return n, err
}

// xattrs takes the extended attributes from the PAX records and refuses records
// whose meaning would be lost.
func (e tarEntry) xattrs() (map[string]string, error) {
	var xattrs map[string]string // nil for nearly all files
	for record, value := range e.PAXRecords {
		name, encoded := "", false
		if suffix, ok := strings.CutPrefix(record, "SCHILY.xattr."); ok {
			name = suffix
		} else if suffix, ok := strings.CutPrefix(record, "LIBARCHIVE.xattr."); ok {
			name, encoded = suffix, true
		} else if record == "RHT.security.selinux" {
			name, value = "security.selinux", strings.TrimSuffix(value, "\x00")+"\x00"
		} else if record == "SCHILY.acl.access" || record == "SCHILY.acl.default" {
			name = "system.posix_acl_" + strings.TrimPrefix(record, "SCHILY.acl.")
			acl, err := encodeACL(value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", record, err)
			}
			value = acl
		} else if !known(record) {
			return nil, fmt.Errorf("PAX record %q cannot be kept", record)
		} else {
			continue
		}
		if encoded { // libarchive: name percent-encoded, value in base64
			plain, err := url.PathUnescape(name)
			if err != nil {
				return nil, fmt.Errorf("PAX record %q: %w", record, err)
			}
			data, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return nil, fmt.Errorf("PAX record %q: %w", record, err)
			}
			name, value = plain, string(data)
		}
		if old, ok := xattrs[name]; ok && old != value {
			return nil, fmt.Errorf("extended attribute %q has two values", name)
		}
		if xattrs == nil {
			xattrs = map[string]string{}
		}
		xattrs[name] = value
	}
	return xattrs, nil
}

// known tells whether a PAX record is in the header already, or means nothing
// on a read-only filesystem.
func known(record string) bool {
	switch record {
	case "path", "linkpath", "size", "uid", "gid", "mtime", // in the header
		"uname", "gname", // names of the numbers
		"atime", "ctime", "LIBARCHIVE.creationtime", // EROFS has one time
		"comment", "charset", "hdrcharset",
		"SCHILY.dev", "SCHILY.ino", "SCHILY.nlink", "SCHILY.devmajor", "SCHILY.devminor", "SCHILY.realsize",
		"SCHILY.fflags": // such as immutable, which everything is
		return true
	}
	return strings.HasPrefix(record, "GNU.sparse.")
}
