package members_test

import (
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/kv/boltkv"
	"github.com/rootvouch/rootvouch/kms/members"
	"github.com/rootvouch/rootvouch/kms/store"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newEngine(t *testing.T) kv.Engine {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kms.db")
	if err := boltkv.Create(path); err != nil {
		t.Fatal(err)
	}
	e, err := boltkv.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func beat(t *testing.T, all ...*members.Members) {
	t.Helper()
	for _, m := range all {
		if err := m.Beat(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestClock has three servers, one of which has another time.
func TestClock(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		e, now := newEngine(t), noon
		var all []*members.Members
		for i, name := range []string{"a", "b", "c"} {
			all = append(all, members.New(e, name, "v1", []string{"main"}, store.Token{byte(i)}, func() time.Time {
				if name == "c" {
					return now.Add(off)
				}
				return now
			}, slog.New(slog.DiscardHandler)))
		}
		beat(t, all...)
		if got := all[0].Alive(); len(got) != 1 {
			t.Errorf("what may be old counts: %v", got)
		}
		for range 2 {
			now = now.Add(members.Interval)
			beat(t, all...)
		}
		if got := all[0].Alive(); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("alive are %v", got)
		}
		for i, m := range all {
			if err := m.Clock(); (err != nil) != (i == 2) {
				t.Errorf("off by %s, server %d: got error %v", off, i, err)
			}
		}
		if err := all[2].Clock(); err == nil || !strings.Contains(err.Error(), "1h0m0s") {
			t.Errorf("got error %v, want one with how far", err)
		}
		beat(t, all[:2]...)        // they have seen the last sign of c
		now = now.Add(time.Minute) // c is silent
		beat(t, all[:2]...)
		now = now.Add(members.Interval)
		beat(t, all[:2]...)
		if got := all[0].Alive(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("alive are %v, want a and b", got)
		}
	}
}

// TestTaken: two processes with one name do not go on side by side.
func TestTaken(t *testing.T) {
	e := newEngine(t)
	clock := func() time.Time { return noon }
	one := members.New(e, "a", "v1", []string{"main"}, store.Token{1}, clock, slog.New(slog.DiscardHandler))
	two := members.New(e, "a", "v1", []string{"main"}, store.Token{2}, clock, slog.New(slog.DiscardHandler))
	beat(t, one, one, two)
	if err := one.Beat(t.Context()); !errors.Is(err, members.ErrTaken) {
		t.Errorf("got error %v, want ErrTaken", err)
	}
}

// TestLack: a server that lives without a key-encryption key shows, also by its first sign.
func TestLack(t *testing.T) {
	e, now := newEngine(t), noon
	open := func(name string, keks ...string) *members.Members {
		return members.New(e, name, "v1", keks, store.Token{name[0]}, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	}
	a, b, c := open("a", "2027", "main"), open("b", "main"), open("c", "2027", "main")
	beat(t, b, c, a)
	if got := a.Lack("2027"); !slices.Equal(got, []string{"b"}) {
		t.Errorf("after the first sign %q lack the key, want b", got)
	}
	if got := a.Lack("main"); len(got) != 0 {
		t.Errorf("%q lack the key that all have", got)
	}
	now = now.Add(members.Interval)
	beat(t, b, c, a)
	if got := a.Lack("2027"); !slices.Equal(got, []string{"b"}) {
		t.Errorf("%q lack the key, want b", got)
	}
	b = open("b", "2027", "main") // it was restarted
	now = now.Add(members.Interval)
	beat(t, b, c, a)
	if got := a.Lack("2027"); len(got) != 0 {
		t.Errorf("%q lack the key that all have now", got)
	}
	now = now.Add(time.Minute) // b and c are silent
	beat(t, a)
	if got := a.Lack("2028"); len(got) != 0 {
		t.Errorf("%q count, and are silent", got)
	}
}
