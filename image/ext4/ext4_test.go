package ext4_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/image/ext4"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// tree makes a directory with what a filesystem keeps in different ways.
func tree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "etc/deep/deeper"), 0o750))
	must(os.Mkdir(filepath.Join(dir, "many"), 0o755))
	for i := range 1500 { // a hash tree, with inner nodes where blocks are small
		must(os.WriteFile(filepath.Join(dir, "many", fmt.Sprintf("a-name-that-takes-some-place-%04d", i)), nil, 0o600))
	}
	noise := make([]byte, 900<<10) // more than singly indirect blocks of 1 KiB can name
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	must(os.WriteFile(filepath.Join(dir, "etc/noise"), noise, 0o644))
	must(os.WriteFile(filepath.Join(dir, "etc/small"), []byte("small"), 0o4755))
	must(os.Link(filepath.Join(dir, "etc/small"), filepath.Join(dir, "etc/deep/second")))
	must(os.Symlink("short", filepath.Join(dir, "etc/short")))
	must(os.Symlink(strings.Repeat("long/", 100), filepath.Join(dir, "etc/long")))
	must(unix.Mkfifo(filepath.Join(dir, "etc/deep/deeper/fifo"), 0o600))
	f, err := os.Create(filepath.Join(dir, "etc/holes"))
	must(err)
	for at := int64(1); at < 4<<20; at += 300_000 {
		_, err := f.WriteAt([]byte("data"), at)
		must(err)
	}
	must(f.Close())
	return dir
}

// image makes a filesystem of a directory.
func image(t testing.TB, dir string, options ...string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image")
	args := append([]string{"-q", "-d", dir}, options...)
	if out, err := exec.Command(needs.Tool(t, "mke2fs"), append(args, file, "24M")...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// files reads a filesystem whole, as lines.
func files(f *ext4.FS) ([]string, error) {
	var all []string
	count := 0
	var walk func(name string, number uint32) error
	walk = func(name string, number uint32) error {
		if count++; count > 10_000 {
			return fmt.Errorf("more names than there are")
		}
		i, err := f.Inode(number)
		if err != nil {
			return err
		}
		target, sum := "", uint64(0)
		switch {
		case i.IsDir():
			entries, err := f.Entries(i)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if name == "" && e.Name == "lost+found" {
					continue
				}
				if err := walk(name+"/"+e.Name, e.Number); err != nil {
					return err
				}
			}
			i.Size = 0
		case i.Mode&0o170000 == 0o120000:
			if target, err = f.Target(i); err != nil {
				return err
			}
		case i.Size <= 64<<20:
			data, err := io.ReadAll(f.Data(i))
			if err != nil {
				return err
			}
			sum = digest(data)
		}
		all = append(all, line(name, uint32(i.Mode), i.UID, i.GID, i.Size, i.Seconds, target, sum))
		return nil
	}
	err := walk("", ext4.Root)
	slices.Sort(all)
	return all, err
}

func digest(data []byte) uint64 {
	sum := uint64(len(data))
	for _, c := range data {
		sum = sum*1099511628211 + uint64(c)
	}
	return sum
}

func line(name string, mode, uid, gid uint32, size, seconds int64, target string, sum uint64) string {
	if name == "" {
		seconds = 0 // making lost+found changed it
	}
	return fmt.Sprintf("%s %o %d:%d %d bytes at %d -> %q %x", name, mode, uid, gid, size, seconds, target, sum)
}

// wanted is files for the directory itself.
func wanted(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s unix.Stat_t
		if err := unix.Lstat(name, &s); err != nil {
			return err
		}
		target, sum := "", uint64(0)
		switch s.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			s.Size = 0
		case unix.S_IFLNK:
			if target, err = os.Readlink(name); err != nil {
				return err
			}
		case unix.S_IFREG:
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			sum = digest(data)
		}
		all = append(all, line(strings.TrimPrefix(name, dir), s.Mode, s.Uid, s.Gid, s.Size, s.Mtim.Sec, target, sum))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// TestOracleRead: what mke2fs made of a directory reads like the directory.
func TestOracleRead(t *testing.T) {
	dir := tree(t)
	want := wanted(t, dir)
	for _, options := range [][]string{
		{"-t", "ext4", "-b", "4096"},
		{"-t", "ext4", "-b", "1024"},
		{"-t", "ext4", "-b", "4096", "-O", "^64bit,^metadata_csum"},
		{"-t", "ext4", "-b", "4096", "-I", "128"},
		{"-t", "ext3", "-b", "4096"},
		{"-t", "ext2", "-b", "1024"},
		{"-t", "ext2", "-b", "2048", "-I", "128"},
	} {
		f, err := ext4.Open(bytes.NewReader(image(t, dir, options...)))
		if err != nil {
			t.Errorf("%v: %v", options, err)
			continue
		}
		got, err := files(f)
		if err != nil {
			t.Errorf("%v: %v", options, err)
		}
		if len(got) != len(want) {
			t.Errorf("%v: got %d files, want %d", options, len(got), len(want))
			continue
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%v: got\n%s, want\n%s", options, got[i], want[i])
				break
			}
		}
	}
}

// TestRefuses: a filesystem that this reader does not know is refused by name.
func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	for option, want := range map[string]string{"inline_data": "s_feature_incompat has 0x8000", "meta_bg,^resize_inode": "s_feature_incompat has 0x10"} {
		if _, err := ext4.Open(bytes.NewReader(image(t, dir, "-t", "ext4", "-O", option))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want %q", option, err, want)
		}
	}
	if _, err := ext4.Open(bytes.NewReader(make([]byte, 4096))); err == nil || !strings.Contains(err.Error(), "s_magic is 0x0, want 0xef53") {
		t.Errorf("zeros: got error %v", err)
	}
	if _, err := ext4.Open(strings.NewReader("short")); err == nil {
		t.Error("a short file: got no error")
	}
}

// TestDamaged: damage in any place ends in an error or in other files, never in a
// panic, and soon.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a/b/c"), make([]byte, 30_000), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"ext4", "ext2"} {
		whole := image(t, dir, "-t", kind, "-b", "1024", "-N", "64")
		var places []int // bytes that say something
		for at, c := range whole {
			if c != 0 {
				places = append(places, at)
			}
		}
		random := rand.New(rand.NewPCG(1, 2))
		for range 300 {
			at := places[random.IntN(len(places))]
			old := whole[at]
			whole[at] = byte(random.Uint32())
			if f, err := ext4.Open(bytes.NewReader(whole)); err == nil {
				_, _ = files(f) // an error, or not
			}
			whole[at] = old
		}
	}
}
