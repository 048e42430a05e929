package intake

import (
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/rootvouch/rootvouch/internal/filekind"
)

// Compression is the compression of a tar.
type Compression string

// The compressions of tars.
const (
	Uncompressed Compression = ""
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
	XZ           Compression = "xz"
	Bzip2        Compression = "bzip2"
)

// CompressionOf recognises a compression from the first bytes of a file.
func CompressionOf(head []byte) Compression {
	switch filekind.Of(head) {
	case filekind.Gzip:
		return Gzip
	case filekind.Zstd:
		return Zstd
	case filekind.Xz:
		return XZ
	case filekind.Bzip2:
		return Bzip2
	}
	return Uncompressed
}

// MaxWindow bounds the memory of a decompressor, in bytes.
const MaxWindow = 64 << 20

// Unpack reads a compressed stream. Closing the result does not close r.
func (c Compression) Unpack(r io.Reader) (io.ReadCloser, error) {
	switch c {
	case Gzip:
		return gzip.NewReader(r)
	case Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(MaxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return zstdReader{z.IOReadCloser()}, nil
	case XZ:
		buffered := bufio.NewReader(r)
		if err := checkXZ(buffered); err != nil {
			return nil, err
		}
		x, err := xz.NewReader(buffered)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(r)), nil
	}
	return io.NopCloser(r), nil
}

// zstdReader explains the error of a window that is too large.
type zstdReader struct{ io.ReadCloser }

func (z zstdReader) Read(b []byte) (int, error) {
	n, err := z.ReadCloser.Read(b)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = fmt.Errorf("zstd window of more than %d bytes: pack it without --long and --ultra", MaxWindow)
	}
	return n, err
}

// checkXZ refuses a dictionary that needs too much memory. It reads the header of the first
// block (The .xz File Format 1.2, sections 2.1.1, 3.1 and 5.3.1).
func checkXZ(r *bufio.Reader) error {
	const streamHeader, lzma2 = 12, 0x21
	head, err := r.Peek(streamHeader + 64)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(head) < streamHeader+2 || head[streamHeader] == 0 { // no block
		return nil
	}
	at := streamHeader + 2
	for _, present := range []byte{0x40, 0x80} { // sizes of the block, 7 bits a byte
		if head[streamHeader+1]&present == 0 {
			continue
		}
		for at < len(head) && head[at]&0x80 != 0 {
			at++
		}
		at++
	}
	if at+2 >= len(head) {
		return io.ErrUnexpectedEOF
	}
	if head[streamHeader+1]&3 != 0 || head[at] != lzma2 {
		return errors.New("xz data has a filter before LZMA2: pack it without --x86 and --delta")
	}
	bits := head[at+2]
	if bits > 40 {
		return fmt.Errorf("xz dictionary has size code %d, want at most 40", bits)
	}
	if size := (2 | uint64(bits&1)) << (bits/2 + 11); bits == 40 || size > MaxWindow {
		return fmt.Errorf("xz dictionary has %d bytes, want at most %d: pack it with -9 or less", size, MaxWindow)
	}
	return nil
}
