package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var errForeignQCOW2 = errors.New("a qcow2 that image build did not write, or that was changed since: convert it to a raw disk (qemu-img convert -f qcow2 -O raw)")

// Contents returns the disk in a file of size bytes, and the disk's size. The disk is the file
// itself, or the content of a qcow2 of BuildFiles. Contents refuses any other qcow2, so that it
// need not understand more of the format than BuildFiles writes.
func Contents(f io.ReaderAt, size int64) (io.ReaderAt, int64, error) {
	header := make([]byte, qcowHeaderSize)
	n, err := f.ReadAt(header, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	if !isQCOW2(header[:n]) {
		return f, size, nil
	}
	disk := binary.BigEndian.Uint64(header[qcowSizeAt:])
	if disk > uint64(size) {
		return nil, 0, errForeignQCOW2
	}
	l := layQCOW2(disk)
	if !bytes.Equal(header, l.header()) || size < l.fileSize() {
		return nil, 0, errForeignQCOW2
	}
	got := make([]byte, qcowCluster)
	err = l.pointers(func(want []byte, offset int64) error {
		if n, err := f.ReadAt(got[:len(want)], offset); n < len(want) {
			return fmt.Errorf("reading the tables of the qcow2: %w", err)
		}
		if !bytes.Equal(got[:len(want)], want) {
			return errForeignQCOW2
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return io.NewSectionReader(f, int64(l.dataAt*qcowCluster), int64(disk)), int64(disk), nil
}

func isQCOW2(head []byte) bool { return bytes.HasPrefix(head, []byte(qcowMagic)) }
