// Package lzma reads an LZMA stream into its operations, and writes operations as a
// stream.
//
// If a few bytes of the content change, all other operations stay. So the result has
// nearly the size of the original, and depends only on the original and the change.
// An encoder that searches for matches of its own promises neither. Unchanged
// operations give the original stream, byte for byte, which shows that reader and
// writer agree.
//
// The format is that of the LZMA SDK's LzmaEnc, with the 13-byte header of
// .lzma files and a known size (LZMA specification, 2015-06-14); edk2 calls it
// LzmaCustomDecompress.
package lzma

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

const headerSize = 13

// Properties are the parameters of a stream.
type Properties struct {
	LC, LP, PB int
	Dictionary uint32 // bytes
}

// Op is one operation: a literal byte, or a copy of Length bytes from Distance
// bytes back.
type Op struct {
	Length   int
	Distance int // 0: a literal
	// Fresh says that the distance is written in full, although it is one of the
	// last four.
	Fresh bool
}

// Stream is a decoded stream.
type Stream struct {
	Properties
	Ops     []Op
	Content []byte
}

// Decode reads a stream whose content has at most max bytes. It returns the
// stream's length in data.
func Decode(data []byte, max int) (s Stream, used int, err error) {
	if len(data) < headerSize {
		return s, 0, fmt.Errorf("decoding LZMA: got %d bytes, want at least %d", len(data), headerSize)
	}
	if s.Properties, err = parseProperties(data); err != nil {
		return s, 0, err
	}
	size := binary.LittleEndian.Uint64(data[5:])
	if size > uint64(max) {
		return s, 0, fmt.Errorf("decoding LZMA: content has %d bytes, want at most %d", size, max)
	}
	d, m := newDecoder(data[headerSize:]), newModel(s.Properties)
	if d.outOfRange {
		return s, 0, fmt.Errorf("decoding LZMA: the range coder starts with % x, want 00 and less than ff ff ff ff", data[headerSize:min(headerSize+5, len(data))])
	}
	for uint64(len(s.Content)) < size {
		op, b := m.next(d, s.Content, Op{}, 0)
		if d.missing > 0 {
			return s, 0, fmt.Errorf("decoding LZMA: the stream ends after %d of %d bytes of content", len(s.Content), size)
		}
		if op.Distance > len(s.Content) || uint64(op.Length) > size-uint64(len(s.Content)) {
			return s, 0, fmt.Errorf("decoding LZMA: at byte %d of %d a copy of %d bytes from %d back", len(s.Content), size, op.Length, op.Distance)
		}
		s.Ops = append(s.Ops, op)
		s.Content = op.apply(s.Content, b)
	}
	d.normalize()
	if d.missing > 0 || d.code != 0 {
		return s, 0, fmt.Errorf("decoding LZMA: the range coder ends with code %#x, want 0", d.code)
	}
	return s, headerSize + d.next, nil
}

func parseProperties(data []byte) (Properties, error) {
	b := int(data[0])
	p := Properties{LC: b % 9, LP: b / 9 % 5, PB: b / 45, Dictionary: binary.LittleEndian.Uint32(data[1:])}
	if p.PB > maxPB {
		return p, fmt.Errorf("decoding LZMA: properties are %#x, want at most %#x", b, 9*5*5-1)
	}
	return p, nil
}

func (o Op) apply(content []byte, literal byte) []byte {
	if o.Distance == 0 {
		return append(content, literal)
	}
	for range o.Length {
		content = append(content, content[len(content)-o.Distance])
	}
	return content
}

// Encode writes the operations, whose effect must be the content.
func (s Stream) Encode() []byte {
	header := make([]byte, headerSize)
	header[0] = byte((s.PB*5+s.LP)*9 + s.LC)
	binary.LittleEndian.PutUint32(header[1:], s.Dictionary)
	binary.LittleEndian.PutUint64(header[5:], uint64(len(s.Content)))
	e, m := newEncoder(), newModel(s.Properties)
	at := 0
	for _, o := range s.Ops {
		if o.Length == 1 && o.Distance != m.reps[0] {
			o = Op{Length: 1} // one byte can be copied from the last distance only
		}
		m.next(e, s.Content[:at], o, s.Content[at])
		at += o.Length
	}
	if at != len(s.Content) {
		panic(fmt.Sprintf("lzma: internal error: operations have %d bytes, content %d", at, len(s.Content)))
	}
	return append(header, e.finish()...)
}

// With returns the stream with other content of the same length. It keeps
// operations that still give the right bytes. It replaces the others by literals,
// and by the parts of their copies that are right.
func (s Stream) With(content []byte) Stream {
	if len(content) != len(s.Content) {
		panic(fmt.Sprintf("lzma: internal error: content of %d bytes for %d", len(content), len(s.Content)))
	}
	changed := Stream{Properties: s.Properties, Content: content}
	at := 0
	for _, o := range s.Ops {
		end := at + o.Length
		if o.Distance == 0 || bytes.Equal(content[at:end], content[at-o.Distance:end-o.Distance]) {
			changed.Ops = append(changed.Ops, o)
		} else {
			changed.Ops = append(changed.Ops, split(content, at, o)...)
		}
		at = end
	}
	return changed
}

// split makes literals of the bytes that o would copy wrongly.
func split(content []byte, at int, o Op) (ops []Op) {
	for end := at + o.Length; at < end; {
		n := 0
		for at+n < end && content[at+n] == content[at+n-o.Distance] {
			n++
		}
		if n >= minMatch {
			ops = append(ops, Op{Length: n, Distance: o.Distance})
			at += n
			continue
		}
		ops = append(ops, Op{Length: 1})
		at++
	}
	return ops
}
