package boltkv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/kv/kvtest"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kms.db")
	if err := Create(path); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestEngine(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Engine { return newStore(t) }, func(t *testing.T, e kv.Engine) kv.Engine {
		t.Helper()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		s, err := Open(e.(*Store).path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func (s *Store) mustPut(t *testing.T, key, value string) {
	t.Helper()
	if revision, err := s.Commit(t.Context(), nil, []kv.Write{{Key: key, Value: []byte(value)}}); err != nil || revision == 0 {
		t.Fatalf("got %d, %v", revision, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	s := newStore(t)
	for i := range 200 {
		s.mustPut(t, fmt.Sprintf("key/%03d", i), strings.Repeat("v", 100))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(of string) func([]byte) []byte {
		return func(data []byte) []byte {
			at := bytes.Index(data, []byte(of))
			for ; at >= 0; at = next(data, of, at) { // every copy: bbolt leaves old pages
				data[at] ^= 1
			}
			return data
		}
	}
	for _, c := range []struct {
		name, want string
		change     func([]byte) []byte
		mode       os.FileMode
	}{
		{"a key's bit", "damaged", flip("key/123"), 0o600},
		{"a value's bit", "damaged", flip("vvvv"), 0o600},
		{"cut in half", "the file was cut", func(d []byte) []byte { return d[:len(d)/2] }, 0o600},
		{"cut to two pages", "the file was cut", func(d []byte) []byte { return d[:2*pageSize] }, 0o600},
		{"empty", "meta pages", func([]byte) []byte { return nil }, 0o600},
		{"no bbolt file", "meta pages", func(d []byte) []byte { return bytes.Repeat([]byte("x"), len(d)) }, 0o600},
		{"for all to read", "mode is 0644", func(d []byte) []byte { return d }, 0o644},
		{"of another format", "format", flip("rootvouch kms store"), 0o600},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(s.path, c.change(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(s.path, c.mode); err != nil {
				t.Fatal(err)
			}
			if s, err := Open(s.path); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, error %v, want one with %q", s, err, c.want)
			}
		})
	}
}

func next(data []byte, of string, at int) int {
	i := bytes.Index(data[at+1:], []byte(of))
	if i < 0 {
		return -1
	}
	return at + 1 + i
}

func (s *Store) mustGet(t *testing.T, key string) kv.Item {
	t.Helper()
	items, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return items[0]
}

// TestTakenAway takes the file away under an open store: nothing is committed to it.
func TestTakenAway(t *testing.T) {
	for name, take := range map[string]func(path string) error{
		"moved":     func(p string) error { return os.Rename(p, p+".1") },
		"removed":   os.Remove,
		"truncated": func(p string) error { return os.Truncate(p, 0) },
		"shortened": func(p string) error { return os.Truncate(p, 3*pageSize) },
		"replaced": func(p string) error {
			if err := os.Rename(p, p+".1"); err != nil {
				return err
			}
			return Create(p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			for i := range 50 {
				s.mustPut(t, fmt.Sprint(i), strings.Repeat("v", 500))
			}
			if err := take(s.path); err != nil {
				t.Fatal(err)
			}
			if revision, err := s.Commit(t.Context(), nil, []kv.Write{{Key: "a"}}); revision != 0 || !errors.Is(err, kv.ErrBroken) {
				t.Errorf("got %d, error %v, want ErrBroken", revision, err)
			}
			if _, err := s.Get(t.Context(), "1"); !errors.Is(err, kv.ErrBroken) {
				t.Errorf("Get: error is %v, want ErrBroken", err)
			}
			select {
			case <-s.Failed():
			default:
				t.Error("Failed is not closed")
			}
		})
	}
}

// TestReadOfShortened reads what is no longer in the file: an error, and no SIGBUS.
func TestReadOfShortened(t *testing.T) {
	s := newStore(t)
	for i := range 50 {
		s.mustPut(t, fmt.Sprint(i), strings.Repeat("v", 500))
	}
	if err := os.Truncate(s.path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "1"); !errors.Is(err, kv.ErrBroken) {
		t.Errorf("got error %v, want ErrBroken", err)
	}
}

func TestBackup(t *testing.T) {
	s := newStore(t)
	s.mustPut(t, "a", "one")
	copied := filepath.Join(t.TempDir(), "copy.db")
	f, err := os.OpenFile(copied, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s.mustPut(t, "a", "two")
	c, err := Open(copied)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.mustGet(t, "a"); string(got.Value) != "one" {
		t.Errorf("copy has %q, want what there was then", got.Value)
	}
}

func TestOneProcess(t *testing.T) {
	s := newStore(t)
	if _, err := Open(s.path); err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("got error %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	s := newStore(t)
	if err := Create(s.path); !errors.Is(err, os.ErrExist) {
		t.Errorf("got error %v, want os.ErrExist", err)
	}
}
