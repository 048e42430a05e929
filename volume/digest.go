package volume

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/rootvouch/rootvouch/pins"
)

const digestLabel = "rootvouch volume digest v1\n"

// Digest identifies the contents of a closed volume: SHA-256 over a label, the size, and the
// SHA-256 of header, superblock, journal and each run of tags. It need not read the data,
// because the tags authenticate them. r is the whole device. Several goroutines call progress,
// with bytes of tags.
func Digest(ctx context.Context, r io.ReaderAt, l Layout, progress func(done, size uint64)) (pins.Digest, error) {
	h := sha256.New()
	h.Write([]byte(digestLabel))
	h.Write(binary.BigEndian.AppendUint64(nil, l.Size))
	parts := l.parts()
	sums := make([][sha256.Size]byte, uint64(len(parts))+l.Runs())
	var done atomic.Uint64
	err := each(ctx, uint64(len(sums)), func(n uint64, buf []byte) error {
		if n < uint64(len(parts)) {
			return parts[n].sum(r, buf, &sums[n])
		}
		if _, err := r.ReadAt(buf, int64(l.tagsAt(n-uint64(len(parts))))); err != nil {
			return fmt.Errorf("reading the volume's tags: %w", err)
		}
		sums[n] = sha256.Sum256(buf)
		progress(done.Add(RunSize), l.TagsSize())
		return nil
	})
	if err != nil {
		return pins.Digest{}, err
	}
	for _, sum := range sums {
		h.Write(sum[:])
	}
	return pins.Digest(h.Sum(nil)), nil
}

// part is what a volume has once.
type part struct {
	name       string
	start, end uint64
}

// parts are what is before the first run of tags. On several cores they are read beside the runs.
func (l Layout) parts() []part {
	return []part{
		{"header", 0, Offset},
		{"dm-integrity superblock", Offset, Offset + SuperblockSize},
		{"journal", Offset + SuperblockSize, l.tagsAt(0)},
	}
}

func (p part) sum(r io.ReaderAt, buf []byte, sum *[sha256.Size]byte) error {
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(r, int64(p.start), int64(p.end-p.start)), buf); err != nil {
		return fmt.Errorf("reading the volume's %s: %w", p.name, err)
	}
	h.Sum(sum[:0])
	return nil
}
