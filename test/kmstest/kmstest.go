// Package kmstest makes key servers' books in temporary directories.
package kmstest

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/kv/boltkv"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/publish"
	"github.com/rootvouch/rootvouch/kms/replay"
	"github.com/rootvouch/rootvouch/kms/restore"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
)

// RetryWindow is the retry window of a book's ledger.
const RetryWindow = 30 * time.Second

// Book is the store, the ledger and the log of one server.
type Book struct {
	Dir    string // with kms.db and log
	Clock  func() time.Time
	Engine kv.Engine
	Store  *store.Store
	Ledger *ledger.Ledger

	publisher *publish.Publisher
}

// KEK returns the key-encryption key of every book.
func KEK(t testing.TB) *kek.Ring {
	t.Helper()
	k, err := kek.New(bytes.Repeat([]byte{1}, kek.Size))
	must(t, err)
	return kek.NewRing(kek.DefaultName, k)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// New makes a book in dir.
func New(t testing.TB, dir string, clock func() time.Time) *Book {
	t.Helper()
	b := &Book{Dir: dir, Clock: clock}
	must(t, boltkv.Create(b.path("kms.db")))
	engine, err := boltkv.Open(b.path("kms.db"))
	must(t, err)
	must(t, store.Create(context.Background(), engine, KEK(t), rand.Reader, "example.org/kms", "main", clock()))
	s, err := store.Open(context.Background(), engine, KEK(t), rand.Reader)
	must(t, err)
	checkpoint, err := s.Checkpoint(context.Background())
	must(t, err)
	_, err = tlogdir.Create(b.path("log"), s.LogPublic(), []byte(checkpoint.Signed))
	must(t, err)
	must(t, engine.Close())
	must(t, b.Open())
	t.Cleanup(func() { b.Close() })
	return b
}

func (b *Book) path(name string) string { return filepath.Join(b.Dir, name) }

// Open opens the book again, as a server that starts does.
func (b *Book) Open() error {
	engine, err := boltkv.Open(b.path("kms.db"))
	if err != nil {
		return err
	}
	k, err := kek.New(bytes.Repeat([]byte{1}, kek.Size))
	if err != nil {
		return err
	}
	b.Engine = engine
	if b.Store, err = store.Open(context.Background(), engine, kek.NewRing(kek.DefaultName, k), rand.Reader); err != nil {
		engine.Close()
		return err
	}
	if b.publisher, err = publish.Open(context.Background(), b.Store, "main", b.path("log"), slog.New(slog.DiscardHandler)); err != nil {
		engine.Close()
		return err
	}
	b.Ledger = b.Replica("main", engine)
	return nil
}

// Replica returns the ledger of another server with the same book.
func (b *Book) Replica(lane string, engine kv.Engine) *ledger.Ledger {
	return ledger.New(b.Store.On(engine), lane, b.Clock, rand.Reader, RetryWindow)
}

// Backup copies the store to a file, as a server that runs does.
func (b *Book) Backup(t testing.TB, to string) {
	t.Helper()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	must(t, err)
	must(t, b.Engine.(*boltkv.Store).Backup(f))
	must(t, f.Close())
}

// Restore puts a backup in the store's place, brings it up to the log, and opens it.
func (b *Book) Restore(t testing.TB, from string) (restore.Result, error) {
	t.Helper()
	b.Close()
	must(t, os.Rename(from, b.path("kms.db")))
	engine, err := boltkv.Open(b.path("kms.db"))
	must(t, err)
	s, err := store.Open(context.Background(), engine, KEK(t), rand.Reader)
	must(t, err)
	dir, _ := b.Log(t)
	result, err := restore.Restore(t.Context(), s, dir, rand.Reader, time.Hour)
	must(t, engine.Close())
	if err != nil {
		return result, err
	}
	return result, b.Open()
}

// Close closes the store.
func (b *Book) Close() { b.Engine.Close() }

// State returns the state of the log.
func (b *Book) State() publish.State { return b.publisher.State() }

// Publish publishes all leaves in the log.
func (b *Book) Publish(t testing.TB) {
	t.Helper()
	must(t, b.publisher.Publish(context.Background()))
}

// Leaves publishes, verifies the log, and returns its leaves.
func (b *Book) Leaves(t testing.TB) []audit.Leaf {
	t.Helper()
	var all []audit.Leaf
	must(t, b.read(t, func(leaf audit.Leaf, _ []byte) { all = append(all, leaf) }))
	return all
}

// Text returns the log as text, one line for each leaf.
func (b *Book) Text(t testing.TB) string {
	t.Helper()
	var out bytes.Buffer
	must(t, b.read(t, func(_ audit.Leaf, data []byte) {
		out.Write(data)
		out.WriteByte('\n')
	}))
	return out.String()
}

func (b *Book) read(t testing.TB, visit func(audit.Leaf, []byte)) error {
	t.Helper()
	b.Publish(t)
	dir, tree := b.Log(t)
	return replay.Read(dir, tree, func(_ int64, leaf audit.Leaf, data []byte) error {
		visit(leaf, data)
		return nil
	})
}

// Log returns the log as it was last published.
func (b *Book) Log(t testing.TB) (tlogdir.Dir, tlogdir.Tree) {
	t.Helper()
	dir := tlogdir.Dir(b.path("log"))
	verifier, err := note.NewVerifier(b.Store.LogPublic())
	must(t, err)
	signed, err := dir.Checkpoint()
	must(t, err)
	tree, err := tlogdir.OpenCheckpoint(signed, verifier)
	must(t, err)
	return dir, tree
}

// Judge publishes, and judges every release again.
func (b *Book) Judge(t testing.TB) *replay.Judge {
	t.Helper()
	b.Publish(t)
	dir, tree := b.Log(t)
	judge := replay.NewJudge(dir, RetryWindow)
	must(t, replay.Read(dir, tree, func(_ int64, leaf audit.Leaf, _ []byte) error { return judge.Next(leaf) }))
	return judge
}
