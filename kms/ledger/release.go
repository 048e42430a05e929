package ledger

import (
	"errors"
	"fmt"
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// Errors of Release.
var (
	// ErrReleased says that this launch has had the disk's key.
	ErrReleased = errors.New("key was already released to this launch")
	// ErrStale says that the nonce is not fresh, and that there is no reply which
	// could have been lost.
	ErrStale = errors.New("nonce is unknown, used or too old")
	// ErrChanged says that the record was changed while the request was judged.
	ErrChanged = errors.New("record was changed meanwhile")
)

// Claim is a release that was decided, and must become durable before the key
// leaves.
type Claim struct {
	Record        store.Record
	ReportID      snp.ReportID // zero where evidence is not required: then nothing counts releases
	RequestSHA256 pins.Digest
	// Fresh says that the request's nonce was good. Without it the request can only
	// be one whose reply was lost.
	Fresh bool
	// Entry is what the audit log says; Event is set here.
	Entry audit.Entry
}

// claim is a Claim on its way.
type claim struct {
	Claim
	done bool // err is the result; guarded by gate
	err  error
}

// Release makes a release durable: first on the audit log, then in the store. The
// key may leave when it returns nil, and only then. Releases that wait for each
// other share their syncs. The errors match ErrReleased, ErrStale and ErrChanged;
// any other is a fault of the server's.
func (l *Ledger) Release(c Claim) error {
	mine := &claim{Claim: c}
	l.pendingMu.Lock()
	l.pending = append(l.pending, mine)
	l.pendingMu.Unlock()

	l.gate.Lock()
	defer l.gate.Unlock()
	for !mine.done { // whoever held the gate may have done it
		l.commit(l.take())
	}
	return mine.err
}

// take returns the claims of the next commit: at most one of each launch and disk,
// so that each sees what became of those before it.
func (l *Ledger) take() []*claim {
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	type launch struct {
		disk   pins.UUID
		report snp.ReportID
	}
	seen := map[launch]bool{}
	var batch, rest []*claim
	for _, c := range l.pending {
		key := launch{c.Record.DiskUUID, c.ReportID}
		if c.ReportID != (snp.ReportID{}) && seen[key] {
			rest = append(rest, c)
			continue
		}
		seen[key] = true
		batch = append(batch, c)
	}
	l.pending = rest
	return batch
}

// errUnfinished is the result of a claim until it has a better one: should a commit
// ever end early, nobody waits for ever and no key leaves.
var errUnfinished = errors.New("commit did not end")

// commit makes a batch durable. Each claim of it is done afterwards.
func (l *Ledger) commit(batch []*claim) {
	for _, c := range batch {
		c.done, c.err = true, errUnfinished
	}
	now := l.clock()
	var entries []audit.Entry
	var logged []*claim
	for _, c := range batch {
		event, err := l.event(c.Claim, now)
		if err != nil {
			c.err = err
			continue
		}
		c.Entry.Event = event
		entries = append(entries, c.Entry)
		logged = append(logged, c)
	}
	if len(logged) == 0 {
		return
	}
	head, err := l.append(entries...)
	if err != nil {
		finish(logged, err)
		return
	}
	var fresh []store.Release
	first := head.Sequence - uint64(len(entries)) + 1
	for i, c := range logged {
		if c.Entry.Event == audit.Release && c.ReportID != (snp.ReportID{}) {
			fresh = append(fresh, store.Release{
				Disk: c.Record.DiskUUID, ReportID: c.ReportID, SPIFFEID: c.Record.SPIFFEID,
				Generation: c.Record.Generation, RequestSHA256: c.RequestSHA256,
				Time: now.UTC().Round(0), AuditSequence: first + uint64(i),
			})
		}
	}
	if err := l.stored(l.store.AddReleases(fresh, head)); err != nil {
		finish(logged, fmt.Errorf("making releases durable: %w", err))
		return
	}
	finish(logged, nil)
}

func finish(claims []*claim, err error) {
	for _, c := range claims {
		c.err = err
	}
}

// event says what a claim is, as things stand behind the gate.
func (l *Ledger) event(c Claim, now time.Time) (audit.Event, error) {
	current, err := l.store.Current(c.Record)
	if err != nil {
		return "", err
	}
	if !current {
		return "", ErrChanged
	}
	if c.ReportID == (snp.ReportID{}) {
		if c.Record.Evidence != store.EvidenceNotRequired {
			panic("ledger: internal error: a claim without REPORT_ID for a record that requires evidence")
		}
		if !c.Fresh {
			return "", ErrStale
		}
		return audit.Release, nil
	}
	before, found, err := l.store.FindRelease(c.Record.DiskUUID, c.ReportID)
	switch {
	case err != nil:
		return "", err
	case !found && !c.Fresh:
		return "", ErrStale
	case !found:
		return audit.Release, nil
	case l.Lost(before, c.RequestSHA256, now):
		return audit.ReleaseAgain, nil
	}
	return "", ErrReleased
}

// Lost reports whether a request with this digest, at this time, can be one whose
// reply to the release before was lost.
func (l *Ledger) Lost(before store.Release, request pins.Digest, now time.Time) bool {
	age := now.Sub(before.Time)
	return before.RequestSHA256 == request && age >= 0 && age <= l.retryWindow
}
