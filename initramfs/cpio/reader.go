package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Reader reads one archive, entry by entry. It reads no byte after the archive.
type Reader struct {
	r        io.Reader
	previous string // name of the last entry
	count    uint32 // entries so far
	offset   int64  // bytes read
	err      error  // once set, every Next returns it
}

// NewReader returns a Reader of the archive at the start of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Offset returns the number of bytes read so far. After io.EOF that is the
// archive's size.
func (r *Reader) Offset() int64 { return r.offset }

// Next returns the next entry, or io.EOF itself after the last one. If the archive
// ends early, the error matches io.ErrUnexpectedEOF. Memory use follows the bytes
// that were read, not the sizes that a header claims.
func (r *Reader) Next() (Entry, error) {
	if r.err != nil {
		return Entry{}, r.err
	}
	at := r.offset
	e, err := r.next()
	if err != nil {
		r.err = err
		if !errors.Is(err, io.EOF) {
			r.err = fmt.Errorf("reading entry at offset %d: %w", at, err)
		}
		return Entry{}, r.err
	}
	return e, nil
}

func (r *Reader) next() (Entry, error) {
	raw, err := r.take(headerSize)
	if err != nil {
		return Entry{}, err
	}
	h, err := parseHeader(raw)
	if err != nil {
		return Entry{}, err
	}
	if h.nameSize == 0 || h.nameSize > MaxName+1 {
		return Entry{}, fmt.Errorf("name size is %d, want 1 to %d", h.nameSize, MaxName+1)
	}
	name, err := r.take(int64(h.nameSize))
	if err != nil {
		return Entry{}, err
	}
	if err := r.takeZeros(padding(headerSize + int64(h.nameSize))); err != nil {
		return Entry{}, err
	}
	last := len(name) - 1
	if name[last] != 0 {
		return Entry{}, errors.New("name does not end with NUL")
	}
	e := Entry{Name: string(name[:last]), Mode: h.mode, Major: h.rmajor, Minor: h.rminor}
	if e.Name == trailerName {
		if h != trailer() {
			return Entry{}, fmt.Errorf("trailer is %+v, want %+v", h, trailer())
		}
		return Entry{}, io.EOF
	}
	if e.Data, err = r.take(int64(h.size)); err != nil {
		return Entry{}, err
	}
	if err := r.takeZeros(padding(int64(h.size))); err != nil {
		return Entry{}, err
	}
	if err := e.check(r.previous); err != nil {
		return Entry{}, err
	}
	r.count++
	if want := headerOf(e, r.count); h != want {
		return Entry{}, fmt.Errorf("header of %q is %+v, want %+v", e.Name, h, want)
	}
	r.previous = e.Name
	return e, nil
}

// take reads n bytes.
func (r *Reader) take(n int64) ([]byte, error) {
	var buf bytes.Buffer
	got, err := io.CopyN(&buf, r.r, n)
	r.offset += got
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("got %d bytes, want %d: %w", got, n, io.ErrUnexpectedEOF)
	}
	if err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// takeZeros reads n bytes of padding.
func (r *Reader) takeZeros(n int64) error {
	pad, err := r.take(n)
	if err != nil {
		return err
	}
	if len(bytes.Trim(pad, "\x00")) != 0 {
		return fmt.Errorf("padding is %x, want zeros", pad)
	}
	return nil
}

func parseHeader(raw []byte) (header, error) {
	if got := raw[:len(magic)]; string(got) != magic {
		return header{}, fmt.Errorf("magic is %q, want %q", got, magic)
	}
	var h header
	digits := raw[len(magic):]
	for i, field := range h.fields() {
		for _, c := range digits[i*8 : i*8+8] {
			var nibble byte
			switch {
			case '0' <= c && c <= '9':
				nibble = c - '0'
			case 'A' <= c && c <= 'F':
				nibble = c - 'A' + 10
			default:
				return header{}, fmt.Errorf("field %d has %q, want upper-case hex digits", i, c)
			}
			*field = *field<<4 | uint32(nibble)
		}
	}
	return h, nil
}
