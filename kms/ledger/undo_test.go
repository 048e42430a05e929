package ledger_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

var owner = audit.Actor{Name: "owner", Ticket: "CHG-7"}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// TestUndo loses no key by one word: what was replaced or deleted comes back, until it is
// purged.
func TestUndo(t *testing.T) {
	now := noon
	b := kmstest.New(t, t.TempDir(), func() time.Time { return now })
	l, ctx, disk := b.Ledger, t.Context(), pins.UUID{1}
	first := put(t, l, 1, false)
	other := make([]byte, len(key))
	other[0] = 9
	r := first
	second, err := l.Put(ctx, owner, store.Record{Header: r.Header, SPIFFEID: r.SPIFFEID, Evidence: r.Evidence}, nil, other, ledger.Replace{Record: true})
	must(t, err)
	must(t, l.Restore(ctx, owner, disk, 0))
	got, err := l.Records.Get(ctx, disk)
	must(t, err)
	if k, err := l.Records.Key(got); err != nil || string(k) != string(key) || got.Generation != first.Generation {
		t.Errorf("restored: generation %d, %v, want the first key", got.Generation, err)
	}
	must(t, l.Restore(ctx, owner, disk, second.Generation))
	must(t, l.Delete(ctx, owner, disk))
	if n, err := l.Records.Count(ctx); n != 0 || err != nil {
		t.Errorf("there are %d records, %v, want none", n, err)
	}
	want(t, "purge before its time", second1(l.Purge(ctx, owner, disk, 0, false)), ledger.ErrConflict)
	must(t, l.Restore(ctx, owner, disk, first.Generation))
	if n, err := l.Records.Count(ctx); n != 1 || err != nil {
		t.Errorf("there are %d records, %v, want 1", n, err)
	}
	want(t, "restore of what is not kept", l.Restore(ctx, owner, disk, first.Generation), store.ErrNotFound)
	now = now.Add(ledger.DefaultRetention)
	if n, err := l.Purge(ctx, owner, disk, 0, false); n != 1 || err != nil {
		t.Errorf("purged %d, %v, want 1", n, err)
	}
	want(t, "restore after the purge", l.Restore(ctx, owner, disk, 0), store.ErrNotFound)
	third := put(t, l, 1, true)
	if third.Generation != 3 {
		t.Errorf("got generation %d, want 3", third.Generation)
	}
	if n, err := l.Purge(ctx, owner, disk, 1, true); n != 1 || err != nil {
		t.Errorf("purged %d, %v, want 1 before its time", n, err)
	}
	for _, leaf := range b.Leaves(t) {
		if about, ok := leaf.About.(audit.AboutChange); ok && about.Actor == owner.Name && about.Ticket != owner.Ticket {
			t.Errorf("%s has ticket %q", leaf.Event, about.Ticket)
		}
	}
}

// TestRestoreDeleted: "keys restore" after "keys delete" brings back the record that was
// deleted, also if one of a newer generation was taken back before it or stood beside it.
func TestRestoreDeleted(t *testing.T) {
	now := noon
	b := kmstest.New(t, t.TempDir(), func() time.Time { return now })
	l, ctx, disk := b.Ledger, t.Context(), pins.UUID{1}
	_, err := l.Put(ctx, owner, measured(1), values(t, 1), key, ledger.Replace{})
	must(t, err)
	beside := func(m byte) {
		t.Helper()
		now = now.Add(time.Minute)
		must(t, second1(l.Put(ctx, owner, measured(1), values(t, m), key, ledger.Replace{Beside: true})))
	}
	restored := func(what string) {
		t.Helper()
		now = now.Add(time.Minute)
		must(t, l.Delete(ctx, owner, disk))
		must(t, l.Restore(ctx, owner, disk, 0))
		if got, err := l.Records.Get(ctx, disk); err != nil || got.Generation != 1 {
			t.Errorf("restored after %s: generation %d, %v, want the deleted 1", what, got.Generation, err)
		}
	}
	beside(2)
	restored("a delete with a record beside it")
	beside(3)
	must(t, l.Withdraw(ctx, owner, disk))
	restored("a withdrawal and a delete")
	must(t, second1(l.Put(ctx, owner, measured(1), values(t, 4), key, ledger.Replace{Record: true})))
	must(t, l.Restore(ctx, owner, disk, 1))
	restored("a replacement that was taken back")
}

// TestPurgeMany: more records than fit into one transaction are all destroyed.
func TestPurgeMany(t *testing.T) {
	b := newBook(t)
	l, ctx, disk := b.Ledger, t.Context(), pins.UUID{1}
	const records = 100
	for range records + 1 {
		must(t, second1(l.Put(ctx, owner, measured(1), values(t, 1), key, ledger.Replace{Record: true})))
	}
	if n, err := l.Purge(ctx, owner, disk, 0, true); n != records || err != nil {
		t.Errorf("purged %d, %v, want %d", n, err, records)
	}
	want(t, "purge of nothing", second1(l.Purge(ctx, owner, disk, 0, true)), store.ErrNotFound)
}

func second1[T any](_ T, err error) error { return err }

func values(t testing.TB, m byte) []byte {
	t.Helper()
	v := refval.New(refval.EmulatedARK(pins.Digest{1}), []refval.Measurement{{Digest: snp.Measurement{m}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured,
		Provenance: refval.Provenance{KernelSHA256: pins.Digest{1}}, Gate: refval.GateNone, VCPUs: 1, CPUType: "EPYC-v4"}})
	data, err := v.Encode()
	must(t, err)
	return data
}

func measured(disk byte) store.Record {
	return store.Record{Header: pins.Header{DiskUUID: pins.UUID{disk}, HeaderSHA256: pins.Digest{2}}, SPIFFEID: vmID, Evidence: store.EvidenceRequired}
}

// TestStagedRules: what stands beside a record must be told from it, and takes its place only
// when a launch had its key.
func TestStagedRules(t *testing.T) {
	b := newBook(t)
	l, ctx, disk := b.Ledger, t.Context(), pins.UUID{1}
	beside := ledger.Replace{Beside: true}
	want(t, "beside nothing", second1(l.Put(ctx, owner, measured(1), values(t, 1), key, beside)), ledger.ErrConflict)
	_, err := l.Put(ctx, owner, measured(1), values(t, 1), key, ledger.Replace{})
	must(t, err)
	want(t, "the same measurement", second1(l.Put(ctx, owner, measured(1), values(t, 1), key, beside)), ledger.ErrConflict)
	bare := measured(1)
	bare.Evidence = store.EvidenceNotRequired
	want(t, "no evidence", second1(l.Put(ctx, owner, bare, nil, key, ledger.Replace{Beside: true, RootOfTrust: true})), ledger.ErrConflict)
	want(t, "confirm nothing", l.Confirm(ctx, owner, disk, 0), ledger.ErrConflict)
	staged, err := l.Put(ctx, owner, measured(1), values(t, 2), key, beside)
	must(t, err)
	want(t, "confirm without a launch", l.Confirm(ctx, owner, disk, 0), ledger.ErrConflict)
	want(t, "another disk with the staged measurement", second1(l.Put(ctx, owner, measured(2), values(t, 2), key, ledger.Replace{})), ledger.ErrOverlap)
	want(t, "update to the staged measurement", l.Update(ctx, owner, disk, ledger.Update{Values: values(t, 2)}), ledger.ErrConflict)

	release := func(r store.Record, launch byte) error {
		return l.Release(ctx, ledger.Claim{Record: r, Launch: store.Launch{ReportID: snp.ReportID{launch}}, Fresh: true,
			About: audit.AboutRelease{Request: audit.Request{Disk: disk}, Generation: r.Generation}})
	}
	must(t, l.SetState(ctx, owner, disk, store.Disabled))
	want(t, "staged, when the record was disabled", release(staged, 1), ledger.ErrChanged)
	must(t, l.SetState(ctx, owner, disk, store.Enabled))
	_, now, err := l.Records.Both(ctx, disk)
	must(t, err)
	must(t, release(*now, 1))
	want(t, "confirm another generation", l.Confirm(ctx, owner, disk, 77), ledger.ErrConflict)
	must(t, l.Confirm(ctx, owner, disk, 0))
	want(t, "what took the record's place", release(*now, 2), ledger.ErrChanged)
	got, err := l.Records.Get(ctx, disk)
	must(t, err)
	if got.Generation != staged.Generation {
		t.Errorf("got generation %d, want %d", got.Generation, staged.Generation)
	}
	kept, err := l.Records.KeptOf(ctx, disk)
	if err != nil || len(kept) != 1 || kept[0].Kept().Why != store.Replaced {
		t.Errorf("kept are %+v, %v", kept, err)
	}
}

// TestRetired: a record that is retired stands in no other's way, and comes back only where
// it stands in nobody's.
func TestRetired(t *testing.T) {
	b := newBook(t)
	l, ctx, disk := b.Ledger, t.Context(), pins.UUID{1}
	_, err := l.Put(ctx, owner, measured(1), values(t, 1), key, ledger.Replace{})
	must(t, err)
	want(t, "the same measurement", second1(l.Put(ctx, owner, measured(2), values(t, 1), key, ledger.Replace{})), ledger.ErrOverlap)
	must(t, l.SetState(ctx, owner, disk, store.Retired))
	want(t, "enable", l.SetState(ctx, owner, disk, store.Enabled), ledger.ErrConflict)
	want(t, "disable", l.SetState(ctx, owner, disk, store.Disabled), ledger.ErrConflict)
	_, err = l.Put(ctx, owner, measured(2), values(t, 1), key, ledger.Replace{})
	must(t, err)
	want(t, "revive", l.Revive(ctx, owner, disk), ledger.ErrOverlap)
	must(t, l.SetState(ctx, owner, pins.UUID{2}, store.Retired))
	must(t, l.Revive(ctx, owner, disk))
}

// TestUpdateBounds: earlier reference values are few, and each stands once.
func TestUpdateBounds(t *testing.T) {
	b := newBook(t)
	l, ctx, disk := b.Ledger, t.Context(), pins.UUID{1}
	_, err := l.Put(ctx, owner, measured(1), values(t, 50), key, ledger.Replace{})
	must(t, err)
	for i := range store.MaxBefore {
		must(t, l.Update(ctx, owner, disk, ledger.Update{Values: values(t, byte(i+1)), KeepBefore: time.Hour}))
	}
	want(t, "too many", l.Update(ctx, owner, disk, ledger.Update{Values: values(t, 100), KeepBefore: time.Hour}), ledger.ErrConflict)
	must(t, l.Update(ctx, owner, disk, ledger.Update{Values: values(t, 50), KeepBefore: time.Hour}))
	r, err := l.Records.Get(ctx, disk)
	must(t, err)
	if len(r.Before) != store.MaxBefore || len(r.Accepts(noon)) != store.MaxBefore+1 || len(r.Accepts(noon.Add(time.Hour))) != 1 {
		t.Errorf("there are %d earlier ones, want %d", len(r.Before), store.MaxBefore)
	}
	if k, err := l.Records.Key(r); err != nil || string(k) != string(key) {
		t.Errorf("the key is another one: %v", err)
	}
}

// TestHour: the bound counts what there was within an hour, and over a new start.
func TestHour(t *testing.T) {
	now := noon
	b := kmstest.New(t, t.TempDir(), func() time.Time { return now })
	r := put(t, b.Ledger, 1, false)
	most := uint32(2)
	must(t, b.Ledger.Update(t.Context(), owner, r.DiskUUID, ledger.Update{MaxReleases: &most}))
	launch := byte(0)
	release := func() error {
		t.Helper()
		record, err := b.Ledger.Records.Get(t.Context(), r.DiskUUID)
		must(t, err)
		launch++
		return b.Ledger.Release(t.Context(), claim(record, launch, launch, true))
	}
	must(t, release())
	now = now.Add(30 * time.Minute)
	must(t, release())
	want(t, "a third within the hour", release(), ledger.ErrCapped)
	b.Close()
	must(t, b.Open())
	now = now.Add(29 * time.Minute)
	want(t, "after a new start", release(), ledger.ErrCapped)
	now = now.Add(2 * time.Minute)
	must(t, release())
	want(t, "the one of half an hour ago counts", release(), ledger.ErrCapped)
	b.Judge(t)
}

// TestManyBounded has more disks with a bound at once than a transaction takes.
func TestManyBounded(t *testing.T) {
	b := newBook(t)
	var wg sync.WaitGroup
	const disks = 30
	errs := make(chan error, disks*3)
	for i := range disks {
		r := put(t, b.Ledger, byte(i+1), false)
		most := uint32(2)
		must(t, b.Ledger.Update(t.Context(), owner, r.DiskUUID, ledger.Update{MaxReleases: &most}))
		r, err := b.Ledger.Records.Get(t.Context(), r.DiskUUID)
		must(t, err)
		for launch := range byte(3) {
			c := claim(r, 0, 1, true)
			c.Launch.Nonce = evidence.Nonce{byte(i), launch, 1}
			wg.Go(func() { errs <- b.Ledger.Release(t.Context(), c) })
		}
	}
	wg.Wait()
	close(errs)
	counts := map[string]int{}
	for err := range errs {
		switch {
		case err == nil:
			counts["released"]++
		case errors.Is(err, ledger.ErrCapped):
			counts["capped"]++
		default:
			t.Error(err)
		}
	}
	if got := fmt.Sprint(counts); got != fmt.Sprintf("map[capped:%d released:%d]", disks, 2*disks) {
		t.Errorf("got %s, want %d released", got, 2*disks)
	}
	b.Judge(t)
}
