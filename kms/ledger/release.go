package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// Errors of Release.
var (
	// ErrReleased says that this launch already has had the disk's key.
	ErrReleased = errors.New("key was already released to this launch")
	// ErrStale says that the nonce is not fresh, and that no earlier reply to this request can
	// have been lost.
	ErrStale = errors.New("nonce is unknown, used or too old")
	// ErrClock says that the clock is behind the server's own log.
	ErrClock = errors.New("clock is behind the server's own log")
	// ErrChanged says that the record was changed while the request was judged.
	ErrChanged = errors.New("record was changed meanwhile")
)

// maxBatch is how many releases share a transaction: epoch and lane are conditions too, and
// each has a leaf of at most some 4 KiB. That of a volume's key, which changes two items,
// counts twice.
const maxBatch = 100

// clockSkew is how far a clock may step back without an error.
const clockSkew = 5 * time.Second

// Claim is a release that was decided. It must become durable before the key leaves the server.
type Claim struct {
	Record store.Record
	Launch store.Launch
	// Fresh says that the request's nonce was good. Without it the request can only be a copy
	// of one whose reply was lost.
	Fresh bool
	// FreshUntil is when the nonce stops being fresh. A release does not happen if its
	// transaction begins later. Zero means no end.
	FreshUntil time.Time
	// About is the body of the leaf. Its Remote names the peer, as in Announce.
	About audit.AboutRelease
	// Volume receives what the launch is told about a volume. It is nil if Record is of a disk.
	Volume *store.Volume
}

// claim is a Claim that waits for its transaction.
type claim struct {
	Claim
	token store.Token
	// guarded by the gate
	passed bool // an earlier transaction had no place for it
	done   bool // err is the result
	err    error
}

// Release makes a release durable: its lease, and its leaf for the log. The key may leave the
// server only after Release returns nil. Releases that wait at the same time share a
// transaction. The errors match ErrReleased, ErrStale, ErrCapped, ErrChanged and ErrClock. Any
// other error is a fault of the server, and then the release may or may not have been recorded.
func (l *Ledger) Release(ctx context.Context, c Claim) error {
	if evidence := c.Launch.ReportID != (snp.ReportID{}); evidence != (c.Record.Evidence == store.EvidenceRequired) {
		panic("ledger: internal error: a claim has a REPORT_ID but its record requires no evidence, or the reverse")
	}
	if (c.Volume != nil) != (c.Record.Volume != nil) {
		panic("ledger: internal error: a claim has a volume but its record is of a disk, or the reverse")
	}
	mine := &claim{Claim: c}
	var err error
	if mine.token, err = l.token(); err != nil {
		return err
	}
	l.enqueue(mine)

	// The wait ignores ctx, because the claim is in the queue and another caller may commit it.
	l.gate <- struct{}{}
	defer l.unlock()
	for !mine.done { // another caller may have committed it
		if !mine.passed {
			l.gather()
		}
		l.commit(context.WithoutCancel(ctx), l.take())
	}
	return mine.err
}

// take returns the claims of the next transaction: at most one for each launch and disk, and
// for each volume. So each claim sees the result of those before it.
func (l *Ledger) take() []*claim {
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	seen, bounded := map[string]bool{}, map[pins.UUID]bool{}
	var batch, rest []*claim
	taken := 0
	for _, c := range l.pending {
		key, items := store.KeyLease(c.Record.DiskUUID, c.Launch), 1
		if c.Record.Volume != nil {
			key, items = store.KeyVolume(c.Record.DiskUUID), 2
		}
		more := c.Record.MaxReleases > 0 && !bounded[c.Record.DiskUUID]
		if seen[key] || taken+items > maxBatch || more && len(bounded) == maxBounded {
			c.passed = true
			rest = append(rest, c)
			continue
		}
		taken += items
		seen[key] = true
		if more {
			bounded[c.Record.DiskUUID] = true
		}
		batch = append(batch, c)
	}
	l.pending = rest
	return batch
}

// errUnfinished is the result of a claim until its transaction has one. If a transaction ever
// ended early, its callers would get this error and no key.
var errUnfinished = errors.New("transaction did not end")

// commit makes a batch durable. Afterwards each claim of the batch is done.
func (l *Ledger) commit(ctx context.Context, batch []*claim) {
	for _, c := range batch {
		c.done, c.err = true, errUnfinished
	}
	err := l.transactFrom(ctx, l.expect(batch), keysOf(batch), func(m *moment) error { return l.build(m, batch) })
	if err != nil {
		err = fmt.Errorf("making releases durable: %w", err)
	}
	for _, c := range batch {
		if errors.Is(c.err, errUnfinished) {
			c.err = err
		}
	}
}

// keysOf returns the keys of the items that decide a batch. The epoch comes first: items that
// are read after the epoch, or with it, have not changed if the epoch has not.
func keysOf(batch []*claim) []string {
	keys := []string{store.KeyEpoch}
	seen := map[string]bool{}
	for _, c := range batch {
		more := []string{c.Record.Item(), store.KeyLease(c.Record.DiskUUID, c.Launch)}
		if c.Record.MaxReleases > 0 {
			more = append(more, store.KeyUse(c.Record.DiskUUID))
		}
		if c.Record.Volume != nil {
			more = append(more, store.KeyVolume(c.Record.DiskUUID))
		}
		for _, key := range more {
			if !seen[key] {
				keys, seen[key] = append(keys, key), true
			}
		}
	}
	return keys
}

// build adds the claims of a batch that have no result yet to m.
func (l *Ledger) build(m *moment, batch []*claim) error {
	if m.latest.Sub(m.now) > clockSkew {
		return fmt.Errorf("%w: it is %s, and the newest leaf of lane %s is of %s: correct the clock; if it is right, a change of any record confirms that",
			ErrClock, m.now.Format(time.RFC3339), l.lane, m.latest.Format(time.RFC3339))
	}
	if _, err := m.get(store.KeyEpoch); err != nil {
		return err
	}
	if _, err := m.peek(keysOf(batch)...); err != nil {
		return err
	}
	leases, err := m.each(batch, func(c *claim) string { return store.KeyLease(c.Record.DiskUUID, c.Launch) })
	if err != nil {
		return err
	}
	records, err := m.each(batch, func(c *claim) string { return c.Record.Item() })
	if err != nil {
		return err
	}
	m.expectRecords(batch)
	uses, err := l.readUses(m, batch)
	if err != nil {
		return err
	}
	for i, c := range batch {
		if !errors.Is(c.err, errUnfinished) {
			continue // an earlier proposal gave the result
		}
		lease, found, err := store.LeaseOf(leases[i])
		if err != nil {
			return err
		}
		if found && lease.Token == c.token {
			c.err = nil // an earlier proposal happened
			continue
		}
		event, err := l.event(c.Claim, records[i].Mod, lease, found, m.now)
		if err == nil && c.Record.Volume != nil {
			err = l.openVolume(m, c, event)
		}
		if err != nil && m.expects {
			return errExpected
		}
		if err != nil {
			c.err = err
			continue
		}
		if event == audit.Release {
			if err := uses.take(m, c.Record); err != nil {
				c.err = err
				continue
			}
			m.conditions = append(m.conditions, kv.Cond{Key: leases[i].Key})
			m.write(store.SetLease(c.Record.DiskUUID, c.Launch, store.Lease{
				Token: c.token, ReportID: c.Launch.ReportID, SPIFFEID: c.Record.SPIFFEID, Generation: c.Record.Generation,
				RequestSHA256: c.About.SHA256, Time: m.now,
				Leaf: audit.Place{Lane: l.lane, Sequence: m.place.Sequence + uint64(len(m.entries))},
			}))
		}
		m.entries = append(m.entries, audit.Entry{Event: event, About: c.About})
	}
	return nil
}

// each reads one item for each claim.
func (m *moment) each(batch []*claim, key func(*claim) string) ([]kv.Item, error) {
	var keys []string
	for _, c := range batch {
		keys = append(keys, key(c))
	}
	return m.peek(keys...)
}

// event returns the event of a claim in the present state.
func (l *Ledger) event(c Claim, recordMod int64, before store.Lease, found bool, now time.Time) (audit.Event, error) {
	switch {
	case recordMod != c.Record.Mod() || c.Record.State != store.Enabled:
		return "", ErrChanged
	case !found && (!c.Fresh || !c.FreshUntil.IsZero() && !now.Before(c.FreshUntil)):
		return "", ErrStale
	case !found:
		return audit.Release, nil
	case l.Lost(before, c.About.SHA256, now):
		return audit.ReleaseAgain, nil
	}
	return "", ErrReleased
}

// Lost reports whether a request with this digest, at this time, can be a copy of the one that
// got the release before, whose reply was lost.
func (l *Ledger) Lost(before store.Lease, request pins.Digest, now time.Time) bool {
	age := now.Sub(before.Time)
	return before.RequestSHA256 == request && age >= 0 && age <= l.retryWindow
}
