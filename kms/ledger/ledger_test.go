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

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	key  = bytes.Repeat([]byte{7}, keyapi.KeySize)
)

type rig struct {
	*Ledger
	path string // of the audit log
}

func newRig(t *testing.T) rig {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	k, err := kek.New(bytes.Repeat([]byte{1}, kek.Size))
	must(err)
	clock := func() time.Time { return noon }
	r := rig{path: filepath.Join(dir, "audit.jsonl")}
	must(store.Create(filepath.Join(dir, "kms.db"), k, rand.Reader))
	must(audit.Create(r.path, noon))
	s, err := store.Open(filepath.Join(dir, "kms.db"), k, rand.Reader)
	must(err)
	log, err := audit.Open(r.path, audit.Head{}, clock)
	must(err)
	t.Cleanup(func() { s.Close(); log.Close() })
	r.Ledger = New(s, log, clock, time.Minute)
	return r
}

// put registers a record without evidence, which needs no reference values.
func (r rig) put(t *testing.T, replace bool) store.Record {
	t.Helper()
	record, err := r.Put("test", store.Record{
		Header:   pins.Header{DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{2}},
		SPIFFEID: spiffeid.RequireFromString("spiffe://example.org/vm"),
		Evidence: store.EvidenceNotRequired,
	}, nil, key, replace)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func (r rig) audited(t *testing.T, what string) int {
	t.Helper()
	data, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), what)
}

func TestReleaseOfAChangedRecord(t *testing.T) {
	r := newRig(t)
	old := r.put(t, false)
	r.put(t, true)
	if err := r.Release(Claim{Record: old, ReportID: snp.ReportID{1}, Fresh: true}); !errors.Is(err, ErrChanged) {
		t.Errorf("replaced: got error %v, want ErrChanged", err)
	}
	current := r.put(t, true)
	if err := r.SetState("test", current.DiskUUID, store.Disabled); err != nil {
		t.Fatal(err)
	}
	if err := r.Release(Claim{Record: current, ReportID: snp.ReportID{1}, Fresh: true}); !errors.Is(err, ErrChanged) {
		t.Errorf("disabled: got error %v, want ErrChanged", err)
	}
	if n := r.audited(t, `"event":"release"`); n != 0 {
		t.Errorf("audit log has %d releases, want none", n)
	}
}

// TestBatch commits claims together that depend on each other.
func TestBatch(t *testing.T) {
	r := newRig(t)
	record := r.put(t, false)
	of := func(launch, request byte, fresh bool) *claim {
		return &claim{Claim: Claim{Record: record, ReportID: snp.ReportID{launch}, RequestSHA256: pins.Digest{request}, Fresh: fresh}}
	}
	claims := []*claim{
		of(1, 1, true), of(2, 2, true), of(1, 1, false), of(1, 3, true), of(3, 4, false),
	}
	r.pending = append(r.pending, claims...)
	for len(r.pending) > 0 {
		r.commit(r.take())
	}
	for i, want := range []error{nil, nil, nil, ErrReleased, ErrStale} {
		if got := claims[i]; !got.done || !errors.Is(got.err, want) {
			t.Errorf("claim %d: done is %t, error %v, want %v", i, got.done, got.err, want)
		}
	}
	if n := r.audited(t, `"event":"release"`); n != 2 {
		t.Errorf("audit log has %d releases, want 2", n)
	}
	if n := r.audited(t, `"event":"release again"`); n != 1 {
		t.Errorf("audit log has %d releases again, want 1", n)
	}
	all, err := r.store.Releases(record.DiskUUID)
	if err != nil || len(all) != 2 || all[0].AuditSequence != 3 || all[1].AuditSequence != 4 {
		t.Errorf("store has %+v, %v, want lines 3 and 4", all, err)
	}
}

// TestStoreFails loses the store after the audit record: no release.
func TestStoreFails(t *testing.T) {
	r := newRig(t)
	record := r.put(t, false)
	c := &claim{Claim: Claim{Record: record, ReportID: snp.ReportID{1}, Fresh: true}}
	r.store.Close()
	r.commit([]*claim{c})
	if c.err == nil {
		t.Error("released without a store")
	}
	if err := r.Release(Claim{Record: record, ReportID: snp.ReportID{1}, Fresh: true}); err == nil {
		t.Error("released without a store")
	}
}

// TestCommitPanics has a commit end early: whoever waits for it gets an error.
func TestCommitPanics(t *testing.T) {
	r := newRig(t)
	record := r.put(t, false)
	next := record
	next.Evidence, next.Generation = store.EvidenceRequired, 2
	if err := r.store.Put(next, []byte("{}"), key, r.Head()); err != nil {
		t.Fatal(err)
	}
	next, err := r.store.Get(record.DiskUUID)
	if err != nil {
		t.Fatal(err)
	}
	broken := &claim{Claim: Claim{Record: next, Fresh: true}} // without REPORT_ID
	waiting := &claim{Claim: Claim{Record: next, ReportID: snp.ReportID{1}, Fresh: true}}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a claim without REPORT_ID passes for a record that requires evidence")
			}
		}()
		r.commit([]*claim{broken, waiting})
	}()
	if !waiting.done || !errors.Is(waiting.err, errUnfinished) {
		t.Errorf("done is %t, error %v, want errUnfinished", waiting.done, waiting.err)
	}
}
