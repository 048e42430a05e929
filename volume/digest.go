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

// Digest says what a closed volume holds: SHA-256 over a label, the size, and the
// SHA-256 of header, superblock, journal and each run of tags. It reads no data,
// because no data but that of the tags can be read. r is the whole device. Several
// goroutines call progress, with bytes of tags.
func Digest(ctx context.Context, r io.ReaderAt, l Layout, progress func(done, size uint64)) (pins.Digest, error) {
	h := sha256.New()
	h.Write([]byte(digestLabel))
	h.Write(binary.BigEndian.AppendUint64(nil, l.Size))
	for _, part := range []struct {
		name       string
		start, end uint64
	}{
		{"header", 0, Offset},
		{"dm-integrity superblock", Offset, Offset + SuperblockSize},
		{"journal", Offset + SuperblockSize, l.tagsAt(0)},
	} {
		sum := sha256.New()
		if _, err := io.Copy(sum, io.NewSectionReader(r, int64(part.start), int64(part.end-part.start))); err != nil {
			return pins.Digest{}, fmt.Errorf("reading the volume's %s: %w", part.name, err)
		}
		h.Write(sum.Sum(nil))
	}
	sums := make([][sha256.Size]byte, l.Runs())
	var done atomic.Uint64
	err := each(ctx, l.Runs(), func(run uint64, buf []byte) error {
		if _, err := r.ReadAt(buf, int64(l.tagsAt(run))); err != nil {
			return fmt.Errorf("reading the volume's tags: %w", err)
		}
		sums[run] = sha256.Sum256(buf)
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
