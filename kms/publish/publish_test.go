package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/kv/kvtest"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/publish"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	key  = bytes.Repeat([]byte{7}, keyapi.KeySize)
	disk = pins.Header{DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{2}}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newBook(t *testing.T) (*kmstest.Book, store.Record) {
	t.Helper()
	b := kmstest.New(t, t.TempDir(), func() time.Time { return noon })
	record, err := b.Ledger.Put(t.Context(), audit.Actor{Name: "test"}, store.Record{Header: disk, SPIFFEID: spiffeid.RequireFromString("spiffe://example.org/vm"),
		Evidence: store.EvidenceNotRequired}, nil, key, ledger.Replace{})
	must(t, err)
	return b, record
}

func release(t *testing.T, l *ledger.Ledger, record store.Record, launch byte) {
	t.Helper()
	must(t, l.Release(t.Context(), ledger.Claim{Record: record, Launch: store.Launch{Nonce: evidence.Nonce{launch}}, Fresh: true,
		About: audit.AboutRelease{Request: audit.Request{SPIFFEID: record.SPIFFEID.String(), Disk: record.DiskUUID}, Generation: record.Generation}}))
}

func open(t *testing.T, b *kmstest.Book, e kv.Engine) (*publish.Publisher, error) {
	t.Helper()
	return publish.Open(t.Context(), b.Store.On(e), "main", filepath.Join(b.Dir, "log"), slog.New(slog.DiscardHandler))
}

// TestOrder has several lanes: their leaves come in the order of their transactions.
func TestOrder(t *testing.T) {
	b, record := newBook(t)
	lanes := map[string]*ledger.Ledger{}
	for _, lane := range []string{"c", "a", "b"} {
		lanes[lane] = b.Replica(lane, b.Engine)
	}
	var want []string
	n := map[string]int{}
	for i := range 250 {
		lane := []string{"c", "a", "b", "a"}[i%4]
		release(t, lanes[lane], record, byte(i))
		n[lane]++
		want = append(want, fmt.Sprintf("%s/%d", lane, n[lane]))
		if i == 100 {
			b.Publish(t)
		}
	}
	var got []string
	for _, leaf := range b.Leaves(t)[2:] {
		got = append(got, leaf.Place.String())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	segments := 0
	must(t, kv.Each(t.Context(), b.Engine, "seg/", func(kv.Item) error { segments++; return nil }))
	if segments != 0 {
		t.Errorf("%d segments are left", segments)
	}
}

// TestTwoPublishers publish side by side, over an engine that does not always tell: the log
// has each leaf once.
func TestTwoPublishers(t *testing.T) {
	b, record := newBook(t)
	count := 0
	flaky := &kvtest.Flaky{Engine: b.Engine, Fate: func() kvtest.Fate {
		count++
		return []kvtest.Fate{kvtest.Known, kvtest.Now, kvtest.Never, kvtest.Later}[count%4]
	}}
	one, err := open(t, b, b.Engine)
	must(t, err)
	two, err := open(t, b, flaky)
	must(t, err)
	for i := range 30 {
		release(t, b.Ledger, record, byte(i))
		if err := two.Publish(t.Context()); err != nil && !errors.Is(err, kv.ErrUnknown) {
			t.Fatal(err)
		}
		if i%3 == 0 {
			must(t, one.Publish(t.Context()))
		}
	}
	flaky.Settle()
	if n := len(b.Leaves(t)); n != 32 {
		t.Errorf("log has %d leaves, want 32", n)
	}
}

// TestCrash ends the publisher at each of its steps: the next one goes on.
func TestCrash(t *testing.T) {
	b, record := newBook(t)
	for i, fate := range []kvtest.Fate{kvtest.Never, kvtest.Now, kvtest.Later} {
		release(t, b.Ledger, record, byte(i))
		flaky := &kvtest.Flaky{Engine: b.Engine, Fate: func() kvtest.Fate { return fate }}
		p, err := open(t, b, flaky)
		must(t, err)
		if err := p.Publish(t.Context()); !errors.Is(err, kv.ErrUnknown) {
			t.Fatalf("got error %v, want ErrUnknown", err)
		}
		flaky.Settle()
		b.Close()
		must(t, b.Open())
		if n := len(b.Leaves(t)); n != 3+i {
			t.Errorf("log has %d leaves, want %d", n, 3+i)
		}
	}
}

// TestOldStore puts an older store back, with the newest log.
func TestOldStore(t *testing.T) {
	b, record := newBook(t)
	db := filepath.Join(b.Dir, "kms.db")
	b.Publish(t)
	b.Close()
	old, err := os.ReadFile(db)
	must(t, err)
	must(t, b.Open())
	release(t, b.Ledger, record, 1)
	b.Publish(t)
	b.Close()
	must(t, os.WriteFile(db, old, 0o600))
	if err := b.Open(); !errors.Is(err, publish.ErrOldStore) {
		t.Errorf("got error %v, want ErrOldStore", err)
	}
}

// TestOldLog puts an older log back, or one that was changed at its end.
func TestOldLog(t *testing.T) {
	for _, c := range []struct {
		name string
		take func(t *testing.T, dir string)
	}{
		{"tiles and checkpoint gone", func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, "tile"))) }},
		{"the newest tile changed", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "tile/0/000.p/3"), bytes.Repeat([]byte{1}, 96), 0o600))
		}},
		{"checkpoint of another log", func(t *testing.T, dir string) {
			other, _ := newBook(t)
			data, err := os.ReadFile(filepath.Join(other.Dir, "log", "checkpoint"))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, "checkpoint"), data, 0o600))
		}},
		{"no checkpoint", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "checkpoint"))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, record := newBook(t)
			release(t, b.Ledger, record, 1)
			b.Publish(t)
			b.Close()
			c.take(t, filepath.Join(b.Dir, "log"))
			if err := b.Open(); err == nil {
				t.Error("it opens")
			}
		})
	}
}

// TestDroppedSegment: a publisher does not go on where leaves are missing in the book.
func TestDroppedSegment(t *testing.T) {
	b, record := newBook(t)
	b.Publish(t)
	release(t, b.Ledger, record, 1)
	release(t, b.Ledger, record, 2)
	items, err := b.Engine.List(t.Context(), "seg/", "", 1)
	must(t, err)
	_, err = b.Engine.Commit(t.Context(), nil, []kv.Write{{Key: items[0].Key, Delete: true}})
	must(t, err)
	p, err := open(t, b, b.Engine)
	must(t, err)
	if err := p.Publish(t.Context()); !errors.Is(err, publish.ErrLog) {
		t.Errorf("got error %v, want ErrLog", err)
	}
}

// TestRun publishes what is written while it runs, and the last of it when it ends.
func TestRun(t *testing.T) {
	b, record := newBook(t)
	p, err := open(t, b, b.Engine)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, b.Ledger.Written()) }()
	release(t, b.Ledger, record, 1)
	stop()
	must(t, <-done)
	if got := p.State(); got.Tree.Size != 3 || got.At.IsZero() {
		t.Errorf("got %+v, want 3 leaves", got)
	}
}
