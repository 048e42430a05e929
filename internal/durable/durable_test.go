package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

// TestNoNameUntilCommit: a process that is killed before the commit leaves nothing.
func TestNoNameUntilCommit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	for i, replace := range []bool{false, true, true} {
		f, err := New(path, 0o640, replace)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Abort()
		if f.temporary != "" {
			t.Skipf("SKIPPED: the file system of %s has no unnamed files", dir)
		}
		data := strings.Repeat("x", i+1)
		if _, err := f.WriteString(data); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != min(i, 1) {
			t.Errorf("before Commit %d: got files %v (%v)", i, left, err)
		}
		again, err := f.Reopen(os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if got, err := io.ReadAll(again); err != nil || string(got) != data {
			t.Errorf("opened again: got %q, %v, want %q", got, err, data)
		}
		if err := f.Commit(); err != nil {
			t.Fatal(err)
		}
		holds(t, path, data, 0o640)
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("after Commit %d: got files %v (%v), want one", i, left, err)
		}
	}
}

// TestLongNames: what cannot get its name is refused before the work, and what can
// does, also when it replaces something.
func TestLongNames(t *testing.T) {
	dir := t.TempDir()
	for _, replace := range []bool{false, true} {
		if f, err := New(filepath.Join(dir, strings.Repeat("n", 256)), 0o600, replace); err == nil {
			f.Abort()
			t.Errorf("replace %t: a name of 256 bytes was taken", replace)
		}
		if err := write(filepath.Join(dir, strings.Repeat("n", 255)), []byte("data"), 0o600, replace); err != nil {
			t.Errorf("replace %t: a name of 255 bytes: %v", replace, err)
		}
	}
}

// TestNothingIsLeftUnsynced: when the name cannot be made durable, the output is gone.
func TestNothingIsLeftUnsynced(t *testing.T) {
	dir := t.TempDir()
	for _, replace := range []bool{false, true} {
		f, err := New(filepath.Join(dir, "key"), 0o600, replace)
		if err != nil {
			t.Fatal(err)
		}
		f.dir.Close() // so that it cannot be synced
		if err := f.Commit(); err == nil {
			t.Errorf("replace %t: got no error", replace)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("replace %t: got files %v (%v), want none", replace, left, err)
		}
	}
}

// TestNamed is the same on file systems without unnamed files.
func TestNamed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	for i, replace := range []bool{false, true} {
		temporary, err := os.CreateTemp(dir, ".*.part")
		if err != nil {
			t.Fatal(err)
		}
		parent, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		f := &File{File: temporary, dir: parent, path: path, temporary: temporary.Name(), replace: replace}
		defer f.Abort()
		if _, err := f.WriteString(strings.Repeat("x", i+1)); err != nil {
			t.Fatal(err)
		}
		if err := f.Commit(); err != nil {
			t.Fatal(err)
		}
		holds(t, path, strings.Repeat("x", i+1), 0o600)
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("after Commit %d: got files %v (%v), want one", i, left, err)
		}
	}
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

// TestReplacesRegularFilesOnly: what is there for others stays.
func TestReplacesRegularFilesOnly(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("directory", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo("fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"null", "gone"} {
		if err := os.Symlink("/dev/"+link, link); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"", "directory", "fifo", "null", "directory/"} {
		if err := WriteFile(name, []byte("data"), 0o600); err == nil || errors.Is(err, os.ErrExist) {
			t.Errorf("%q: got error %v, want another one", name, err)
		}
		if err := Create(name, []byte("data"), 0o600); err == nil {
			t.Errorf("%q: got no error from Create", name)
		}
	}
	if err := WriteFile("gone", []byte("data"), 0o600); err != nil {
		t.Errorf("link to nothing: got error %v", err)
	}
	if left, err := os.ReadDir("."); err != nil || len(left) != 4 {
		t.Errorf("got files %v (%v), want 4", left, err)
	}
}

func TestReplaces(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.MkdirAll("sub", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink("file", "link"), os.Link("file", "second"), os.Symlink("sub", "other")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, other string
		want        bool
	}{
		{"new", "new", true},
		{"new", "./new", true},
		{"new", filepath.Join(dir, "sub", "..", "new"), true},
		{"sub/new", "other/new", true},
		{"new", "sub/new", false},
		{"new", "newer", false},
		{"file", "file", true},
		{"file", "link", true},  // what is read through the link would go
		{"link", "file", false}, // the link goes, what it points to stays
		{"link", "link", true},
		{"file", "second", true},
		{"file", "none", false},
		{"none/new", "gone/new", false},
	} {
		if got := Replaces(c.path, c.other); got != c.want {
			t.Errorf("%s in place of %s: got %t, want %t", c.path, c.other, got, c.want)
		}
	}
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
