package kmod

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// Parts of an RPM package (RPM, docs/manual/format_v4.md): a lead, a header with
// signatures, a header that describes the package, and the files.
const (
	rpmLeadSize   = 96 // bytes
	rpmMagic      = "\x8e\xad\xe8\x01"
	rpmMaxEntries = 1 << 16
	rpmMaxStore   = 64 << 20 // bytes
	rpmAlignment  = 8        // of the part after the signatures, in bytes

	rpmTagName     = 1000
	rpmTagRequires = 1049

	// Names, types and sizes of the files. A stripped payload does not have them.
	rpmTagSizes     = 1028
	rpmTagModes     = 1030
	rpmTagInodes    = 1096
	rpmTagDirIndex  = 1116
	rpmTagBaseNames = 1117
	rpmTagDirNames  = 1118
	rpmTagLongSizes = 5008
)

// addRPM adds the kernels of an RPM package.
func (s *source) addRPM(r *bufio.Reader, name string) error {
	if _, err := io.CopyN(io.Discard, r, rpmLeadSize); err != nil {
		return fmt.Errorf("reading RPM lead: %w", err)
	}
	signatures, err := readRPMHeader(r)
	if err != nil {
		return fmt.Errorf("reading RPM signatures: %w", err)
	}
	if _, err := io.CopyN(io.Discard, r, int64(-len(signatures.store)&(rpmAlignment-1))); err != nil {
		return fmt.Errorf("reading RPM signatures: %w", err)
	}
	header, err := readRPMHeader(r)
	if err != nil {
		return fmt.Errorf("reading RPM header: %w", err)
	}
	p := part{}
	if names := header.strings(rpmTagName); len(names) > 0 {
		p.name = names[0]
	}
	for _, dependency := range header.strings(rpmTagRequires) {
		p.need(dependency)
	}
	s.parts = append(s.parts, p)
	files, done, err := unpacked(r)
	if err != nil {
		return fmt.Errorf("reading RPM payload: %w", err)
	}
	defer done()
	if err := s.addCpio(files, name, header.files()); err != nil {
		return fmt.Errorf("reading RPM payload: %w", err)
	}
	return nil
}

// rpmHeader is a header: entries of 16 bytes, and the data that they point into.
type rpmHeader struct{ index, store []byte }

func readRPMHeader(r io.Reader) (rpmHeader, error) {
	var start [16]byte
	if _, err := io.ReadFull(r, start[:]); err != nil {
		return rpmHeader{}, err
	}
	if string(start[:4]) != rpmMagic {
		return rpmHeader{}, fmt.Errorf("magic is %x, want %x", start[:4], rpmMagic)
	}
	entries, size := binary.BigEndian.Uint32(start[8:]), binary.BigEndian.Uint32(start[12:])
	if entries > rpmMaxEntries || size > rpmMaxStore {
		return rpmHeader{}, fmt.Errorf("got %d entries and %d bytes, want at most %d and %d", entries, size, rpmMaxEntries, rpmMaxStore)
	}
	h := rpmHeader{make([]byte, 16*entries), make([]byte, size)}
	if _, err := io.ReadFull(r, h.index); err != nil {
		return rpmHeader{}, err
	}
	_, err := io.ReadFull(r, h.store)
	return h, err
}

// strings returns the value of a tag with one or several texts.
func (h rpmHeader) strings(tag uint32) []string {
	for at := 0; at+16 <= len(h.index); at += 16 {
		entry := h.index[at:]
		if binary.BigEndian.Uint32(entry) != tag {
			continue
		}
		offset, count := binary.BigEndian.Uint32(entry[8:]), binary.BigEndian.Uint32(entry[12:])
		var all []string
		for rest := h.store[min(int(offset), len(h.store)):]; count > 0; count-- {
			value, after, ok := bytes.Cut(rest, []byte{0})
			if !ok {
				return all
			}
			all, rest = append(all, string(value)), after
		}
		return all
	}
	return nil
}

// numbers returns the value of a tag with integers of 2, 4 or 8 bytes.
func (h rpmHeader) numbers(tag uint32) []int64 {
	for at := 0; at+16 <= len(h.index); at += 16 {
		entry := h.index[at:]
		if binary.BigEndian.Uint32(entry) != tag {
			continue
		}
		size := map[uint32]int{3: 2, 4: 4, 5: 8}[binary.BigEndian.Uint32(entry[4:])]
		offset, count := binary.BigEndian.Uint32(entry[8:]), int(binary.BigEndian.Uint32(entry[12:]))
		rest := h.store[min(int(offset), len(h.store)):]
		if size == 0 || count > len(rest)/size {
			return nil
		}
		all := make([]int64, count)
		for i := range all {
			for _, b := range rest[i*size:][:size] {
				all[i] = all[i]<<8 | int64(b)
			}
		}
		return all
	}
	return nil
}

// rpmFile is a file as the header describes it.
type rpmFile struct {
	name       string
	mode, size int64
}

// files lists the package's files. If a file has several names, the last name has
// its data.
func (h rpmHeader) files() []rpmFile {
	names, dirs, index := h.strings(rpmTagBaseNames), h.strings(rpmTagDirNames), h.numbers(rpmTagDirIndex)
	modes, inodes, sizes := h.numbers(rpmTagModes), h.numbers(rpmTagInodes), h.numbers(rpmTagLongSizes)
	if sizes == nil {
		sizes = h.numbers(rpmTagSizes)
	}
	if len(index) != len(names) || len(modes) != len(names) || len(sizes) != len(names) || len(inodes) != len(names) {
		return nil
	}
	files, last := make([]rpmFile, len(names)), map[int64]int{} // :: inode -> the last of its names so far
	for i, name := range names {
		if index[i] < 0 || index[i] >= int64(len(dirs)) {
			return nil
		}
		files[i] = rpmFile{strings.TrimPrefix(path.Clean("/"+dirs[index[i]]+name), "/"), modes[i] & 0xffff, sizes[i]}
		if other, ok := last[inodes[i]]; ok && files[i].mode&cpioTypeMask == cpioRegular {
			files[other].size = 0
		}
		last[inodes[i]] = i
	}
	return files
}

// Parts of a cpio archive in RPM's form (cpio(5), "New ASCII Format").
const (
	cpioHeaderSize = 110 // bytes
	cpioAlignment  = 4   // bytes
	cpioEnd        = "TRAILER!!!"
	cpioMaxName    = 4096
	cpioTypeMask   = 0o170000
	cpioRegular    = 0o100000
	cpioDirectory  = 0o040000

	// A stripped header has the number of a file, 8 hexadecimal digits, and two zero
	// bytes (RPM, lib/cpio.cc): packages with large files have it, and those of
	// version 6.
	cpioStripped     = "07070X"
	cpioStrippedSize = 16 // bytes
)

// addCpio adds the files of an RPM package's payload.
func (s *source) addCpio(r io.Reader, pack string, files []rpmFile) error {
	for {
		var header [cpioHeaderSize]byte
		if _, err := io.ReadFull(r, header[:cpioStrippedSize]); err != nil {
			return err
		}
		if string(header[:6]) == cpioStripped {
			number, err := strconv.ParseUint(string(header[6:14]), 16, 32)
			if err != nil || number >= uint64(len(files)) {
				return fmt.Errorf("cpio header is %q, want the number of one of %d files", header[:cpioStrippedSize], len(files))
			}
			f := files[number]
			if f.mode&cpioTypeMask == cpioDirectory {
				f.size = 0
			}
			if err := s.addEntry(r, pack, f); err != nil {
				return err
			}
			continue
		}
		if _, err := io.ReadFull(r, header[cpioStrippedSize:]); err != nil {
			return err
		}
		if magic := string(header[:6]); magic != "070701" && magic != "070702" {
			return fmt.Errorf("cpio magic is %q, want 070701", magic)
		}
		mode, errMode := cpioField(header, 1)
		size, errSize := cpioField(header, 6)
		length, errName := cpioField(header, 11)
		if err := errors.Join(errMode, errSize, errName); err != nil {
			return err
		}
		if length == 0 || length > cpioMaxName {
			return fmt.Errorf("cpio name has %d bytes, want 1 to %d", length, cpioMaxName)
		}
		raw := make([]byte, length+(-(cpioHeaderSize+length))&(cpioAlignment-1))
		if _, err := io.ReadFull(r, raw); err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+strings.TrimRight(string(raw[:length]), "\x00")), "/")
		if name == cpioEnd {
			return nil
		}
		if err := s.addEntry(r, pack, rpmFile{name, mode, size}); err != nil {
			return err
		}
	}
}

// addEntry adds the data of a file, or skips it.
func (s *source) addEntry(r io.Reader, pack string, f rpmFile) error {
	rest := f.size + (-f.size)&(cpioAlignment-1)
	if f.mode&cpioTypeMask == cpioRegular && f.size > 0 && interesting(f.name) {
		if err := s.addData(r, f.size, pack, f.name); err != nil {
			return err
		}
		rest -= f.size
	}
	if _, err := io.CopyN(io.Discard, r, rest); err != nil {
		return fmt.Errorf("skipping %s: %w", f.name, err)
	}
	return nil
}

// cpioField reads one of the header's numbers, each of 8 hexadecimal digits.
func cpioField(header [cpioHeaderSize]byte, i int) (int64, error) {
	n, err := strconv.ParseUint(string(header[6+8*i:14+8*i]), 16, 32)
	if err != nil {
		return 0, fmt.Errorf("cpio header is %q, want hexadecimal digits", header)
	}
	return int64(n), nil
}
