package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Microsoft PE Format: offsets in the COFF header, from "PE\0\0", and in the optional
// header of PE32+.
const (
	coffSections       = 6
	coffSymbols        = 12
	coffOptionalSize   = 20
	coffSize           = 24
	machineAMD64       = 0x8664
	optionalDataSize   = 8 // SizeOfInitializedData
	optionalAlignment  = 32
	optionalFileAlign  = 36
	optionalImageSize  = 56
	optionalHeaderSize = 60
	optionalChecksum   = 64
	optionalSubsystem  = 68
	optionalDLL        = 70
	optionalSecurity   = 112 + 4*8 // the certificate table, a data directory
	optionalMinSize    = optionalSecurity + 8
	efiApplication     = 10
	nxCompat           = 0x0100
	sectionSize        = 40
	kindCode           = 0x40000020 // readable, code
	kindData           = 0x40000040 // readable, initialized data
	maxSections        = 96
)

// peFile is an EFI application for x86-64.
type peFile struct {
	image    []byte // the file; what Build adds is appended
	coff     int    // where "PE\0\0" is
	sections []peSection
	own      int // how many sections it had when it was read
}

type peSection struct {
	name           string
	header         int // where its header is in the file
	at, size       uint32
	fileAt, inFile uint32
	data           []byte // as much of it as the section has
}

func (f *peFile) optional() int { return f.coff + coffSize }

func (f *peFile) u16(at int) uint16 { return binary.LittleEndian.Uint16(f.image[at:]) }
func (f *peFile) u32(at int) uint32 { return binary.LittleEndian.Uint32(f.image[at:]) }

func (f *peFile) put16(at int, v uint16) { binary.LittleEndian.PutUint16(f.image[at:], v) }
func (f *peFile) put32(at int, v uint32) { binary.LittleEndian.PutUint32(f.image[at:], v) }

// readPE reads headers and sections, each of which must lie in the file.
func readPE(file []byte) (*peFile, error) {
	if len(file) < 0x40 || string(file[:2]) != "MZ" {
		return nil, errors.New("it is no EFI application: it does not begin with MZ")
	}
	f := &peFile{image: file}
	coff := uint64(f.u32(0x3c))
	if coff+coffSize+optionalMinSize > uint64(len(file)) || string(file[coff:coff+4]) != "PE\x00\x00" {
		return nil, errors.New("it is no EFI application: there are no PE headers")
	}
	f.coff = int(coff)
	o := f.optional()
	switch {
	case f.u16(f.coff+4) != machineAMD64 || f.u16(o) != 0x20b:
		return nil, fmt.Errorf("it is for machine %#x, want %#x with PE32+", f.u16(f.coff+4), machineAMD64)
	case f.u16(f.coff+coffOptionalSize) < optionalMinSize:
		return nil, fmt.Errorf("its optional header has %d bytes, want at least %d", f.u16(f.coff+coffOptionalSize), optionalMinSize)
	case f.u16(o+optionalSubsystem) != efiApplication:
		return nil, fmt.Errorf("its subsystem is %d, want %d: an EFI application", f.u16(o+optionalSubsystem), efiApplication)
	}
	n := int(f.u16(f.coff + coffSections))
	table := o + int(f.u16(f.coff+coffOptionalSize))
	if n > maxSections || table+n*sectionSize > len(file) {
		return nil, fmt.Errorf("it has %d sections, want at most %d, with their headers in the file", n, maxSections)
	}
	for i := range n {
		h := table + i*sectionSize
		s := peSection{
			name: string(bytes.TrimRight(file[h:h+8], "\x00")), header: h,
			size: f.u32(h + 8), at: f.u32(h + 12), inFile: f.u32(h + 16), fileAt: f.u32(h + 20),
		}
		if uint64(s.fileAt)+uint64(s.inFile) > uint64(len(file)) {
			return nil, fmt.Errorf("section %q has %d bytes at %#x, and the file %d", s.name, s.inFile, s.fileAt, len(file))
		}
		s.data = file[s.fileAt:][:min(s.size, s.inFile)]
		f.sections = append(f.sections, s)
	}
	f.own = n
	return f, nil
}

func (f *peFile) section(name string) (peSection, bool) {
	for _, s := range f.sections {
		if s.name == name {
			return s, true
		}
	}
	return peSection{}, false
}

func (f *peFile) nxCompat() bool { return f.u16(f.optional()+optionalDLL)&nxCompat != 0 }

// checkStub refuses a stub that would have to be changed before it takes sections: ukify
// does that to old ones.
func (f *peFile) checkStub() error {
	o := f.optional()
	align := f.u32(o + optionalFileAlign)
	switch {
	case f.own == 0:
		return errors.New("it has no sections")
	case f.u32(o+optionalSecurity) != 0:
		return errors.New("it is signed, want one without a signature")
	case f.u32(f.coff+coffSymbols) != 0:
		return errors.New("it has a symbol table, want a stripped one")
	case align == 0 || align&(align-1) != 0 || f.u32(o+optionalAlignment) == 0 || f.u32(o+optionalAlignment)&(f.u32(o+optionalAlignment)-1) != 0:
		return fmt.Errorf("its alignments are %d and %d, want powers of two", align, f.u32(o+optionalAlignment))
	case f.u32(o+optionalHeaderSize)%align != 0:
		return fmt.Errorf("its headers have %d bytes, want a multiple of %d", f.u32(o+optionalHeaderSize), align)
	}
	last := uint64(f.u32(o + optionalHeaderSize))
	for _, s := range f.sections {
		if s.fileAt%align != 0 || s.inFile%align != 0 || uint64(s.fileAt) < last {
			return fmt.Errorf("section %q has %d bytes at %#x, want multiples of %d, one after the other", s.name, s.inFile, s.fileAt, align)
		}
		last = uint64(s.fileAt) + uint64(s.inFile)
		for _, ours := range []string{sectionOSRelease, sectionCommandLine, sectionVersion, sectionKernel, sectionInitramfs} {
			if s.name == ours {
				return fmt.Errorf("it has a section %q already", s.name)
			}
		}
	}
	// Nobody else's bytes are changed.
	f.image = bytes.Clone(f.image)
	return nil
}

func (f *peFile) clearNXCompat() {
	at := f.optional() + optionalDLL
	f.put16(at, f.u16(at)&^nxCompat)
}

// add puts a section behind the last one.
func (f *peFile) add(name string, data []byte) {
	last := f.sections[len(f.sections)-1]
	f.sections = append(f.sections, peSection{
		name: name, header: last.header + sectionSize, data: data,
		size: uint32(len(data)), at: roundUp(last.at+last.size, f.u32(f.optional()+optionalAlignment)),
	})
}

// replace gives a section of the stub other contents, for which it must have the room.
func (f *peFile) replace(name string, data []byte) error {
	for i := range f.sections[:f.own] {
		s := &f.sections[i]
		if s.name != name {
			continue
		}
		if len(data) > int(s.inFile) {
			return fmt.Errorf("section %q of the stub has room for %d bytes, want %d", name, s.inFile, len(data))
		}
		room := f.image[s.fileAt:][:s.inFile]
		clear(room[copy(room, data):])
		s.size = uint32(len(data))
		f.put32(s.header+8, s.size)
		return nil
	}
	return fmt.Errorf("the stub has no section %q", name)
}

// bytes writes the file with the sections that were added.
func (f *peFile) bytes() ([]byte, error) {
	o := f.optional()
	align, total := uint64(f.u32(o+optionalFileAlign)), uint64(len(f.image))
	for _, s := range f.sections[f.own:] {
		total = (total+align-1)/align*align + (uint64(len(s.data))+align-1)/align*align
	}
	if total > MaxFile {
		return nil, fmt.Errorf("it would have %d bytes, want at most %d", total, MaxFile)
	}
	last := f.sections[len(f.sections)-1]
	if last.header+sectionSize > int(f.u32(o+optionalHeaderSize)) {
		return nil, fmt.Errorf("the stub's headers have %d bytes, which is no room for %d sections", f.u32(o+optionalHeaderSize), len(f.sections))
	}
	out := make([]byte, len(f.image), total)
	copy(out, f.image)
	w := &peFile{image: out, coff: f.coff}
	added := uint32(0)
	for _, s := range f.sections[f.own:] {
		w.image = append(w.image, make([]byte, roundUp(uint32(len(w.image)), uint32(align))-uint32(len(w.image)))...)
		fileAt := uint32(len(w.image))
		w.image = append(w.image, s.data...)
		w.image = append(w.image, make([]byte, roundUp(s.size, uint32(align))-s.size)...)
		h := s.header
		clear(w.image[h : h+sectionSize])
		copy(w.image[h:h+8], s.name)
		w.put32(h+8, s.size)
		w.put32(h+12, s.at)
		w.put32(h+16, roundUp(s.size, uint32(align)))
		w.put32(h+20, fileAt)
		w.put32(h+36, kindData)
		if s.name == sectionKernel {
			w.put32(h+36, kindCode)
		}
		added += s.size
	}
	w.put16(f.coff+coffSections, uint16(len(f.sections)))
	w.put32(o+optionalDataSize, f.u32(o+optionalDataSize)+added)
	w.put32(o+optionalChecksum, 0)
	w.put32(o+optionalImageSize, roundUp(last.at+last.size, f.u32(o+optionalAlignment)))
	return w.image, nil
}

func roundUp(n, to uint32) uint32 { return (n + to - 1) / to * to }
