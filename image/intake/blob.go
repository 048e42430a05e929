package intake

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
)

// blob reads a file and checks its digest at the end.
type blob struct {
	file *os.File
	hash hash.Hash
	want [sha256.Size]byte
}

func newBlob(f *os.File, want [sha256.Size]byte) *blob {
	return &blob{f, sha256.New(), want}
}

func (b *blob) Read(p []byte) (int, error) {
	n, err := b.file.Read(p)
	b.hash.Write(p[:n])
	if err == io.EOF {
		if got := b.hash.Sum(nil); [sha256.Size]byte(got) != b.want {
			return n, fmt.Errorf("blob has digest sha256:%x, want sha256:%x", got, b.want)
		}
	}
	return n, err
}

func (b *blob) Close() error { return b.file.Close() }
