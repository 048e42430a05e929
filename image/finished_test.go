package image

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/pins"
)

// seenIn opens a root and returns its notes and what was seen of its init.
func seenIn(t *testing.T, path string) ([]string, pins.Init) {
	t.Helper()
	var notes []string
	source, closeSource, err := Open(context.Background(), Input{Path: path, Seen: func(s Summary) error {
		for _, n := range s.Notes {
			notes = append(notes, n.Name+": "+n.Text)
		}
		return nil
	}})
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	closeSource()
	slices.Sort(notes)
	return notes, source.init
}

// finishedOf makes finished filesystems of a directory, by the tools of others.
func finishedOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	made := map[string]string{}
	for name, command := range map[string][]string{
		"ext4":        {"mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", dir, "OUT", "8M"},
		"ext2":        {"mke2fs", "-q", "-t", "ext2", "-b", "4096", "-d", dir, "OUT", "8M"},
		"EROFS":       {"mkfs.erofs", "--quiet", "OUT", dir},
		"old EROFS":   {"mkfs.erofs", "--quiet", "-Elegacy-compress", "OUT", dir},
		"plain EROFS": {"mkfs.erofs", "--quiet", "-Enoinline_data", "OUT", dir},
	} {
		out := filepath.Join(t.TempDir(), "image")
		args := slices.Clone(command[1:])
		args[slices.Index(args, "OUT")] = out
		if text, err := exec.Command(needs.Tool(t, command[0]), args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, text)
		}
		made[name] = out
	}
	return made
}

// elf is a program without an interpreter, for x86-64.
func elf() []byte {
	b := make([]byte, 120)
	copy(b, "\x7fELF\x02\x01\x01")
	b[0x12] = 62
	return b
}

// TestLookInto: there is the same to say of a finished filesystem as of the
// directory that it was made of.
func TestLookInto(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(dir string) error
		init    pins.Init
		notes   []string // names
	}{
		"sound":          {func(dir string) error { return os.WriteFile(filepath.Join(dir, "sbin/init"), elf(), 0o755) }, pins.InitOK, nil},
		"no init":        {func(string) error { return nil }, pins.InitBad, []string{"init"}},
		"dangling":       {func(dir string) error { return os.Symlink("/usr/nowhere", filepath.Join(dir, "sbin/init")) }, pins.InitBad, []string{"init"}},
		"not executable": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "sbin/init"), elf(), 0o644) }, pins.InitBad, []string{"init"}},
		"for arm64": {func(dir string) error {
			arm := elf()
			arm[0x12] = 183
			return os.WriteFile(filepath.Join(dir, "sbin/init"), arm, 0o755)
		}, pins.InitBad, []string{"init"}},
		"through links, with the host's disks": {func(dir string) error {
			if err := os.WriteFile(filepath.Join(dir, "etc/program"), elf(), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "etc/fstab"), []byte("UUID=x /srv ext4 defaults 0 2\n"), 0o644); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "etc/machine-id"), []byte(strings.Repeat("1", 32)), 0o644); err != nil {
				return err
			}
			return os.Symlink("../etc/program", filepath.Join(dir, "sbin/init"))
		}, pins.InitOK, []string{"fstab", "machine-id"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, sub := range []string{"sbin", "etc"} {
				if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.prepare(dir); err != nil {
				t.Fatal(err)
			}
			want, init := seenIn(t, dir)
			if os.Getuid() != 0 { // the directory's owner is this user
				want = slices.DeleteFunc(want, func(n string) bool { return strings.HasPrefix(n, "owner:") })
			}
			for _, n := range c.notes {
				if !slices.ContainsFunc(want, func(text string) bool { return strings.HasPrefix(text, n+": ") }) {
					t.Errorf("directory: got notes %q, want one of %s", want, n)
				}
			}
			if init != c.init || len(want) != len(c.notes) {
				t.Errorf("directory: got init %s and notes %q, want %s and %q", init, want, c.init, c.notes)
			}
			for kind, image := range finishedOf(t, dir) {
				got, init := seenIn(t, image)
				got = slices.DeleteFunc(got, func(n string) bool { return os.Getuid() != 0 && strings.HasPrefix(n, "owner:") })
				if init != c.init || !slices.Equal(got, want) {
					t.Errorf("%s: got init %s and notes %q, want %s and %q", kind, init, got, c.init, want)
				}
			}
		})
	}
}

// TestUnseen: a filesystem that cannot be looked into says so, and is taken.
func TestUnseen(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "text"), bytes.Repeat([]byte("text "), 10_000), 0o644); err != nil {
		t.Fatal(err)
	}
	packed := filepath.Join(t.TempDir(), "packed")
	if out, err := exec.Command(needs.Tool(t, "mkfs.erofs"), "--quiet", "-zlz4", packed, dir).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v: %s", err, out)
	}
	squash := make([]byte, 4096) // the superblock alone: nothing else of it is read
	copy(squash, "hsqs")
	squash[28], squash[40] = 4, 96
	for name, c := range map[string]struct{ path, want string }{
		"compressed EROFS": {packed, "unseen: the erofs filesystem was not inspected (its files are compressed)"},
		"squashfs":         {write(t, "squashfs", squash), "unseen: the squashfs filesystem was not inspected (no reader for it is built in)"},
	} {
		notes, init := seenIn(t, c.path)
		if init != pins.InitUnseen || len(notes) != 1 || !strings.HasPrefix(notes[0], c.want) {
			t.Errorf("%s: got init %s and notes %q, want %s and %q", name, init, notes, pins.InitUnseen, c.want)
		}
	}
}
