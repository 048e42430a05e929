package boot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// TestReadAll reads a file; O_DIRECT is what the device gets, and most
// filesystems take it as well.
func TestReadAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	const size = 5*readSize/2 + 4096
	if err := os.WriteFile(path, bytes.Repeat([]byte{1}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	var last atomic.Uint64
	note := func(done, of uint64) {
		for {
			if old := last.Load(); old >= done || last.CompareAndSwap(old, done) {
				return
			}
		}
	}
	err := readAll(t.Context(), path, size, 3, note)
	if errors.Is(err, unix.EINVAL) {
		t.Skip("SKIPPED: the temporary directory's filesystem does not take O_DIRECT")
	}
	if err != nil || last.Load() != size {
		t.Errorf("got %v, progress to %d, want %d", err, last.Load(), size)
	}
	if err := readAll(t.Context(), path, size+4096, 3, note); err == nil {
		t.Error("got no error for a device that is too short")
	}
	if err := readAll(t.Context(), path+"x", size, 2, note); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v, want one that matches os.ErrNotExist", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	if err := readAll(ctx, path, size, 2, note); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want that of the ended context", err)
	}
}

func TestVerityComplaint(t *testing.T) {
	for line, want := range map[string]string{
		"3,512,5098000,-;device-mapper: verity: 254:0: data block 100 is corrupted":     "data",
		"3,512,5098000,-;device-mapper: verity: 254:0: metadata block 739 is corrupted": "metadata",
		"6,1,0,-;device-mapper: uevent: version 1.0.3":                                  "",
	} {
		got := ""
		if found := verityComplaint.FindStringSubmatch(line); found != nil {
			got = found[1]
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}
