package ledger

import (
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// ErrOldStore says that the store is older than the audit log.
var ErrOldStore = errors.New("store is older than the audit log")

// Open opens the audit log at path and joins it with the store, which must have been
// its companion to the end. What a crash left on the log alone is put right, and the
// log says so. The error matches ErrOldStore where no crash explains what the store
// lacks.
func Open(s *store.Store, path string, clock func() time.Time, retryWindow time.Duration) (*Ledger, error) {
	head, err := s.Head()
	if err != nil {
		return nil, err
	}
	var t tail
	log, err := audit.OpenAfter(path, head, clock, t.add)
	if err != nil {
		return nil, err
	}
	l := New(s, log, clock, retryWindow)
	if err := l.settle(t, head); err != nil {
		log.Close()
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}
	return l, nil
}

// Close closes the store and the log.
func (l *Ledger) Close() error { return errors.Join(l.store.Close(), l.log.Close()) }

// tail is what the log has after the store's head, and the store has not: a change
// or release is in the store exactly if the head that came with it is.
type tail struct {
	releases []audit.Record // for the first time or again
	changes  []audit.Record
	restart  bool // the server started after one of them
}

func (t *tail) add(r audit.Record) {
	switch r.Event {
	case audit.Release, audit.ReleaseAgain:
		t.releases = append(t.releases, r)
	case audit.Put, audit.Enable, audit.Disable, audit.Delete:
		t.changes = append(t.changes, r)
	case audit.Start:
		t.restart = t.restart || len(t.releases)+len(t.changes) > 0
	}
}

// byCrash reports whether a crash, or a store that failed, can have left a tail with
// changes: there is one change and nothing else. A change is one line, a commit of
// releases has no change in it, and append writes neither before the store is level
// with the log: so the store lacks the last of them at most. Open brings it level
// before the server says that it starts: so it lacks nothing that came before a start.
// Other lines change nothing, and may stand anywhere.
func (t *tail) byCrash() bool {
	return len(t.changes) == 1 && len(t.releases) == 0 && !t.restart
}

// settle brings the store level with the log.
func (l *Ledger) settle(t tail, head audit.Head) error {
	if len(t.changes) > 0 {
		if !t.byCrash() {
			first := t.changes[0]
			return fmt.Errorf("%w: it ends at line %d, and lacks line %d, %s of disk %s at %s, which no crash explains: "+
				"put back the store that was last in use; if it is lost, start with a new store and log, and register the keys anew",
				ErrOldStore, head.Sequence, first.Sequence, first.Event, first.Disk, first.Time.Format(time.RFC3339))
		}
		return l.settleChange(t.changes[0])
	}
	fresh, err := l.missing(t.releases)
	if err != nil {
		return err
	}
	if len(t.releases) > 0 {
		if err := l.recovered(t.releases[0], "and what follows: these launches get no key again"); err != nil {
			return err
		}
	}
	if l.log.Head() == head {
		return nil
	}
	return l.store.AddReleases(fresh, l.log.Head())
}

// settleChange puts right a change that is on the log alone. It may have been done,
// in a store that an older one has replaced since: so what it took away is taken
// away, and what it gave is not given.
func (l *Ledger) settleChange(r audit.Record) error {
	var did string
	var do func() error
	current, err := l.store.Get(r.Disk)
	known := err == nil
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return err
	case r.Event == audit.Delete && known:
		did = "deleted now"
		do = func() error { return l.store.Delete(r.Disk, l.log.Head()) }
	case r.Event != audit.Delete && r.Event != audit.Enable && known && current.State == store.Enabled:
		did = "disabled now" // the key that a put brings is not on the log
		do = func() error { return l.store.SetState(r.Disk, store.Disabled, l.clock(), l.log.Head()) }
	default:
		did = "not done"
		do = func() error { return l.store.AddReleases(nil, l.log.Head()) }
	}
	// A crash from here on leaves the same tail.
	if err := l.recovered(r, did); err != nil {
		return err
	}
	return do()
}

func (l *Ledger) recovered(r audit.Record, did string) error {
	return l.Note(audit.Entry{Event: audit.Recovered,
		Reason: fmt.Sprintf("store lacked line %d, %s of disk %s: %s", r.Sequence, r.Event, r.Disk, did)})
}

// missing makes releases of log lines. Of two to the same launch the store failed at
// the first, and no key left then.
func (l *Ledger) missing(lines []audit.Record) ([]store.Release, error) {
	type launch struct {
		disk   pins.UUID
		report snp.ReportID
	}
	at := map[launch]int{}
	var all []store.Release
	for _, line := range lines {
		if line.Event != audit.Release || line.ReportID == (snp.ReportID{}) {
			continue
		}
		id, err := spiffeid.FromString(line.SPIFFEID)
		if err != nil {
			return nil, fmt.Errorf("line %d: spiffe_id: %v", line.Sequence, err)
		}
		if _, found, err := l.store.FindRelease(line.Disk, line.ReportID); err != nil {
			return nil, err
		} else if found {
			continue
		}
		key := launch{line.Disk, line.ReportID}
		if _, again := at[key]; !again {
			at[key] = len(all)
			all = append(all, store.Release{})
		}
		all[at[key]] = store.Release{
			Disk: line.Disk, ReportID: line.ReportID, SPIFFEID: id, Generation: line.Generation,
			RequestSHA256: line.RequestSHA256, Time: line.Time, AuditSequence: line.Sequence,
		}
	}
	return all, nil
}

// append puts one change, or one commit of releases, on the log. Where the last one
// did not get into the store, that is given up first: then the store lacks the last
// one at most, which is what Open counts on. The gate is held.
func (l *Ledger) append(entries ...audit.Entry) (audit.Head, error) {
	if l.behind {
		if err := l.store.AddReleases(nil, l.log.Head()); err != nil {
			return audit.Head{}, fmt.Errorf("bringing the store level with the audit log: %w", err)
		}
		l.behind = false
	}
	head, err := l.log.Append(entries...)
	l.behind = err == nil
	return head, err
}

// stored takes the result of the store's write that goes with the last append.
func (l *Ledger) stored(err error) error {
	if err == nil {
		l.behind = false
	}
	return err
}
