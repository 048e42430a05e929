package durable

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestCreateRefusesExisting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := Create(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, []byte("two"), 0o600); !errors.Is(err, os.ErrExist) {
		t.Errorf("second Create: got %v, want os.ErrExist", err)
	}
	holds(t, path, "one", 0o600)
}

func TestCommitRefusesWhatAppearedMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	f, err := New(path, 0o600, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("theirs"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); !errors.Is(err, os.ErrExist) {
		t.Errorf("Commit: got %v, want os.ErrExist", err)
	}
	holds(t, path, "theirs", 0o644)
}

func TestWriteFileReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for _, data := range []string{"one", "two"} {
		if err := WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, path, "two", 0o644)
}

func TestAbortLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	f, err := New(path, 0o644, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("half"); err != nil {
		t.Fatal(err)
	}
	f.Abort()
	f.Abort()
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
		t.Errorf("got %v left behind, want nothing", left)
	}
}

// holds checks a file's data and mode, and that it is alone in its directory.
func holds(t *testing.T, path, data string, perm os.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != data {
		t.Errorf("%s holds %q, %v, want %q", path, got, err, data)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != perm {
		t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), perm)
	}
	if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 1 {
		t.Errorf("got %v beside %s, want it alone", all, path)
	}
}
