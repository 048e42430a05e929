package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWipe(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "kept")
	for _, path := range []string{filepath.Join(dir, "a/b/c"), filepath.Join(dir, "d")} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 600 { // more than one call of getdents
		if err := os.WriteFile(filepath.Join(dir, "a/b", strings.Repeat("x", i%200+1)+string(rune('a'+i/200))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	top, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	if err := wipe(top); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("got %v, %v, want an empty directory", left, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a file behind a symbolic link is gone: %v", err)
	}
}

func TestMakeMountPoint(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"new", "new"} { // made, then there
		if err := makeMountPoint(filepath.Join(dir, path)); err != nil {
			t.Error(err)
		}
	}
	if err := os.Symlink("/", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := makeMountPoint(filepath.Join(dir, "link")); err == nil {
		t.Error("got no error for a symbolic link")
	}
}
