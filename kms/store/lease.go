package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// Launch names what gets a disk's key once. It is a launch, by REPORT_ID, or, if evidence is
// not required, a request, by its nonce.
type Launch struct {
	ReportID snp.ReportID   // zero if evidence is not required
	Nonce    evidence.Nonce // zero if evidence is required
}

func (l Launch) String() string {
	if l.ReportID != (snp.ReportID{}) {
		return "report-" + l.ReportID.String()
	}
	return "nonce-" + l.Nonce.String()
}

// Token identifies the maker of a lease: 16 random bytes, new for each claim.
type Token [16]byte

// MarshalText writes t as lower-case hex.
func (t Token) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(t[:])), nil }

// UnmarshalText reads 32 lower-case hex digits.
func (t *Token) UnmarshalText(text []byte) error {
	if err := pins.DecodeHex(t[:], text); err != nil {
		return fmt.Errorf("parsing token: %v", err)
	}
	return nil
}

// Lease says that the key of a disk was released to a launch. It is never deleted: a launch
// gets a disk's key once, even if the record changes later.
type Lease struct {
	Token         Token        `json:"token"`
	ReportID      snp.ReportID `json:"report_id,omitzero"`
	SPIFFEID      spiffeid.ID  `json:"spiffe_id"`
	Generation    uint64       `json:"generation"`
	RequestSHA256 pins.Digest  `json:"request_sha256"` // of the request's body
	Time          time.Time    `json:"time"`           // UTC
	Leaf          audit.Place  `json:"leaf"`
}

func prefixLease(disk pins.UUID) string { return "lease/" + disk.String() + "/" }

// KeyLease is the key of a launch's lease.
func KeyLease(disk pins.UUID, l Launch) string { return prefixLease(disk) + l.String() }

// LeaseOf decodes the item of a lease. found is false if there is none.
func LeaseOf(item kv.Item) (l Lease, found bool, err error) {
	if item.Mod == 0 {
		return Lease{}, false, nil
	}
	return l, true, decodeItem(item, &l)
}

// SetLease makes the item of a lease.
func SetLease(disk pins.UUID, launch Launch, l Lease) kv.Write {
	return kv.Write{Key: KeyLease(disk, launch), Value: encodeJSON(l)}
}

// FindLease returns the lease of a launch, if it has one.
func (s *Store) FindLease(ctx context.Context, disk pins.UUID, launch Launch) (l Lease, found bool, err error) {
	items, err := s.Engine.Get(ctx, KeyLease(disk, launch))
	if err != nil {
		return Lease{}, false, err
	}
	return LeaseOf(items[0])
}

// SomeLeases returns at most limit leases of a disk.
func (s *Store) SomeLeases(ctx context.Context, disk pins.UUID, limit int) ([]Lease, error) {
	items, err := s.Engine.List(ctx, prefixLease(disk), "", limit)
	if err != nil {
		return nil, err
	}
	var all []Lease
	for _, item := range items {
		l, _, err := LeaseOf(item)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// Leases returns all leases of a disk.
func (s *Store) Leases(ctx context.Context, disk pins.UUID) ([]Lease, error) {
	var all []Lease
	err := kv.Each(ctx, s.Engine, prefixLease(disk), func(item kv.Item) error {
		l, _, err := LeaseOf(item)
		all = append(all, l)
		return err
	})
	return all, err
}
