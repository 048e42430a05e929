package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/kv/kvtest"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	key  = bytes.Repeat([]byte{7}, keyapi.KeySize)
	vmID = spiffeid.RequireFromString("spiffe://example.org/vm")
)

func newBook(t *testing.T) *kmstest.Book {
	return kmstest.New(t, t.TempDir(), func() time.Time { return noon })
}

// put registers a record without evidence, which needs no reference values.
func put(t *testing.T, l *ledger.Ledger, disk byte, replace bool) store.Record {
	t.Helper()
	record, err := l.Put(t.Context(), audit.Actor{Name: "test"}, store.Record{
		Header:   pins.Header{DiskUUID: pins.UUID{disk}, HeaderSHA256: pins.Digest{2}},
		SPIFFEID: spiffeid.RequireFromPathf(vmID.TrustDomain(), "/vm/%d", disk),
		Evidence: store.EvidenceNotRequired,
	}, nil, key, ledger.Replace{Record: replace})
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func claim(record store.Record, launch, request byte, fresh bool) ledger.Claim {
	return ledger.Claim{Record: record, Launch: store.Launch{Nonce: evidence.Nonce{launch}}, Fresh: fresh, About: audit.AboutRelease{
		Request:    audit.Request{SPIFFEID: record.SPIFFEID.String(), Disk: record.DiskUUID, SHA256: pins.Digest{request}},
		Generation: record.Generation}}
}

func events(leaves []audit.Leaf, event audit.Event) (n int) {
	for _, l := range leaves {
		if l.Event == event {
			n++
		}
	}
	return n
}

func TestReleaseOfAChangedRecord(t *testing.T) {
	b := newBook(t)
	old := put(t, b.Ledger, 1, false)
	put(t, b.Ledger, 1, true)
	if err := b.Ledger.Release(t.Context(), claim(old, 1, 1, true)); !errors.Is(err, ledger.ErrChanged) {
		t.Errorf("replaced: got error %v, want ErrChanged", err)
	}
	current := put(t, b.Ledger, 1, true)
	if err := b.Ledger.SetState(t.Context(), audit.Actor{Name: "test"}, current.DiskUUID, store.Disabled); err != nil {
		t.Fatal(err)
	}
	if err := b.Ledger.Release(t.Context(), claim(current, 1, 1, true)); !errors.Is(err, ledger.ErrChanged) {
		t.Errorf("disabled: got error %v, want ErrChanged", err)
	}
	if n := events(b.Leaves(t), audit.Release); n != 0 {
		t.Errorf("log has %d releases, want none", n)
	}
}

// TestOneLaunch has claims that depend on each other.
func TestOneLaunch(t *testing.T) {
	b := newBook(t)
	record := put(t, b.Ledger, 1, false)
	for i, c := range []struct {
		launch, request byte
		fresh           bool
		want            error
	}{
		{1, 1, true, nil}, {2, 2, true, nil}, {1, 1, false, nil}, {1, 1, true, nil}, {1, 3, true, ledger.ErrReleased}, {3, 4, false, ledger.ErrStale},
	} {
		if err := b.Ledger.Release(t.Context(), claim(record, c.launch, c.request, c.fresh)); !errors.Is(err, c.want) {
			t.Errorf("claim %d: got error %v, want %v", i, err, c.want)
		}
	}
	leaves := b.Leaves(t)
	if n, again := events(leaves, audit.Release), events(leaves, audit.ReleaseAgain); n != 2 || again != 2 {
		t.Errorf("log has %d releases and %d again, want 2 and 2", n, again)
	}
	all, err := b.Store.Leases(t.Context(), record.DiskUUID)
	if err != nil || len(all) != 2 || all[0].Leaf != leaves[2].Place || all[1].Leaf != leaves[3].Place {
		t.Errorf("store has %+v, %v", all, err)
	}
}

// TestManyAtOnce share transactions, more than one of them can hold.
func TestManyAtOnce(t *testing.T) {
	b := newBook(t)
	record := put(t, b.Ledger, 1, false)
	var wg sync.WaitGroup
	const launches = 250
	for i := range launches {
		c := claim(record, 0, 1, true)
		c.Launch.Nonce = evidence.Nonce{byte(i), byte(i >> 8), 1}
		for range 2 { // the same claim twice: once, and again
			wg.Go(func() {
				if err := b.Ledger.Release(t.Context(), c); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	leaves := b.Leaves(t)
	if n, again := events(leaves, audit.Release), events(leaves, audit.ReleaseAgain); n != launches || again != launches {
		t.Errorf("log has %d releases and %d again, want %d of each", n, again, launches)
	}
}

// TestReplicas race for launches, over engines that do not always tell what they did: of
// each launch one replica gets the key, the log has one release, and what a replica
// was told is what happened.
func TestReplicas(t *testing.T) {
	b := newBook(t)
	const disks, launches = 3, 40
	var records []store.Record
	for disk := range disks {
		records = append(records, put(t, b.Ledger, byte(disk+1), false))
	}
	random := rand.New(rand.NewPCG(3, 4))
	var randomMu sync.Mutex
	fate := func() kvtest.Fate {
		randomMu.Lock()
		defer randomMu.Unlock()
		return kvtest.Fate(max(0, random.IntN(9)-4))
	}
	var mu sync.Mutex
	won := map[string][]string{} // :: launch -> who was told that it may have the key
	var flaky []*kvtest.Flaky
	var wg sync.WaitGroup
	for _, lane := range []string{"a", "b", "c"} {
		f := &kvtest.Flaky{Engine: b.Engine, Fate: fate}
		flaky = append(flaky, f)
		l := b.Replica(lane, f)
		for disk, record := range records {
			wg.Go(func() {
				for i := range launches {
					c := claim(record, byte(i), lane[0], true) // each with a request of its own
					switch err := l.Release(t.Context(), c); {
					case err == nil:
						mu.Lock()
						launch := fmt.Sprint(disk, "/", i)
						won[launch] = append(won[launch], lane)
						mu.Unlock()
					case !errors.Is(err, ledger.ErrReleased):
						t.Errorf("lane %s: %v", lane, err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, f := range flaky {
		f.Settle()
	}
	if len(won) != disks*launches {
		t.Errorf("%d launches have their key, want %d", len(won), disks*launches)
	}
	for launch, lanes := range won {
		if len(lanes) != 1 {
			t.Errorf("launch %s was released by %v, want one", launch, lanes)
		}
	}
	leaves := b.Leaves(t)
	if n := events(leaves, audit.Release); n != disks*launches {
		t.Errorf("log has %d releases, want %d", n, disks*launches)
	}
	for _, leaf := range leaves {
		if a, ok := leaf.About.(audit.AboutRelease); ok && leaf.Lane[0] != a.SHA256[0] {
			t.Errorf("leaf %s is of another replica's request", leaf.Place)
		}
	}
}

// TestUnknownOutcome goes through what can become of a proposal whose outcome is not told,
// for a release and for a change.
func TestUnknownOutcome(t *testing.T) {
	for _, fate := range []kvtest.Fate{kvtest.Never, kvtest.Now, kvtest.Later, kvtest.Twice} {
		for _, times := range []int{1, 2, 5} {
			t.Run(fmt.Sprintf("fate %d, %d times", fate, times), func(t *testing.T) {
				b := newBook(t)
				record := put(t, b.Ledger, 1, false)
				left := times
				f := &kvtest.Flaky{Engine: b.Engine, Fate: func() kvtest.Fate {
					if left--; left >= 0 {
						return fate
					}
					return kvtest.Known
				}}
				l := b.Replica("other", f)
				if err := l.Release(t.Context(), claim(record, 1, 1, true)); err != nil {
					t.Error(err)
				}
				left = times
				if err := l.SetState(t.Context(), audit.Actor{Name: "test"}, record.DiskUUID, store.Disabled); err != nil {
					t.Error(err)
				}
				f.Settle()
				leaves := b.Leaves(t)
				if n, d := events(leaves, audit.Release), events(leaves, audit.Disable); n != 1 || d != 1 {
					t.Errorf("log has %d releases and %d disables, want 1 and 1", n, d)
				}
			})
		}
	}
}

// TestPutUnknown: a put that happened late, after its caller looked at the end of the lane,
// is no record that was there before.
func TestPutUnknown(t *testing.T) {
	for _, fate := range []kvtest.Fate{kvtest.Never, kvtest.Now, kvtest.Later} {
		b := newBook(t)
		left := 1
		f := &kvtest.Flaky{Engine: b.Engine, Fate: func() kvtest.Fate {
			if left--; left >= 0 {
				return fate
			}
			return kvtest.Known
		}}
		late := &lateReads{Engine: f, reads: 1, then: f.Settle}
		put(t, b.Replica("other", late), 1, false)
		if n := events(b.Leaves(t), audit.Put); n != 1 {
			t.Errorf("fate %d: log has %d puts, want 1", fate, n)
		}
	}
}

// lateReads does something after the second time that a lane's end was read.
type lateReads struct {
	kv.Engine
	reads int
	then  func()
}

func (l *lateReads) Get(ctx context.Context, keys ...string) ([]kv.Item, error) {
	items, err := l.Engine.Get(ctx, keys...)
	if keys[0] == store.KeyLane("other") {
		if l.reads--; l.reads < 0 {
			l.then()
		}
	}
	return items, err
}

// TestFull: who has no room says so at once, and says that it happened where it did.
func TestFull(t *testing.T) {
	for _, c := range []struct {
		fate     kvtest.Fate
		want     error
		releases int
	}{{kvtest.Full, kv.ErrFull, 0}, {kvtest.FullNow, nil, 1}} {
		b := newBook(t)
		record := put(t, b.Ledger, 1, false)
		l := b.Replica("other", &kvtest.Flaky{Engine: b.Engine, Fate: func() kvtest.Fate { return c.fate }})
		if err := l.Release(t.Context(), claim(record, 1, 1, true)); !errors.Is(err, c.want) {
			t.Errorf("fate %d: got error %v, want %v", c.fate, err, c.want)
		}
		if n := events(b.Leaves(t), audit.Release); n != c.releases {
			t.Errorf("fate %d: log has %d releases, want %d", c.fate, n, c.releases)
		}
	}
}

// TestUnknownForEver: the caller learns no success, and the work ends.
func TestUnknownForEver(t *testing.T) {
	b := newBook(t)
	put(t, b.Ledger, 1, false)
	l := b.Replica("other", &kvtest.Flaky{Engine: b.Engine, Fate: func() kvtest.Fate { return kvtest.Never }})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.SetState(ctx, audit.Actor{Name: "test"}, pins.UUID{1}, store.Disabled); err == nil {
		t.Error("got no error")
	}
}

// TestPutsSideBySide: two replicas register two disks whose keys one VM could both get.
// Exactly one of them is refused.
func TestPutsSideBySide(t *testing.T) {
	for round := range 10 {
		b := newBook(t)
		var errs [2]error
		var wg sync.WaitGroup
		for i, lane := range []string{"a", "b"} {
			l := b.Replica(lane, b.Engine)
			wg.Go(func() {
				_, errs[i] = l.Put(t.Context(), audit.Actor{Name: "test"}, store.Record{Header: pins.Header{DiskUUID: pins.UUID{byte(i + 1)}, HeaderSHA256: pins.Digest{2}},
					SPIFFEID: vmID, Evidence: store.EvidenceNotRequired}, nil, key, ledger.Replace{})
			})
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[0], errs[1]), ledger.ErrOverlap) {
			t.Errorf("round %d: got %v, want ErrOverlap for one", round, errs)
		}
	}
}

// TestDisableInAStorm: no release of a record is on the log after it was disabled.
func TestDisableInAStorm(t *testing.T) {
	b := newBook(t)
	record := put(t, b.Ledger, 1, false)
	other := b.Replica("other", b.Engine)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			if err := other.Release(t.Context(), claim(record, byte(i), byte(i), true)); err != nil && !errors.Is(err, ledger.ErrChanged) {
				t.Error(err)
			}
		})
	}
	if err := b.Ledger.SetState(t.Context(), audit.Actor{Name: "test"}, record.DiskUUID, store.Disabled); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	disabled := false
	for _, leaf := range b.Leaves(t) {
		disabled = disabled || leaf.Event == audit.Disable
		if disabled && leaf.Event == audit.Release {
			t.Errorf("leaf %s is a release after the record was disabled", leaf.Place)
		}
	}
}

// TestGenerations go on after a record was deleted, and what a change leaves is whole.
func TestGenerations(t *testing.T) {
	b := newBook(t)
	r := put(t, b.Ledger, 1, false)
	if err := b.Ledger.Delete(t.Context(), audit.Actor{Name: "test"}, r.DiskUUID); err != nil {
		t.Fatal(err)
	}
	if err := b.Ledger.Delete(t.Context(), audit.Actor{Name: "test"}, r.DiskUUID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("second Delete: got error %v, want ErrNotFound", err)
	}
	if known, err := b.Store.KnowsCaller(t.Context(), r.SPIFFEID); err != nil || known {
		t.Errorf("after Delete the caller is known: %t, %v", known, err)
	}
	if again := put(t, b.Ledger, 1, false); again.Generation != 2 {
		t.Errorf("generation after Delete is %d, want 2", again.Generation)
	}
	moved, err := b.Ledger.Put(t.Context(), audit.Actor{Name: "test"}, store.Record{Header: r.Header, SPIFFEID: vmID, Evidence: store.EvidenceNotRequired}, nil, key, ledger.Replace{Record: true})
	if err != nil || moved.Generation != 3 {
		t.Fatalf("got %+v, %v", moved, err)
	}
	if known, err := b.Store.KnowsCaller(t.Context(), r.SPIFFEID); err != nil || known {
		t.Errorf("the caller of a replaced record is known: %t, %v", known, err)
	}
	if got, err := b.Store.Key(moved); err != nil || !bytes.Equal(got, key) {
		t.Errorf("got key %x, %v", got, err)
	}
}

// TestClaimPanics: a claim for another kind of record is our bug, and no key leaves.
func TestClaimPanics(t *testing.T) {
	b := newBook(t)
	record := put(t, b.Ledger, 1, false)
	record.Evidence = store.EvidenceRequired
	defer func() {
		if recover() == nil {
			t.Error("a claim without REPORT_ID passes for a record that requires evidence")
		}
	}()
	b.Ledger.Release(t.Context(), claim(record, 1, 1, true))
}

// TestTooLate: a release whose nonce ends before its transaction does not happen.
func TestTooLate(t *testing.T) {
	b := newBook(t)
	put(t, b.Ledger, 1, false)
	record, err := b.Ledger.Records.Get(t.Context(), pins.UUID{1})
	must(t, err)
	for i, want := range []error{ledger.ErrStale, nil} {
		until := b.Clock().Add(time.Duration(i))
		claim := ledger.Claim{Record: record, Fresh: true, FreshUntil: until, About: audit.AboutRelease{Request: audit.Request{Disk: record.DiskUUID}, Generation: record.Generation}}
		if record.Evidence == store.EvidenceRequired {
			claim.Launch.ReportID = snp.ReportID{byte(7 + i)}
		} else {
			claim.Launch.Nonce = evidence.Nonce{byte(7 + i)}
		}
		if err := b.Ledger.Release(t.Context(), claim); !errors.Is(err, want) {
			t.Errorf("fresh until %s at %s: got error %v, want %v", until, b.Clock(), err, want)
		}
	}
}
