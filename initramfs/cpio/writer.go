package cpio

import (
	"errors"
	"fmt"
	"io"
)

// Writer writes one archive. Its methods return the errors of the underlying
// writer wrapped.
type Writer struct {
	w        io.Writer
	previous string // name of the last entry
	count    uint32 // entries so far
	closed   bool
}

// NewWriter starts an archive. If w already holds bytes of an initramfs, their
// number must be a multiple of 4. Otherwise the kernel does not find the archive.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Add appends an entry. Entries must come sorted by name, so a directory comes
// before its contents. The kernel skips a file whose directory does not exist.
func (w *Writer) Add(e Entry) error {
	if w.closed {
		panic("cpio: internal error: Add after Close")
	}
	if err := e.check(w.previous); err != nil {
		return fmt.Errorf("adding entry: %v", err)
	}
	if w.count == 1<<32-1 {
		return errors.New("adding entry: too many entries")
	}
	w.count++
	w.previous = e.Name
	return w.write(headerOf(e, w.count), e.Name, e.Data)
}

// Close ends the archive. It does not close the underlying writer.
func (w *Writer) Close() error {
	if w.closed {
		panic("cpio: internal error: Close after Close")
	}
	w.closed = true
	return w.write(trailer(), trailerName, nil)
}

func (w *Writer) write(h header, name string, data []byte) error {
	head := make([]byte, 0, headerSize+len(name)+1+align)
	head = append(head, magic...)
	for _, field := range h.fields() {
		head = fmt.Appendf(head, "%08X", *field)
	}
	head = append(head, name...)
	head = append(head, 0)
	head = append(head, make([]byte, padding(int64(len(head))))...)
	for _, part := range [][]byte{head, data, make([]byte, padding(int64(len(data))))} {
		if len(part) == 0 {
			continue
		}
		if _, err := w.w.Write(part); err != nil {
			return fmt.Errorf("writing %q: %w", name, err)
		}
	}
	return nil
}
