package ledger_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/kv/boltkv"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

// open opens a book's store with a ring of key-encryption keys.
func open(t testing.TB, b *kmstest.Book, ring *kek.Ring) (*ledger.Ledger, func(), error) {
	t.Helper()
	engine, err := boltkv.Open(filepath.Join(b.Dir, "kms.db"))
	must(t, err)
	s, err := store.Open(context.Background(), engine, ring, rand.Reader)
	if err != nil {
		engine.Close()
		return nil, nil, err
	}
	return ledger.New(s, "main", b.Clock, rand.Reader, kmstest.RetryWindow), func() { engine.Close() }, nil
}

// newKEK makes a key-encryption key; with 1 it is kmstest's.
func newKEK(t testing.TB, fill byte) *kek.KEK {
	t.Helper()
	k, err := kek.New(bytes.Repeat([]byte{fill}, kek.Size))
	must(t, err)
	return k
}

// TestRewrap changes the key-encryption key of a book in use: in steps, broken off and begun
// again, while records change. At its end the old one is needed for nothing.
func TestRewrap(t *testing.T) {
	b := newBook(t)
	const disks = 130
	for i := range disks {
		put(t, b.Ledger, byte(i+1), false)
	}
	put(t, b.Ledger, 1, true) // a record that is kept
	must(t, b.Ledger.Delete(t.Context(), owner, pins.UUID{2}))
	must(t, second1(b.Ledger.Put(t.Context(), owner, measured(201), values(t, 1), key, ledger.Replace{})))
	must(t, second1(b.Ledger.Put(t.Context(), owner, measured(201), values(t, 2), key, ledger.Replace{Beside: true})))
	made, madeKey, err := b.Ledger.MakeKey(t.Context(), owner)
	must(t, err)
	b.Close()

	fresh := kek.NewRing("2027", newKEK(t, 9))
	if _, _, err := open(t, b, fresh); !errors.Is(err, store.ErrWrongKEK) {
		t.Fatalf("without the old key: got error %v, want ErrWrongKEK", err)
	}
	both := kek.NewRing("2027", newKEK(t, 9))
	must(t, both.Add(kek.DefaultName, newKEK(t, 1)))
	l, done, err := open(t, b, both)
	must(t, err)
	must(t, l.Records.Admit(t.Context()))
	total := 0
	n, next, err := l.Rewrap(t.Context(), owner, "")
	must(t, err)
	total += n
	if n == 0 || next == "" {
		t.Fatalf("the first step sealed %d, and ends at %q", n, next)
	}
	if inUse, err := l.Forget(t.Context(), owner); err != nil || !slices.Contains(inUse, kek.DefaultName) {
		t.Errorf("half way: in use are %q, %v", inUse, err)
	}
	done() // broken off
	if _, _, err := open(t, b, fresh); !errors.Is(err, store.ErrWrongKEK) {
		t.Fatalf("half way, without the old key: got error %v, want ErrWrongKEK", err)
	}

	l, done, err = open(t, b, both)
	must(t, err)
	for next := ""; ; {
		if n, next, err = l.Rewrap(t.Context(), owner, next); err != nil {
			t.Fatal(err)
		}
		total += n
		put(t, l, byte(100+total%20), true)
		if next == "" {
			break
		}
	}
	inUse, err := l.Forget(t.Context(), owner)
	if err != nil || !slices.Equal(inUse, []string{"2027"}) {
		t.Errorf("in use are %q, %v", inUse, err)
	}
	if want := disks + 5; total < want-20 || total > want+20 {
		t.Errorf("sealed %d secrets anew, want about %d", total, want)
	}
	done()

	l, done, err = open(t, b, fresh)
	must(t, err)
	defer done()
	for after := (pins.UUID{}); ; {
		page, err := l.Records.List(t.Context(), after, 50)
		must(t, err)
		for _, r := range page {
			if k, err := l.Records.Key(r); err != nil || string(k) != string(key) {
				t.Errorf("disk %s: %v", r.DiskUUID, err)
			}
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].DiskUUID
	}
	must(t, l.Restore(t.Context(), owner, pins.UUID{2}, 0))
	r, err := l.Records.Get(t.Context(), pins.UUID{2})
	must(t, err)
	if k, err := l.Records.Key(r); err != nil || string(k) != string(key) {
		t.Errorf("a record that was kept: %v", err)
	}
	bare := store.Record{Header: pins.Header{DiskUUID: pins.UUID{250}, HeaderSHA256: pins.Digest{2}},
		SPIFFEID: spiffeid.RequireFromPath(vmID.TrustDomain(), "/made"), Evidence: store.EvidenceNotRequired}
	r, err = l.PutMade(t.Context(), owner, bare, nil, made, ledger.Replace{})
	must(t, err)
	if k, err := l.Records.Key(r); err != nil || string(k) != string(madeKey) {
		t.Errorf("a key that waited for its disk: %v", err)
	}
	bare.DiskUUID[0]++
	bare.SameVM = true
	want(t, "a second disk", second1(l.PutMade(t.Context(), owner, bare, nil, made, ledger.Replace{})), store.ErrNotMade)
	if n, _, err := l.Rewrap(t.Context(), owner, ""); n != 0 || err != nil {
		t.Errorf("once more: sealed %d, %v", n, err)
	}
}

// TestExport writes down who gets a key, and gives none where that fails.
func TestExport(t *testing.T) {
	b := newBook(t)
	put(t, b.Ledger, 1, false)
	var got []byte
	seal := func(key []byte) error { got = append(got, key...); return nil }
	n, err := b.Ledger.Export(t.Context(), owner, pins.UUID{1}, 0, []string{"age1x"}, seal)
	if n != 1 || err != nil || string(got) != string(key) {
		t.Errorf("got generation %d, %v", n, err)
	}
	must(t, b.Ledger.Delete(t.Context(), owner, pins.UUID{1}))
	if n, err := b.Ledger.Export(t.Context(), owner, pins.UUID{1}, 1, []string{"age1x"}, seal); n != 1 || err != nil {
		t.Errorf("of a record that is kept: got %d, %v", n, err)
	}
	want(t, "no such generation", second1(b.Ledger.Export(t.Context(), owner, pins.UUID{1}, 7, nil, seal)), store.ErrNotFound)
	last := b.Leaves(t)
	if about, ok := last[len(last)-1].About.(audit.AboutExport); !ok || about.Actor != owner.Name || about.Ticket != owner.Ticket || about.Generation != 1 {
		t.Errorf("log ends with %+v", last[len(last)-1])
	}
	b.Close()
	if _, err := b.Ledger.Export(t.Context(), owner, pins.UUID{1}, 1, nil, seal); err == nil {
		t.Error("exported what could not be written down")
	}
}

// TestForgetBesideAnother: one of two servers takes a key-encryption key off the list that the
// other one seals with. What that one seals is on the list again.
func TestForgetBesideAnother(t *testing.T) {
	b := newBook(t)
	put(t, b.Ledger, 1, false)
	engine := b.Ledger.Records.Engine
	ledgerWith := func(lane, current string, others ...string) *ledger.Ledger {
		keys := map[string]byte{kek.DefaultName: 1, "2027": 9}
		ring := kek.NewRing(current, newKEK(t, keys[current]))
		for _, other := range others {
			must(t, ring.Add(other, newKEK(t, keys[other])))
		}
		s, err := store.Open(t.Context(), engine, ring, rand.Reader)
		must(t, err)
		must(t, s.Admit(t.Context()))
		return ledger.New(s, lane, b.Clock, rand.Reader, kmstest.RetryWindow)
	}
	one, two := ledgerWith("one", "2027", kek.DefaultName), ledgerWith("two", kek.DefaultName, "2027")
	rewrapped := func() []string {
		for next := ""; ; {
			var err error
			if _, next, err = one.Rewrap(t.Context(), owner, next); err != nil {
				t.Fatal(err)
			}
			if next == "" {
				inUse, err := one.Forget(t.Context(), owner)
				must(t, err)
				return inUse
			}
		}
	}
	for name, seal := range map[string]func() error{
		"put":  func() error { put(t, two, 7, false); return nil },
		"make": func() error { _, _, err := two.MakeKey(t.Context(), owner); return err },
	} {
		if inUse := rewrapped(); !slices.Equal(inUse, []string{"2027"}) {
			t.Fatalf("%s: in use are %q before", name, inUse)
		}
		must(t, seal())
		if _, err := store.Open(t.Context(), engine, kek.NewRing("2027", newKEK(t, 9)), rand.Reader); !errors.Is(err, store.ErrWrongKEK) {
			t.Errorf("%s: a server without the key that seals: got error %v, want ErrWrongKEK", name, err)
		}
	}
	rewrapped()
	if _, _, err := two.Rewrap(t.Context(), owner, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), engine, kek.NewRing("2027", newKEK(t, 9)), rand.Reader); !errors.Is(err, store.ErrWrongKEK) {
		t.Errorf("rewrap: a server without the key that seals: got error %v, want ErrWrongKEK", err)
	}
}
