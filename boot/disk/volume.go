package disk

import (
	"context"
	"fmt"

	"github.com/rootvouch/rootvouch/pins"
)

// Raw is a disk whose header region matches the pin. The rest of the disk is
// unchecked.
type Raw struct {
	Name   string // "vdb"
	Number string // "254:16"
	Size   uint64 // bytes
	Header []byte
}

// Claimed waits for a disk whose header claims this UUID. The host can write any
// UUID there, so the claim decides only that PID 1 asks for a key.
func (f *Finder) Claimed(ctx context.Context, uuid pins.UUID) error {
	_, err := f.first(ctx, func(c *candidate) bool {
		got, ok := claimedUUID(c.header)
		return ok && got == uuid
	})
	if err != nil {
		return fmt.Errorf("looking for a disk whose header has UUID %s: %w", uuid, err)
	}
	return nil
}

// Only returns the one disk whose header region has the pinned digest. It refuses
// two such disks, because nothing tells which copy of a volume is the one to write.
func (f *Finder) Only(ctx context.Context, want pins.Header) (Raw, error) {
	matches := func(c *candidate) bool { return c.digest == want.HeaderSHA256 }
	c, err := f.first(ctx, matches)
	if err != nil {
		return Raw{}, fmt.Errorf("looking for a disk whose first %d bytes have SHA-256 %s: %w", f.headerSize, want.HeaderSHA256, err)
	}
	for _, other := range f.read {
		if other != c && matches(other) {
			return Raw{}, fmt.Errorf("looking for volume %s: %s and %s have the same header, want one disk that has it", want.DiskUUID, c.name, other.name)
		}
	}
	return Raw{Name: c.name, Number: c.number, Size: c.size, Header: c.header}, nil
}
