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
// signatures, a header with what the package says of itself, and the files.
const (
	rpmLeadSize   = 96 // bytes
	rpmMagic      = "\x8e\xad\xe8\x01"
	rpmMaxEntries = 1 << 16
	rpmMaxStore   = 64 << 20 // bytes
	rpmAlignment  = 8        // of what follows the signatures, in bytes

	rpmTagName     = 1000
	rpmTagRequires = 1049
)

// addRPM takes the kernels of an RPM package.
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
	if err := s.addCpio(files, name); err != nil {
		return fmt.Errorf("reading RPM payload: %w", err)
	}
	return nil
}

// rpmHeader is a header: entries of 16 bytes, and what they point into.
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

// strings returns the value of a tag that is text: one or several.
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

// Parts of a cpio archive of the form that RPM has (cpio(5), "New ASCII Format").
const (
	cpioHeaderSize = 110 // bytes
	cpioAlignment  = 4   // bytes
	cpioEnd        = "TRAILER!!!"
	cpioMaxName    = 4096
	cpioTypeMask   = 0o170000
	cpioRegular    = 0o100000
)

// addCpio takes the files of an RPM package's payload.
func (s *source) addCpio(r io.Reader, pack string) error {
	for {
		var header [cpioHeaderSize]byte
		if _, err := io.ReadFull(r, header[:]); err != nil {
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
		rest := size + (-size)&(cpioAlignment-1)
		if mode&cpioTypeMask == cpioRegular && size > 0 && interesting(name) {
			if err := s.addData(r, size, pack, name); err != nil {
				return err
			}
			rest -= size
		}
		if _, err := io.CopyN(io.Discard, r, rest); err != nil {
			return fmt.Errorf("skipping %s: %w", name, err)
		}
	}
}

// cpioField reads one of the header's numbers, each of 8 hexadecimal digits.
func cpioField(header [cpioHeaderSize]byte, i int) (int64, error) {
	n, err := strconv.ParseUint(string(header[6+8*i:14+8*i]), 16, 32)
	if err != nil {
		return 0, fmt.Errorf("cpio header is %q, want hexadecimal digits", header)
	}
	return int64(n), nil
}
