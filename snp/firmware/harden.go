package firmware

import (
	"bytes"
	"fmt"

	"github.com/rootvouch/rootvouch/snp/firmware/lzma"
)

// nowhere is the GUID that [Harden] writes into a path. No file system has this
// GUID, so the firmware's LoadImage finds nothing, and the firmware goes on to the
// verified kernel.
var nowhere [16]byte

// Harden returns a copy of an image in which the device path of the optional
// program before the kernel leads nowhere. The copy depends on the image alone.
// If a way stays open, the error has type *OpenError, and there is no copy.
func Harden(data []byte) ([]byte, error) {
	i, err := parse(data)
	if err != nil {
		return nil, err
	}
	edits := map[*space][]byte{} // :: space -> its new bytes
	for _, p := range i.programs() {
		if edits[p.space] == nil {
			edits[p.space] = bytes.Clone(p.space.data)
		}
		copy(edits[p.space][p.at:], nowhere[:])
		if err := p.space.sumFiles(edits[p.space], p.at); err != nil {
			return nil, err
		}
	}
	out, err := i.apply(edits)
	if err != nil {
		return nil, err
	}
	if err := Inspect(out).Check(); err != nil {
		return nil, err
	}
	return out, nil
}

// apply puts edited spaces back into the sections that they came from, the
// innermost first, and returns the image.
func (i *image) apply(edits map[*space][]byte) ([]byte, error) {
	for n := len(i.spaces) - 1; n > 0; n-- { // a space comes after the space that contains it
		s := i.spaces[n]
		content := edits[s]
		if content == nil {
			continue
		}
		in := s.packed.in
		if edits[in] == nil {
			edits[in] = bytes.Clone(in.data)
		}
		if err := s.packed.replace(edits[in], s.packed.lzma.With(content)); err != nil {
			return nil, err
		}
		if err := in.sumFiles(edits[in], s.packed.section.start); err != nil {
			return nil, err
		}
	}
	if out := edits[i.spaces[0]]; out != nil {
		return out, nil
	}
	return bytes.Clone(i.spaces[0].data), nil
}

// replace writes a section's new stream. A larger file takes free space of its
// volume. A smaller one adds to the free space.
func (p *packed) replace(data []byte, with lzma.Stream) error {
	stream := with.Encode()
	grown := len(stream) - (p.stream.end - p.stream.start)
	end := p.file.end + grown
	switch {
	case grown == 0:
	case p.section.end != p.file.end || !blank(p.in.data[p.file.end:p.volume.end]):
		return fmt.Errorf("replacing a section of %v: it has %d more bytes, and something follows it", p.file, grown)
	case end > p.volume.end:
		return fmt.Errorf("replacing a section of %v: it has %d more bytes, and its volume %d", p.file, grown, p.volume.end-p.file.end)
	case p.section.end-p.section.start+grown >= 0xffffff || size24(data[p.section.start:]) == 0xffffff || p.file.header != fileHeader || end-p.file.start >= 0xffffff:
		return fmt.Errorf("replacing a section of %v: it is too large", p.file)
	}
	copy(data[p.stream.start:], stream)
	for at := end; at < p.file.end; at++ {
		data[at] = 0xff
	}
	if grown != 0 {
		putSize24(data[p.section.start:], p.section.end-p.section.start+grown)
		putSize24(data[p.file.start+20:], end-p.file.start)
		data[p.file.start+16] = 0
		data[p.file.start+16] = -headerSum(data[p.file.start : p.file.start+p.file.header])
	}
	return nil
}

// sumFiles corrects the data checksum of the files that contain offset at, if they
// have a checksum.
func (s *space) sumFiles(data []byte, at int) error {
	for _, f := range s.files {
		if !f.has(at) || data[f.start+19]&fileChecksum == 0 {
			continue
		}
		end := f.start + size24(data[f.start+20:])
		if f.header != fileHeader {
			return fmt.Errorf("correcting the checksum of %v: it is a large file", f)
		}
		sum := byte(0)
		for _, b := range data[f.start+f.header : end] {
			sum += b
		}
		data[f.start+17] = -sum
	}
	return nil
}
