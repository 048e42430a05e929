package intake

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
)

// TarBlock is the unit of a tar in bytes: the size of a header, and of data with its padding.
const TarBlock = 512

// ReadTar adds the files of an uncompressed tar to the tree. Their data stay in archive and are
// read when the filesystem is written. Reading stops when ctx ends.
func (r *Reader) ReadTar(ctx context.Context, archive io.ReaderAt, size int64) error {
	if err := readTar(ctx, archive, size, false, r.addEntry); err != nil {
		return fmt.Errorf("reading tar: %w", err)
	}
	return nil
}

// tarEntry is a header with the place of its data.
type tarEntry struct {
	*tar.Header
	content rootfs.Content
	at      int64
}

// tarFiles is the content of a tar's files that are stored contiguously. Stored.At is the byte
// where a file starts.
type tarFiles struct{ archive io.ReaderAt }

// Open implements rootfs.Content.
func (f *tarFiles) Open(_ string, s rootfs.Stored) (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(f.archive, s.At, s.Size)), nil
}

// sparseTar is the content of one file of a tar that is stored as a map and fragments.
// archive/tar reassembles the file from the entry that is skip entries after byte Stored.At.
type sparseTar struct {
	*io.SectionReader // the archive
	skip              int
}

// Open implements rootfs.Content.
func (f *sparseTar) Open(_ string, s rootfs.Stored) (io.ReadCloser, error) {
	archive := tar.NewReader(io.NewSectionReader(f.SectionReader, s.At, f.Size()-s.At))
	for range f.skip + 1 {
		if _, err := archive.Next(); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(archive), nil
}

// readTar calls add for each entry of an uncompressed tar. A tar without its two final blocks
// of zeros is truncated, so readTar refuses it, unless complete is set. readTar also refuses
// data after those blocks: they may be entries that tar would not show.
func readTar(ctx context.Context, r io.ReaderAt, size int64, complete bool, add func(tarEntry) error) error {
	section := io.NewSectionReader(r, 0, size)
	archive := tar.NewReader(section)
	files := &tarFiles{r}
	// An entry starts at byte start, after skip more entries.
	start, skip := int64(0), 0
	for ctx.Err() == nil {
		header, err := archive.Next()
		at, seekErr := section.Seek(0, io.SeekCurrent)
		if seekErr != nil {
			return seekErr
		}
		if errors.Is(err, io.EOF) {
			if !complete && skip == 0 && at < start+2*TarBlock {
				return fmt.Errorf("it ends at byte %d without an end-of-archive marker: is it truncated?", at)
			}
			return onlyZeros(section, at)
		}
		if err != nil {
			return fmt.Errorf("at byte %d: %w", start, err)
		}
		e := tarEntry{header, files, at}
		if isSparse(header) && header.Size <= rootfs.MaxFile { // Add refuses a larger file
			e.at = start
			if e.content, err = tarHoles(ctx, archive, section, header.Size, &sparseTar{io.NewSectionReader(r, 0, size), skip}); err != nil {
				return fmt.Errorf("at byte %d: %w", start, err)
			}
			skip++
		} else {
			length := header.Size
			switch header.Typeflag {
			case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
				length = 0 // even if the header has another length
			}
			start, skip = (at+length+TarBlock-1)/TarBlock*TarBlock, 0
		}
		if err := add(e); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// tarHoles finds the holes of the present entry of archive. archive/tar does not report them,
// but it reads nothing from the underlying stream for a block in a hole.
func tarHoles(ctx context.Context, archive io.Reader, stream io.Seeker, size int64, c rootfs.Content) (rootfs.Content, error) {
	var failed error
	found := rootfs.WithHoles(c, size, func(yield func(rootfs.Extent) bool) {
		var block [rootfs.BlockSize]byte
		var before int64
		if before, failed = stream.Seek(0, io.SeekCurrent); failed != nil {
			return
		}
		for at := int64(0); at < size; at += rootfs.BlockSize {
			if failed = ctx.Err(); failed != nil {
				return
			}
			var after int64
			if _, failed = io.ReadFull(archive, block[:min(rootfs.BlockSize, size-at)]); failed != nil {
				return
			}
			if after, failed = stream.Seek(0, io.SeekCurrent); failed != nil {
				return
			}
			if after != before && !yield(rootfs.Extent{Start: at, End: min(at+rootfs.BlockSize, size)}) {
				return
			}
			before = after
		}
	})
	return found, failed
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

// onlyZeros returns an error unless only zeros follow the end-of-archive marker.
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
func (r *Reader) addEntry(e tarEntry) error {
	switch e.Typeflag {
	case tar.TypeXGlobalHeader:
		return r.global(e)
	case typeLabel:
		return nil
	case tar.TypeLink:
		return r.Tree.Link(e.Name, e.Linkname)
	}
	f, err := e.file()
	if err == nil {
		f.Xattrs, err = r.xattrs(e)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", e.Name, err)
	}
	return r.Tree.Add(e.Name, f)
}

// global checks records that apply to all later entries. archive/tar does not apply them, so
// global accepts only records without a meaning for files.
func (r *Reader) global(e tarEntry) error {
	for _, record := range slices.Sorted(maps.Keys(e.PAXRecords)) {
		if record != "comment" && !r.drops(r.DropPAX, record) {
			return &NotKept{PAX: record, Reason: "it is global"}
		}
	}
	return nil
}

// Types of entries beside those of archive/tar (GNU tar, src/tar.h).
const (
	typeLabel   = 'V' // the archive's name, not a file
	typeDumpDir = 'D' // a directory of an incremental backup; its data lists names
	typeVolume  = 'M' // the rest of a file of another archive
)

func (e tarEntry) file() (rootfs.File, error) {
	f := rootfs.File{Mode: uint16(e.Mode & 0o7777), Time: erofs.Time{Seconds: e.ModTime.Unix(), Nanoseconds: uint32(e.ModTime.Nanosecond())}}
	switch e.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		f.Mode |= erofs.TypeRegular
		f.Size, f.Content, f.At = e.Size, e.content, e.at
	case tar.TypeDir, typeDumpDir:
		f.Mode |= erofs.TypeDirectory
	case tar.TypeSymlink:
		f.Mode = erofs.TypeSymlink | 0o777 // as on Linux; some writers leave another mode there
		f.Target = e.Linkname
	case tar.TypeChar:
		f.Mode |= erofs.TypeCharDevice
	case tar.TypeBlock:
		f.Mode |= erofs.TypeBlockDevice
	case tar.TypeFifo:
		f.Mode |= erofs.TypeFIFO
	case typeVolume:
		return rootfs.File{}, errors.New("the archive has several volumes: make one archive of them with tar -M -x and tar -c")
	default:
		return rootfs.File{}, fmt.Errorf("entry of type %q cannot be kept: make the tar without it", e.Typeflag)
	}
	var major, minor uint32
	for _, number := range []struct {
		name  string
		value int64
		field *uint32
	}{{"uid", int64(e.Uid), &f.UID}, {"gid", int64(e.Gid), &f.GID}, {"devmajor", e.Devmajor, &major}, {"devminor", e.Devminor, &minor}} {
		if number.value < 0 || number.value >= 1<<32-1 {
			return rootfs.File{}, fmt.Errorf("%s is %d, want 0 to 2^32-2", number.name, number.value)
		}
		*number.field = uint32(number.value)
	}
	if e.Typeflag != tar.TypeChar && e.Typeflag != tar.TypeBlock {
		return f, nil // some writers leave other numbers there
	}
	var err error
	f.Device, err = rootfs.DeviceNumber(major, minor)
	return f, err
}

// xattrs reads the extended attributes from the PAX records. It refuses records whose meaning
// would be lost.
func (r *Reader) xattrs(e tarEntry) (map[string]string, error) {
	var xattrs map[string]string // nil for nearly all files
	for _, record := range slices.Sorted(maps.Keys(e.PAXRecords)) {
		if known(record) || r.drops(r.DropPAX, record) {
			continue
		}
		name, value, err := xattrOf(record, e.PAXRecords[record])
		if err != nil {
			return nil, &NotKept{PAX: record, Reason: err.Error()}
		}
		if name == "" {
			return nil, &NotKept{PAX: record, Reason: "its meaning is unknown"}
		}
		if xattrs, err = r.xattr(xattrs, name, value); err != nil {
			return nil, err
		}
	}
	return xattrs, nil
}
