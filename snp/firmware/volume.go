package firmware

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"

	"github.com/rootvouch/rootvouch/snp/firmware/lzma"
)

// Offsets and values of firmware volumes, files and sections (UEFI Platform
// Initialization Specification 1.8, volume 3, sections 3.2.1 to 3.2.4).
const (
	volumeHeader    = 56   // ZeroVector to Reserved, without the block map
	volumeSignature = 0x28 // "_FVH"
	volumeExtended  = 20   // an extended header without entries
	fileHeader      = 24
	largeHeader     = 32
	fileLarge       = 0x01 // FFS_ATTRIB_LARGE_FILE
	fileChecksum    = 0x40 // FFS_ATTRIB_CHECKSUM
	fileNoChecksum  = 0xaa // FFS_FIXED_CHECKSUM
	sectionHeader   = 4
	guidedHeader    = 20 // GUID, DataOffset, Attributes
	guidedProcess   = 1  // EFI_GUIDED_SECTION_PROCESSING_REQUIRED

	fileRaw = 0x01
	filePad = 0xf0

	sectionCompression = 0x01
	sectionGUIDed      = 0x02
	sectionUI          = 0x15
	sectionVolume      = 0x17
)

const (
	maxContent = 64 << 20 // bytes that a section may decompress to, and all together
	maxDepth   = 4        // of volumes in volumes
)

// space is a sequence of bytes with its own offsets: the image itself, or the
// content of a compressed section.
type space struct {
	data   []byte
	packed *packed // nil: the image itself
	files  []file
}

// packed says where the compressed section of a space is.
type packed struct {
	in      *space
	volume  extent
	file    file
	section extent // from its header on
	stream  extent // the LZMA stream in it
	lzma    lzma.Stream
}

// extent is a range of a space's bytes.
type extent struct{ start, end int }

func (e extent) has(offset int) bool { return e.start <= offset && offset < e.end }

// file is one file of a volume.
type file struct {
	extent
	guid   string
	name   string // of its user interface section; may be empty
	header int    // bytes
}

func (f file) String() string {
	if f.name != "" {
		return f.name
	}
	return f.guid
}

// image is a firmware image, taken apart.
type image struct {
	spaces []*space // the image itself first
	// unread describes the sections that cannot be taken apart.
	unread  []string
	content int // bytes decompressed so far
}

func parseError(offset int, format string, args ...any) error {
	return fmt.Errorf("parsing firmware volume at offset %#x: %s", offset, fmt.Sprintf(format, args...))
}

// parse takes an image apart. It keeps bytes outside of volumes, and does not judge
// them.
func parse(data []byte) (*image, error) {
	i := &image{}
	top := &space{data: data}
	i.spaces = append(i.spaces, top)
	for at := 0; at+volumeHeader <= len(data); {
		v, ok := volumeAt(data, at)
		if !ok {
			at += 8
			continue
		}
		if err := i.volume(top, v, 0); err != nil {
			return nil, err
		}
		at = v.end
	}
	return i, nil
}

// volumeAt reports whether a volume starts at offset at. The checksum of the header
// rules out bytes that only look like a volume.
func volumeAt(data []byte, at int) (extent, bool) {
	if at+volumeHeader > len(data) || string(data[at+volumeSignature:at+volumeSignature+4]) != "_FVH" {
		return extent{}, false
	}
	length, header := binary.LittleEndian.Uint64(data[at+32:]), int(binary.LittleEndian.Uint16(data[at+48:]))
	if length > uint64(len(data)-at) || header < volumeHeader || uint64(header) > length || header%2 != 0 {
		return extent{}, false
	}
	sum := uint16(0)
	for n := at; n < at+header; n += 2 {
		sum += binary.LittleEndian.Uint16(data[n:])
	}
	return extent{at, at + int(length)}, sum == 0
}

// filesStart returns the offset of a volume's first file. If the volume has no
// files, such as a volume of variables, ok is false.
func filesStart(data []byte, v extent) (start int, ok bool, err error) {
	switch guidAt(data, v.start+16) {
	case guidFFS2, guidFFS3:
	default:
		return 0, false, nil
	}
	start = v.start + int(binary.LittleEndian.Uint16(data[v.start+48:]))
	if extended := int(binary.LittleEndian.Uint16(data[v.start+52:])); extended != 0 {
		at := v.start + extended
		if at+volumeExtended > v.end {
			return 0, false, parseError(v.start, "extended header is at %#x of %#x bytes", extended, v.end-v.start)
		}
		size := binary.LittleEndian.Uint32(data[at+16:])
		if size < volumeExtended || uint64(size) > uint64(v.end-at) {
			return 0, false, parseError(v.start, "extended header has %#x bytes, want %#x to %#x", size, volumeExtended, v.end-at)
		}
		start = at + int(size)
	}
	return v.start + align(start-v.start, 8), true, nil
}

func (i *image) volume(s *space, v extent, depth int) error {
	if depth > maxDepth {
		return parseError(v.start, "volumes are nested deeper than %d", maxDepth)
	}
	at, ok, err := filesStart(s.data, v)
	if err != nil || !ok {
		return err
	}
	for at+fileHeader <= v.end && !blank(s.data[at:at+fileHeader]) {
		f, err := fileAt(s.data, at, v.end)
		if err != nil {
			return err
		}
		kind := s.data[at+18]
		if kind != filePad && kind != fileRaw {
			if err := i.sections(s, v, &f, extent{f.start + f.header, f.end}, depth); err != nil {
				return err
			}
		}
		s.files = append(s.files, f)
		at = v.start + align(f.end-v.start, 8)
	}
	return nil
}

func fileAt(data []byte, at, end int) (file, error) {
	f := file{extent: extent{at, at + size24(data[at+20:])}, guid: guidAt(data, at), header: fileHeader}
	if data[at+19]&fileLarge != 0 {
		if at+largeHeader > end {
			return file{}, parseError(at, "a large file's header does not end in its volume")
		}
		size := binary.LittleEndian.Uint64(data[at+24:])
		if size > uint64(end-at) {
			return file{}, parseError(at, "file has %#x bytes, but its volume %#x", size, end-at)
		}
		f.end, f.header = at+int(size), largeHeader
	}
	if f.end < at+f.header || f.end > end {
		return file{}, parseError(at, "file has %#x bytes, want %#x to %#x", f.end-at, f.header, end-at)
	}
	if sum := headerSum(data[at : at+f.header]); sum != 0 {
		return file{}, parseError(at, "file header's sum is %#x, want 0", sum)
	}
	return f, nil
}

// headerSum returns the sum of a file's header. The data's checksum and the state
// count as 0.
func headerSum(header []byte) (sum byte) {
	for n, b := range header {
		if n != 17 && n != 23 {
			sum += b
		}
	}
	return sum
}

// sections walks the sections in e, which belong to file f of volume v.
func (i *image) sections(s *space, v extent, f *file, e extent, depth int) error {
	for at := e.start; at+sectionHeader <= e.end; {
		size, header := size24(s.data[at:]), sectionHeader
		if size == 0xffffff {
			if at+8 > e.end {
				return parseError(at, "a large section's header does not end in its file")
			}
			size, header = int(binary.LittleEndian.Uint32(s.data[at+4:])), 8
		}
		if size < header || size > e.end-at {
			return parseError(at, "section of %v has %#x bytes, want %#x to %#x", f, size, header, e.end-at)
		}
		whole, body := extent{at, at + size}, extent{at + header, at + size}
		if err := i.section(s, v, f, s.data[at+3], whole, body, depth); err != nil {
			return err
		}
		at = e.start + align(at+size-e.start, 4)
	}
	return nil
}

func (i *image) section(s *space, v extent, f *file, kind byte, whole, body extent, depth int) error {
	switch kind {
	case sectionUI:
		f.name = utf16String(s.data[body.start:body.end])
	case sectionVolume:
		inner, ok := volumeAt(s.data[:body.end], body.start)
		if !ok {
			return parseError(body.start, "section of %v has no volume", f)
		}
		return i.volume(s, inner, depth+1)
	case sectionCompression:
		i.unread = append(i.unread, fmt.Sprintf("%v has a section of the old compression", f))
	case sectionGUIDed:
		return i.guided(s, v, f, whole, body, depth)
	}
	return nil
}

// guided opens a GUID-defined section, which contains other sections in an encoded
// form.
func (i *image) guided(s *space, v extent, f *file, whole, body extent, depth int) error {
	if body.end-body.start < guidedHeader {
		return parseError(whole.start, "section of %v has %#x bytes, want at least %#x", f, body.end-body.start, guidedHeader)
	}
	guid := guidAt(s.data, body.start)
	offset := int(binary.LittleEndian.Uint16(s.data[body.start+16:]))
	if offset < body.start-whole.start+guidedHeader || offset > whole.end-whole.start {
		return parseError(whole.start, "data of a section of %v starts at %#x of %#x bytes", f, offset, whole.end-whole.start)
	}
	if guid != guidLZMA {
		i.unread = append(i.unread, fmt.Sprintf("%v has a section of kind %s", f, guid))
		return nil
	}
	if depth >= maxDepth {
		return parseError(whole.start, "volumes are nested deeper than %d", maxDepth)
	}
	stream := extent{whole.start + offset, whole.end}
	content, _, err := lzma.Decode(s.data[stream.start:stream.end], maxContent-i.content)
	if err != nil {
		return parseError(whole.start, "section of %v: %v", f, err)
	}
	i.content += len(content.Content)
	inner := &space{data: content.Content, packed: &packed{in: s, volume: v, file: *f, section: whole, stream: stream, lzma: content}}
	i.spaces = append(i.spaces, inner)
	var none file
	return i.sections(inner, extent{}, &none, extent{0, len(inner.data)}, depth+1)
}

// fileOf returns the innermost file that contains offset.
func (s *space) fileOf(offset int) file {
	var found file
	for _, f := range s.files {
		if f.has(offset) && (found.end == 0 || f.end-f.start < found.end-found.start) {
			found = f
		}
	}
	return found
}

// blank reports whether a volume's free space starts here.
func blank(b []byte) bool {
	for _, x := range b {
		if x != 0xff {
			return false
		}
	}
	return true
}

func align(n, to int) int { return (n + to - 1) / to * to }

func size24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

func putSize24(b []byte, n int) { b[0], b[1], b[2] = byte(n), byte(n>>8), byte(n>>16) }

func utf16String(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

func utf16Bytes(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
