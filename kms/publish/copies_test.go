package publish_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/publish"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

func segments(t *testing.T, b *kmstest.Book) (n int) {
	t.Helper()
	must(t, kv.Each(t.Context(), b.Engine, "seg/", func(kv.Item) error { n++; return nil }))
	return n
}

// copyDir copies a log's directory.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// second registers another replica, and gives it a copy of the first one's log.
func second(t *testing.T, b *kmstest.Book) (*publish.Publisher, string) {
	t.Helper()
	_, err := publish.Join(t.Context(), b.Store, "two")
	must(t, err)
	dir := filepath.Join(t.TempDir(), "log")
	copyDir(t, filepath.Join(b.Dir, "log"), dir)
	p, err := publish.Open(t.Context(), b.Store, "two", dir, slog.New(slog.DiscardHandler))
	must(t, err)
	return p, dir
}

// TestCopies: each replica's directory comes to have the same bytes, and leaves stay in the
// book until it does.
func TestCopies(t *testing.T) {
	b, record := newBook(t)
	two := b.Replica("two", b.Engine)
	b.Publish(t)
	_, err := publish.Join(t.Context(), b.Store, "two")
	must(t, err)
	if _, err := publish.Join(t.Context(), b.Store, "two"); !errors.Is(err, publish.ErrJoined) {
		t.Errorf("joining again: got error %v, want ErrJoined", err)
	}
	for i := range 150 { // more than are taken at once
		release(t, b.Ledger, record, byte(i))
	}
	b.Publish(t)
	dir := filepath.Join(t.TempDir(), "log")
	copyDir(t, filepath.Join(b.Dir, "log"), dir)
	for i := range 150 {
		release(t, two, record, byte(i)+150)
	}
	b.Publish(t)
	if segments(t, b) == 0 {
		t.Error("leaves that the other copy lacks are gone")
	}
	p, err := publish.Open(t.Context(), b.Store, "two", dir, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, p.Publish(t.Context()))
	if got, want := p.State(), b.State(); got.Tree != want.Tree || string(got.Checkpoint) != string(want.Checkpoint) {
		t.Errorf("the copy is at %+v, want %+v", got, want)
	}
	if n := segments(t, b); n != 0 {
		t.Errorf("%d segments are left", n)
	}
	if out, err := exec.Command("diff", "-r", filepath.Join(b.Dir, "log"), dir).CombinedOutput(); err != nil {
		t.Errorf("the directories differ: %s", out)
	}
	// The one that did not publish stays behind while the other does, and goes on after it.
	release(t, two, record, 255)
	must(t, p.Publish(t.Context()))
	if got := p.State().Tree.Size; got != b.State().Tree.Size {
		t.Errorf("it published %d leaves in another's place", got)
	}
	b.Publish(t)
	must(t, p.Publish(t.Context()))
	if p.State().Tree != b.State().Tree {
		t.Error("it did not follow")
	}
}

// TestLeave: nobody waits for a replica that has left, and it cannot go on.
func TestLeave(t *testing.T) {
	b, record := newBook(t)
	b.Publish(t)
	p, dir := second(t, b)
	release(t, b.Ledger, record, 1)
	b.Publish(t)
	if segments(t, b) == 0 {
		t.Fatal("the leaf is gone before the other copy has it")
	}
	must(t, publish.Leave(t.Context(), b.Store, "two"))
	if err := publish.Leave(t.Context(), b.Store, "two"); !errors.Is(err, publish.ErrNoCopy) {
		t.Errorf("leaving again: got error %v, want ErrNoCopy", err)
	}
	if err := p.Publish(t.Context()); err == nil {
		t.Error("it went on")
	}
	release(t, b.Ledger, record, 2)
	b.Publish(t)
	// Who comes back with its old directory is told so.
	_, err := publish.Join(t.Context(), b.Store, "two")
	must(t, err)
	if _, err := publish.Open(t.Context(), b.Store, "two", dir, slog.New(slog.DiscardHandler)); !errors.Is(err, publish.ErrLog) {
		t.Errorf("with an old copy: got error %v, want ErrLog", err)
	}
}

// TestCopyOfOneBehind: a replica that joins may copy the directory of one that is behind.
func TestCopyOfOneBehind(t *testing.T) {
	b, record := newBook(t)
	b.Publish(t)
	_, behind := second(t, b)
	for i := range 3 {
		release(t, b.Ledger, record, byte(i))
	}
	b.Publish(t)
	size, err := publish.Join(t.Context(), b.Store, "three")
	must(t, err)
	if whole := b.State().Tree.Size; size >= whole {
		t.Errorf("the copy needs %d leaves, want fewer than the log's %d: one replica is behind", size, whole)
	}
	dir := filepath.Join(t.TempDir(), "log")
	copyDir(t, behind, dir)
	p, err := publish.Open(t.Context(), b.Store, "three", dir, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, p.Publish(t.Context()))
	if p.State().Tree != b.State().Tree {
		t.Errorf("the copy is at %+v, want %+v", p.State().Tree, b.State().Tree)
	}
}

// TestOtherCopy: a copy whose bytes are not the log's is found.
func TestOtherCopy(t *testing.T) {
	b, record := newBook(t)
	b.Publish(t)
	_, dir := second(t, b)
	other, _ := newBook(t)
	other.Publish(t)
	for _, c := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"of another log", func(t *testing.T) {
			must(t, os.RemoveAll(dir))
			copyDir(t, filepath.Join(other.Dir, "log"), dir)
		}},
		{"a leaf was changed", func(t *testing.T) {
			must(t, os.RemoveAll(dir))
			release(t, b.Ledger, record, 9)
			b.Publish(t)
			copyDir(t, filepath.Join(b.Dir, "log"), dir)
			path := filepath.Join(dir, "tile/entries/000.p/3")
			data, err := os.ReadFile(path)
			must(t, err)
			data[len(data)-9] ^= 1
			must(t, os.WriteFile(path, data, 0o600))
		}},
	} {
		c.do(t)
		if _, err := publish.Open(t.Context(), b.Store, "two", dir, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: it opens", c.name)
		}
	}
}

// TestTakeover: who does not publish does so when nobody else does.
func TestTakeover(t *testing.T) {
	b, record := newBook(t)
	b.Publish(t)
	p, _ := second(t, b)
	release(t, b.Ledger, record, 1)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, b.Ledger.Written()) }()
	for p.State().Tree.Size < 3 && t.Context().Err() == nil {
		select {
		case err := <-done:
			t.Fatal(err)
		default:
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	must(t, <-done)
}

// TestStopTogether: servers that are stopped together leave equal copies.
func TestStopTogether(t *testing.T) {
	b, record := newBook(t)
	b.Publish(t)
	p, _ := second(t, b)
	release(t, b.Ledger, record, 1)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, b.Ledger.Written()) }()
	b.Publish(t)
	must(t, <-done)
	if got, want := p.State().Tree, b.State().Tree; got != want {
		t.Errorf("the copy of a server that was stopped is at %+v, want %+v", got, want)
	}
}
