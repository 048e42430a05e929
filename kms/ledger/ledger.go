// Package ledger puts every act of the key server on the audit log before it takes effect.
//
// It joins the store with the audit log, and is the only way to change either.
// One lock orders all changes and releases: a release that comes after a record
// was disabled in the log does not happen.
//
// A crash between the two writes leaves a line in the log for something that did
// not happen, never the other way round. Open deals with such lines, and tells them
// from those that an older store lacks.
package ledger

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// Ledger is the store with its audit log.
type Ledger struct {
	// Records is the store, for reading.
	Records Reader

	store       *store.Store
	log         *audit.Log
	clock       func() time.Time
	retryWindow time.Duration

	// gate orders all changes.
	gate   sync.Mutex
	behind bool // the store lacks the last append; guarded by gate

	pendingMu sync.Mutex // guards pending
	pending   []*claim   // releases that wait for the next commit
}

// Reader is the part of a store that changes nothing. It is an interface only to
// keep everyone but the ledger from the rest.
type Reader interface {
	Get(disk pins.UUID) (store.Record, error)
	List() ([]store.Record, error)
	KnowsCaller(id spiffeid.ID) (bool, error)
	Key(r store.Record) ([]byte, error)
	Values(r store.Record) ([]byte, error)
	FindRelease(disk pins.UUID, reportID snp.ReportID) (store.Release, bool, error)
	Releases(disk pins.UUID) ([]store.Release, error)
}

// New joins a store with its log, which Open has held against each other. For
// retryWindow after a release, the very same request is answered again.
func New(s *store.Store, log *audit.Log, clock func() time.Time, retryWindow time.Duration) *Ledger {
	return &Ledger{Records: s, store: s, log: log, clock: clock, retryWindow: retryWindow}
}

// Head is the audit log's head.
func (l *Ledger) Head() audit.Head { return l.log.Head() }

// Note puts an entry on the audit log that changes nothing: a refusal, a start.
func (l *Ledger) Note(e audit.Entry) error {
	_, err := l.log.Append(e)
	return err
}

// Put registers a record with its refval.json and key; Generation, Created,
// Changed and State are set here. A disk that has a record is refused unless
// replace is set. The errors match ErrExists and ErrOverlap.
func (l *Ledger) Put(actor string, r store.Record, values, key []byte, replace bool) (store.Record, error) {
	l.gate.Lock()
	defer l.gate.Unlock()
	now := l.clock().UTC().Round(0)
	r.State, r.Created, r.Changed = store.Enabled, now, now
	old, err := l.store.Get(r.DiskUUID)
	switch {
	case err == nil && !replace:
		return store.Record{}, fmt.Errorf("disk %s: %w", r.DiskUUID, ErrExists)
	case err == nil:
		r.Created = old.Created
	case !errors.Is(err, store.ErrNotFound):
		return store.Record{}, err
	}
	if err := l.checkApart(r, values); err != nil {
		return store.Record{}, err
	}
	if r.Generation, err = l.store.NextGeneration(r.DiskUUID); err != nil {
		return store.Record{}, err
	}
	if r.ReferenceValues = (pins.Digest{}); values != nil {
		r.ReferenceValues = sha256.Sum256(values)
	}
	head, err := l.append(change(audit.Put, actor, r))
	if err != nil {
		return store.Record{}, err
	}
	if err := l.stored(l.store.Put(r, values, key, head)); err != nil {
		return store.Record{}, err
	}
	return l.store.Get(r.DiskUUID)
}

// Errors of Put.
var (
	ErrExists  = errors.New("it has a record already")
	ErrOverlap = errors.New("another disk's record overlaps")
)

// checkApart holds a new record against all others of its caller.
func (l *Ledger) checkApart(r store.Record, values []byte) error {
	others, err := l.store.ByCaller(r.SPIFFEID)
	if err != nil {
		return err
	}
	mine, err := decodeValues(values)
	if err != nil {
		return err
	}
	for _, other := range others {
		data, err := l.store.Values(other)
		if err != nil {
			return err
		}
		theirs, err := decodeValues(data)
		if err != nil {
			return err
		}
		if err := acl.CheckApart(r, other, mine, theirs); err != nil {
			return fmt.Errorf("%w: %v", ErrOverlap, err)
		}
	}
	return nil
}

// decodeValues gives the zero Values, which accept nothing, where there are none.
func decodeValues(data []byte) (refval.Values, error) {
	if data == nil {
		return refval.Values{}, nil
	}
	return refval.Decode(data)
}

// SetState enables or disables the record of a disk. Once it returns, no release
// of a disabled record begins. The error matches store.ErrNotFound.
func (l *Ledger) SetState(actor string, disk pins.UUID, state store.State) error {
	l.gate.Lock()
	defer l.gate.Unlock()
	r, err := l.store.Get(disk)
	if err != nil {
		return err
	}
	event := audit.Enable
	if state == store.Disabled {
		event = audit.Disable
	}
	head, err := l.append(change(event, actor, r))
	if err != nil {
		return err
	}
	return l.stored(l.store.SetState(disk, state, l.clock(), head))
}

// Delete removes the record and the key of a disk; its releases stay. The error
// matches store.ErrNotFound.
func (l *Ledger) Delete(actor string, disk pins.UUID) error {
	l.gate.Lock()
	defer l.gate.Unlock()
	r, err := l.store.Get(disk)
	if err != nil {
		return err
	}
	head, err := l.append(change(audit.Delete, actor, r))
	if err != nil {
		return err
	}
	return l.stored(l.store.Delete(disk, head))
}

func change(event audit.Event, actor string, r store.Record) audit.Entry {
	return audit.Entry{Event: event, Actor: actor, Disk: r.DiskUUID, SPIFFEID: r.SPIFFEID.String(),
		Generation: r.Generation, Evidence: string(r.Evidence),
		ReferenceValuesSHA256: r.ReferenceValues, LUKS2HeaderSHA256: r.Header.HeaderSHA256, SameVM: r.SameVM}
}
