package ledger_test

import (
	"context"
	"errors"
	"testing"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
)

// trips counts the round trips to an engine.
type trips struct {
	kv.Engine
	reads, proposals int
}

func (c *trips) Get(ctx context.Context, keys ...string) ([]kv.Item, error) {
	c.reads++
	return c.Engine.Get(ctx, keys...)
}

func (c *trips) Commit(ctx context.Context, conditions []kv.Cond, writes []kv.Write) (int64, error) {
	c.proposals++
	return c.Engine.Commit(ctx, conditions, writes)
}

// TestOneTrip: after the first release, a release is one proposal and no read.
func TestOneTrip(t *testing.T) {
	b := newBook(t)
	record := put(t, b.Ledger, 1, false)
	engine := &trips{Engine: b.Engine}
	l := b.Replica("other", engine)
	for i := range byte(5) {
		*engine = trips{Engine: b.Engine}
		if err := l.Release(t.Context(), claim(record, i, i, true)); err != nil {
			t.Fatal(err)
		}
		reads := 0
		if i == 0 {
			reads = 1 // nothing is known yet
		}
		if engine.reads != reads || engine.proposals != 1 {
			t.Errorf("release %d: %d reads and %d proposals, want %d and 1", i, engine.reads, engine.proposals, reads)
		}
	}
	if err := l.Note(t.Context(), audit.Entry{Event: audit.Start, About: audit.AboutStart{}}); err != nil {
		t.Fatal(err)
	}
	*engine = trips{Engine: b.Engine}
	if err := l.Release(t.Context(), claim(record, 9, 9, true)); err != nil || engine.reads != 0 || engine.proposals != 1 {
		t.Errorf("after a note: %v, %d reads and %d proposals, want 0 and 1", err, engine.reads, engine.proposals)
	}
}

// TestWrongExpectation: what another server did meanwhile counts, although nothing was read.
func TestWrongExpectation(t *testing.T) {
	for name, c := range map[string]struct {
		other func(*ledger.Ledger, store.Record) error // what the other server does
		claim func(store.Record) ledger.Claim          // what is asked of ours afterwards
		want  error
	}{
		"the record was replaced": {
			func(l *ledger.Ledger, r store.Record) error {
				put(t, l, 1, true)
				return nil
			}, func(r store.Record) ledger.Claim { return claim(r, 2, 2, true) }, ledger.ErrChanged},
		"the record was disabled": {
			func(l *ledger.Ledger, r store.Record) error {
				return l.SetState(t.Context(), audit.Actor{Name: "test"}, r.DiskUUID, store.Disabled)
			}, func(r store.Record) ledger.Claim { return claim(r, 2, 2, true) }, ledger.ErrChanged},
		"the launch has its key": {
			func(l *ledger.Ledger, r store.Record) error { return l.Release(t.Context(), claim(r, 2, 3, true)) },
			func(r store.Record) ledger.Claim { return claim(r, 2, 2, true) }, ledger.ErrReleased},
		"the reply was lost": {
			func(l *ledger.Ledger, r store.Record) error { return l.Release(t.Context(), claim(r, 2, 2, true)) },
			func(r store.Record) ledger.Claim { return claim(r, 2, 2, false) }, nil},
		"the nonce is stale": {
			func(*ledger.Ledger, store.Record) error { return nil },
			func(r store.Record) ledger.Claim { return claim(r, 2, 2, false) }, ledger.ErrStale},
		"another disk was registered": {
			func(l *ledger.Ledger, r store.Record) error {
				put(t, l, 2, false)
				return nil
			}, func(r store.Record) ledger.Claim { return claim(r, 2, 2, true) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook(t)
			record := put(t, b.Ledger, 1, false)
			ours := b.Replica("other", b.Engine)
			if err := ours.Release(t.Context(), claim(record, 1, 1, true)); err != nil {
				t.Fatal(err)
			}
			if err := c.other(b.Ledger, record); err != nil {
				t.Fatal(err)
			}
			if err := ours.Release(t.Context(), c.claim(record)); !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
		})
	}
}

// TestRecordBeforeTheKnownEpoch: a record that changed before our newest transaction is noticed
// too, although the epoch is the one that we know.
func TestRecordBeforeTheKnownEpoch(t *testing.T) {
	b := newBook(t)
	old := put(t, b.Ledger, 1, false)
	replaced := put(t, b.Ledger, 1, true)
	ours := b.Replica("other", b.Engine)
	if err := ours.Release(t.Context(), claim(replaced, 1, 1, true)); err != nil {
		t.Fatal(err)
	}
	if err := ours.Release(t.Context(), claim(old, 2, 2, true)); !errors.Is(err, ledger.ErrChanged) {
		t.Errorf("got error %v, want ErrChanged", err)
	}
}
