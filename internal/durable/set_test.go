package durable

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSet: the last output cannot get its name, and the first loses its own.
func TestSet(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	var s Set
	for _, name := range []string{"a", "b"} {
		if err := s.AddFile(path(name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path("b"), []byte("of another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(); !errors.Is(err, os.ErrExist) {
		t.Errorf("got error %v, want %v", err, os.ErrExist)
	}
	s.Abort()
	if left, _ := os.ReadDir(dir); len(left) != 1 || left[0].Name() != "b" {
		t.Errorf("left are %v, want b alone", left)
	}
	if data, _ := os.ReadFile(path("b")); string(data) != "of another" {
		t.Errorf("b is %q, and was not ours", data)
	}
}

func TestSetRefuses(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := Set{Replace: true, Keep: []string{kept}}
	defer s.Abort()
	if _, err := s.Add(kept, 0o600); err == nil || !strings.Contains(err.Error(), "which is needed") {
		t.Errorf("an input: got error %v", err)
	}
	if _, err := s.Add(filepath.Join(dir, "one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(filepath.Join(dir, ".", "one"), 0o600); err == nil || !strings.Contains(err.Error(), "two outputs have the name") {
		t.Errorf("one name twice: got error %v", err)
	}
}
