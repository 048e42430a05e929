package ledger

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// reopen opens the rig's files as a server that starts does.
func (r *rig) reopen(t *testing.T) error {
	t.Helper()
	r.Close()
	k, err := kek.New(bytes.Repeat([]byte{1}, kek.Size))
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(r.storePath(), k, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l, err := Open(s, r.path, func() time.Time { return noon }, time.Minute)
	if err != nil {
		s.Close()
		return err
	}
	t.Cleanup(func() { l.Close() })
	r.Ledger = l
	return nil
}

func (r *rig) storePath() string { return filepath.Join(filepath.Dir(r.path), "kms.db") }

// copyStore returns a function that puts the store back as it is now.
func (r *rig) copyStore(t *testing.T) (putBack func()) {
	t.Helper()
	old, err := os.ReadFile(r.storePath())
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		r.Close()
		if err := os.WriteFile(r.storePath(), old, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// act does one of the things that the log has a line for.
func (r *rig) act(t *testing.T, what string) {
	t.Helper()
	record, err := r.Records.Get(pins.UUID{1})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	err = nil
	switch what {
	case "put":
		r.put(t, true)
	case "enable":
		err = r.SetState("test", record.DiskUUID, store.Enabled)
	case "disable":
		err = r.SetState("test", record.DiskUUID, store.Disabled)
	case "delete":
		err = r.Delete("test", record.DiskUUID)
	case "release":
		err = r.Release(claimOf(record, 1))
	case "other release":
		err = r.Release(claimOf(record, 2))
	case "refusal":
		err = r.Note(audit.Entry{Event: audit.Refusal})
	case "start":
		err = r.reopen(t)
		if err == nil {
			err = r.Note(audit.Entry{Event: audit.Start})
		}
	default:
		t.Fatalf("unknown act %q", what)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func claimOf(record store.Record, launch byte) Claim {
	return Claim{Record: record, ReportID: snp.ReportID{launch}, RequestSHA256: pins.Digest{launch}, Fresh: true,
		Entry: audit.Entry{Disk: record.DiskUUID, SPIFFEID: record.SPIFFEID.String(), Generation: record.Generation,
			ReportID: snp.ReportID{launch}, RequestSHA256: pins.Digest{launch}}}
}

// TestOldStore puts the store back, and not the log. Line 3 is the first one that
// it lacks.
func TestOldStore(t *testing.T) {
	for _, c := range []struct {
		acts, line string // the line that is named; none where it starts
	}{
		{"release,disable", "line 4, disable"},
		{"disable,enable", "line 3, disable"},
		{"disable,refusal,start", "line 3, disable"},
		{"delete,put", "line 3, delete"},
		{"put,other release", "line 3, put"},
		{"put,put", "line 3, put"},
		{"release", ""},
		{"release,start,refusal,other release,start", ""},
		{"refusal,start", ""},
	} {
		t.Run(c.acts, func(t *testing.T) {
			r := newRig(t)
			r.put(t, false)
			putBack := r.copyStore(t)
			for act := range strings.SplitSeq(c.acts, ",") {
				r.act(t, act)
			}
			putBack()
			before, err := os.ReadFile(r.path)
			if err != nil {
				t.Fatal(err)
			}
			err = r.reopen(t)
			if c.line == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, ErrOldStore) || !strings.Contains(err.Error(), "lacks "+c.line+" of disk") {
				t.Errorf("got error %v, want ErrOldStore with %q", err, c.line)
			}
			if after, err := os.ReadFile(r.path); err != nil || !bytes.Equal(after, before) {
				t.Errorf("a log that does not fit was written to: %v", err)
			}
		})
	}
}

// TestOldStoreReleases has the launches that got their key get none from an older
// store.
func TestOldStoreReleases(t *testing.T) {
	r := newRig(t)
	record := r.put(t, false)
	putBack := r.copyStore(t)
	r.act(t, "release")
	r.act(t, "start")
	r.act(t, "other release")
	want, err := r.Records.Releases(record.DiskUUID)
	if err != nil || len(want) != 2 {
		t.Fatalf("got releases %v, %v, want 2", want, err)
	}
	putBack()
	for range 2 { // the second time nothing is left to do
		if err := r.reopen(t); err != nil {
			t.Fatal(err)
		}
	}
	got, err := r.Records.Releases(record.DiskUUID)
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got releases %v, %v, want %v", got, err, want)
	}
	for launch := range byte(2) {
		again := claimOf(record, launch+1)
		again.RequestSHA256 = pins.Digest{9}
		if err := r.Release(again); !errors.Is(err, ErrReleased) {
			t.Errorf("launch %d: got error %v, want ErrReleased", launch+1, err)
		}
	}
	if n := r.audited(t, `"event":"recovered"`); n != 1 {
		t.Errorf("log has %d recovered lines, want 1", n)
	}
	if err := r.Release(claimOf(record, 3)); err != nil {
		t.Errorf("a launch without a key: %v", err)
	}
}

// TestCrash stops between the log and the store: the log has the line, the store has
// not. An older store after exactly this act looks the same.
func TestCrash(t *testing.T) {
	for _, c := range []struct {
		event  audit.Event
		state  store.State // before
		want   store.State // afterwards, none for no record
		reason string
	}{
		{audit.Put, store.Enabled, store.Disabled, "put of disk 01000000-0000-0000-0000-000000000000: disabled now"},
		{audit.Put, store.Disabled, store.Disabled, "not done"},
		{audit.Put, "", "", "not done"},
		{audit.Enable, store.Disabled, store.Disabled, "not done"},
		{audit.Enable, store.Enabled, store.Enabled, "not done"},
		{audit.Disable, store.Enabled, store.Disabled, "disabled now"},
		{audit.Disable, store.Disabled, store.Disabled, "not done"},
		{audit.Delete, store.Enabled, "", "deleted now"},
	} {
		t.Run(string(c.event)+" "+string(c.state), func(t *testing.T) {
			r := newRig(t)
			record := r.put(t, false)
			switch c.state {
			case store.Disabled:
				r.act(t, "disable")
			case "":
				r.act(t, "delete")
			}
			r.act(t, "refusal")
			if _, err := r.log.Append(change(c.event, "test", record)); err != nil {
				t.Fatal(err)
			}
			r.act(t, "refusal") // the store's write was under way
			for range 2 {       // the second time nothing is left to do
				if err := r.reopen(t); err != nil {
					t.Fatal(err)
				}
			}
			if n := r.audited(t, c.reason); n != 1 {
				t.Errorf("log says %q %d times, want once", c.reason, n)
			}
			if head, err := r.store.Head(); err != nil || head != r.Head() {
				t.Errorf("store is at %s, %v, want %s", head, err, r.Head())
			}
			got, err := r.Records.Get(record.DiskUUID)
			if c.want == "" {
				if !errors.Is(err, store.ErrNotFound) {
					t.Errorf("got record %v, %v, want none", got, err)
				}
			} else if err != nil || got.State != c.want {
				t.Errorf("got state %q, %v, want %q", got.State, err, c.want)
			}
			r.put(t, true) // the owner goes on
			r.act(t, "release")
		})
	}
}

// TestCrashInRelease stops between the log and the store of a commit of releases.
func TestCrashInRelease(t *testing.T) {
	r := newRig(t)
	record := r.put(t, false)
	var entries []audit.Entry
	for launch := range byte(2) {
		e := claimOf(record, launch+1).Entry
		e.Event = audit.Release
		entries = append(entries, e)
	}
	uncounted := audit.Entry{Event: audit.Release, Disk: record.DiskUUID, SPIFFEID: record.SPIFFEID.String()}
	if _, err := r.log.Append(append(entries, uncounted)...); err != nil {
		t.Fatal(err)
	}
	if err := r.reopen(t); err != nil {
		t.Fatal(err)
	}
	all, err := r.Records.Releases(record.DiskUUID)
	if err != nil || len(all) != 2 || all[0].AuditSequence != 3 || all[1].AuditSequence != 4 {
		t.Errorf("got releases %v, %v, want lines 3 and 4", all, err)
	}
	other := claimOf(record, 1)
	other.RequestSHA256 = pins.Digest{9}
	if err := r.Release(other); !errors.Is(err, ErrReleased) {
		t.Errorf("another request of the launch: got error %v, want ErrReleased", err)
	}
	// The guest whose request this was never had a reply.
	same := claimOf(record, 1)
	same.Fresh = false
	if err := r.Release(same); err != nil {
		t.Errorf("the very same request: %v", err)
	}
}

// TestFailedWrites has the store fail again and again: the log is never more than one
// commit ahead of it, and the server starts afterwards.
func TestFailedWrites(t *testing.T) {
	r := newRig(t)
	record := r.put(t, false)
	for range 3 {
		if _, err := r.Put("test", record, nil, key[:keyapi.KeySize-1], true); err == nil {
			t.Fatal("put a key that is too short")
		}
	}
	head, err := r.store.Head()
	if err != nil || head.Sequence != 4 || r.Head().Sequence != 5 {
		t.Errorf("store is at line %d, log at %d, %v, want 4 and 5", head.Sequence, r.Head().Sequence, err)
	}
	if err := r.Release(claimOf(record, 1)); err != nil {
		t.Errorf("release after a put that failed: %v", err)
	}
	if err := r.reopen(t); err != nil {
		t.Error(err)
	}

	r.behind = true
	r.store.Close()
	before := r.Head()
	if _, err := r.append(change(audit.Disable, "test", record)); err == nil || r.Head() != before {
		t.Errorf("log went from %s to %s, %v, with a store that is behind", before, r.Head(), err)
	}
}
