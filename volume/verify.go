package volume

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/rootvouch/rootvouch/luks2"
)

// Verify reads every sector of a closed volume and compares it with its tag. It returns the
// number of mismatches, and the first of them. It ignores journal entries that were not written
// to their place. Several goroutines call progress, with bytes of data.
func Verify(ctx context.Context, r io.ReaderAt, l Layout, volumeKey []byte, progress func(done, size uint64)) (bad, first uint64, err error) {
	if len(volumeKey) != luks2.AuthenticatedKeySize {
		return 0, 0, fmt.Errorf("verifying: volume key has %d bytes, want %d", len(volumeKey), luks2.AuthenticatedKeySize)
	}
	var done, wrong, lowest atomic.Uint64
	lowest.Store(^uint64(0))
	err = each(ctx, l.Runs(), func(run uint64, tags []byte) error {
		if _, err := r.ReadAt(tags, int64(l.tagsAt(run))); err != nil {
			return fmt.Errorf("reading the volume's tags: %w", err)
		}
		var sector [8 + 16 + SectorSize]byte
		mac := hmac.New(sha256.New, volumeKey[luks2.VolumeKeySize:])
		var sum [TagSize]byte
		for i := range l.tagsIn(run) {
			at := run*areaSize + i*SectorSize
			binary.LittleEndian.PutUint64(sector[:], at/legacySector)
			binary.LittleEndian.PutUint64(sector[8:], at/legacySector)
			if _, err := r.ReadAt(sector[24:], int64(l.tagsAt(run)+RunSize+i*SectorSize)); err != nil {
				return fmt.Errorf("reading sector %d: %w", at/SectorSize, err)
			}
			mac.Reset()
			mac.Write(sector[:])
			if hmac.Equal(mac.Sum(sum[:0]), tags[i*TagSize:][:TagSize]) {
				continue
			}
			wrong.Add(1)
			for number := at / SectorSize; ; {
				known := lowest.Load()
				if number >= known || lowest.CompareAndSwap(known, number) {
					break
				}
			}
		}
		progress(done.Add(l.tagsIn(run)*SectorSize), l.DataSize)
		return nil
	})
	return wrong.Load(), lowest.Load(), err
}
