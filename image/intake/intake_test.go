package intake

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// everything is a tar with every kind of file that can be kept.
func everything(t testing.TB) []byte {
	entries := []entry{
		dirOf("./").with(func(h *tar.Header) { h.Mode = 0o711; h.Uid = 5 }),
		dirOf("tmp").with(func(h *tar.Header) { h.Mode = 0o1777 }),
		fileOf("bin/su", strings.Repeat("#", 5000)).with(func(h *tar.Header) { h.Mode = 0o6755 }),
		fileOf("bin/ping", "ping").with(func(h *tar.Header) {
			h.PAXRecords["SCHILY.xattr.security.capability"] = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			h.PAXRecords["SCHILY.xattr.user.long"] = strings.Repeat("v", 6000)
			h.PAXRecords["LIBARCHIVE.xattr.trusted.one%3Dtwo"] = "YWJjAA"
			h.PAXRecords["SCHILY.xattr.user.three%3Dfour%25"] = "def" // as GNU tar writes it
		}),
		fileOf("etc/acl", "acl").with(func(h *tar.Header) {
			h.PAXRecords["SCHILY.acl.access"] = "user::rw-,user:alice:r--:1000,group::r--,mask::r--,other::---"
		}),
		fileOf("empty", ""),
		fileOf("block", strings.Repeat("b", 4096)),
		fileOf("large", strings.Repeat("0123456789abcdef", 1<<16)),
		fileOf("times", "").with(func(h *tar.Header) { h.ModTime = time.Unix(-86400, 123456789) }),
		fileOf("owner", "").with(func(h *tar.Header) { h.Uid, h.Gid = 1<<31, 70000 }),
		{tar.Header{Typeflag: tar.TypeSymlink, Name: "lib", Linkname: "usr/lib", Mode: 0o777}, ""},
		{tar.Header{Typeflag: tar.TypeSymlink, Name: "far", Linkname: strings.Repeat("x", rootfs.MaxSymlink), Mode: 0o777}, ""},
		{tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""},
		{tar.Header{Typeflag: tar.TypeBlock, Name: "dev/big", Mode: 0o660, Devmajor: 4095, Devminor: 1<<20 - 1}, ""},
		{tar.Header{Typeflag: tar.TypeFifo, Name: "run/pipe", Mode: 0o600}, ""},
		fileOf("a/first", "linked"),
		linkOf("z/second", "a/first"),
		linkOf("0", "./a/first"),
		linkOf("dev/null2", "dev/null"),
		linkOf("far2", "far"),
		fileOf("twice", "old"), fileOf("twice", "new"),
		fileOf(strings.Repeat("n", erofs.MaxName), "long name"),
	}
	for i := range 1000 { // a directory of many blocks
		entries = append(entries, fileOf(fmt.Sprintf("many/%04d%s", i, strings.Repeat("-", i%60)), fmt.Sprint(i)))
	}
	for i := range 300 { // links in a directory of many blocks
		entries = append(entries, linkOf(fmt.Sprintf("links/%04d%s", i, strings.Repeat("-", i%90)), "large"))
	}
	return makeTar(t, entries...)
}

// TestKeepsEverything compares what a reader sees with what the tar had.
func TestKeepsEverything(t *testing.T) {
	got := readBack(t, writeImage(t, readTree(t, everything(t))))
	acl, err := encodeACL("user::rw-,user:1000:r--,group::r--,mask::r--,other::---")
	if err != nil {
		t.Fatal(err)
	}
	const second = int64(1e9)
	want := map[string]shown{
		".":       {Mode: fs.ModeDir | 0o711, UID: 5, Time: 1e9 * second, Nlink: 11},
		"tmp":     {Mode: fs.ModeDir | fs.ModeSticky | 0o777, Time: 1e9 * second, Nlink: 2},
		"etc":     {Mode: fs.ModeDir | 0o755, Nlink: 2},
		"bin/su":  {Mode: fs.ModeSetuid | fs.ModeSetgid | 0o755, Time: 1e9 * second, Nlink: 1, Data: strings.Repeat("#", 5000)},
		"etc/acl": {Mode: 0o644, Time: 1e9 * second, Nlink: 1, Data: "acl", Xattrs: map[string]string{"system.posix_acl_access.": acl}},
		"bin/ping": {Mode: 0o644, Time: 1e9 * second, Nlink: 1, Data: "ping", Xattrs: map[string]string{
			"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"user.long":           strings.Repeat("v", 6000),
			"trusted.one=two":     "abc\x00",
			"user.three=four%":    "def",
		}},
		"empty":                               {Mode: 0o644, Time: 1e9 * second, Nlink: 1},
		"block":                               {Mode: 0o644, Time: 1e9 * second, Nlink: 1, Data: strings.Repeat("b", 4096)},
		"times":                               {Mode: 0o644, Time: -86400*second + 123456789, Nlink: 1},
		"owner":                               {Mode: 0o644, UID: 1 << 31, GID: 70000, Time: 1e9 * second, Nlink: 1},
		"lib":                                 {Mode: fs.ModeSymlink | 0o777, Nlink: 1, Data: "usr/lib"},
		"far":                                 {Mode: fs.ModeSymlink | 0o777, Nlink: 2, Data: strings.Repeat("x", rootfs.MaxSymlink)},
		"dev/null":                            {Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Nlink: 2, Rdev: 0x103},
		"dev/big":                             {Mode: fs.ModeDevice | 0o660, Nlink: 1, Rdev: 0xffffffff},
		"run/pipe":                            {Mode: fs.ModeNamedPipe | 0o600, Nlink: 1},
		"a/first":                             {Mode: 0o644, Time: 1e9 * second, Nlink: 3, Data: "linked"},
		"large":                               {Mode: 0o644, Time: 1e9 * second, Nlink: 301, Data: strings.Repeat("0123456789abcdef", 1<<16)},
		"twice":                               {Mode: 0o644, Time: 1e9 * second, Nlink: 1, Data: "new"},
		"many/0999" + strings.Repeat("-", 39): {Mode: 0o644, Time: 1e9 * second, Nlink: 1, Data: "999"},
		strings.Repeat("n", erofs.MaxName):    {Mode: 0o644, Time: 1e9 * second, Nlink: 1, Data: "long name"},
	}
	for name, want := range want {
		got, ok := got[name]
		if !ok {
			t.Errorf("%q is missing", name)
			continue
		}
		want.Inode = got.Inode
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", name, diff)
		}
	}
	for second, first := range map[string]string{"z/second": "a/first", "0": "a/first", "dev/null2": "dev/null", "far2": "far", "links/0299" + strings.Repeat("-", 29): "large"} {
		if diff := cmp.Diff(got[first], got[second]); diff != "" {
			t.Errorf("%q and %q are not one file: %s", first, second, diff)
		}
	}
	if got, want := len(got), 30+1000+300; got != want {
		t.Errorf("got %d names, want %d", got, want)
	}
	inodes := map[int64]fs.FileMode{}
	for name, s := range got {
		if mode, ok := inodes[s.Inode]; ok && mode != s.Mode {
			t.Errorf("%q shares an inode with a file of another mode", name)
		}
		inodes[s.Inode] = s.Mode
	}
}

// TestKernelMounts lets the kernel read the same tree, and bytes in names that
// are no UTF-8.
func TestKernelMounts(t *testing.T) {
	data := everything(t)
	tree := readTree(t, data)
	// archive/tar writes such names only as GNU entries.
	odd := makeTar(t, entry{tar.Header{Typeflag: tar.TypeReg, Name: "odd/\xff\xfe\x80", Mode: 0o600, Format: tar.FormatGNU}, "odd"})
	if err := (&Reader{Tree: tree}).ReadTar(context.Background(), bytes.NewReader(odd), int64(len(odd))); err != nil {
		t.Fatal(err)
	}
	want := flatten(t, tree)
	dir := mount(t, writeImage(t, tree))
	if data, err := os.ReadFile(filepath.Join(dir, "odd/\xff\xfe\x80")); err != nil || string(data) != "odd" {
		t.Errorf("got %q, %v from a name that is no UTF-8", data, err)
	}
	// A tree read from the mounted filesystem must be the tree itself.
	if diff := cmp.Diff(want, flatten(t, readDir(t, dir))); diff != "" {
		t.Errorf("the kernel shows another tree: %s", diff)
	}
	var stat syscall.Stat_t
	if err := syscall.Lstat(filepath.Join(dir, "dev/big"), &stat); err != nil {
		t.Fatal(err)
	}
	if unix.Major(stat.Rdev) != 4095 || unix.Minor(stat.Rdev) != 1<<20-1 {
		t.Errorf("device is %d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
	}
}

// TestInteropFsck lets fsck.erofs read every byte. (Holes are for the kernel to
// judge: fsck.erofs 1.5 leaves them out of what it extracts.)
func TestInteropFsck(t *testing.T) {
	fsck := needs.Tool(t, "fsck.erofs")
	tree := readTree(t, everything(t))
	want := flatten(t, tree)
	out := filepath.Join(t.TempDir(), "out")
	if text, err := exec.Command(fsck, "--extract="+out, "--no-preserve", writeImage(t, tree)).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v: %s", err, text)
	}
	for _, name := range []string{"large", "bin/su", "bin/ping", "block", "many/0999" + strings.Repeat("-", 39)} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(got) != want[name].Data {
			t.Errorf("%s: contents differ (%v)", name, err)
		}
	}
}

// flat is an inode in a form that can be compared.
type flat struct {
	Mode     uint16
	UID, GID uint32
	Time     erofs.Time
	Links    uint32
	Device   uint32
	Xattrs   string
	Data     string // contents or target
}

// flatten shows a tree that is not laid out yet.
func flatten(t testing.TB, tree *rootfs.Tree) map[string]flat {
	t.Helper()
	all := map[string]flat{}
	tree.Root().Walk(func(n rootfs.Node) bool {
		stat := n.Stat()
		f := flat{Mode: stat.Mode, UID: stat.UID, GID: stat.GID, Time: stat.Time, Links: uint32(n.Links()), Device: stat.Device, Xattrs: n.Xattrs(), Data: stat.Target}
		if n.Type() == erofs.TypeRegular {
			r, err := n.Open()
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			r.Close()
			if err != nil {
				t.Fatal(err)
			}
			f.Data = string(data)
		}
		all[n.Name()] = f
		return true
	})
	return all
}

func TestReproducible(t *testing.T) {
	data := everything(t)
	var images [2]bytes.Buffer
	for i := range images {
		plan, err := readTree(t, data).Plan()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := plan.WriteTo(&images[i]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0].Bytes(), images[1].Bytes()) {
		t.Error("two images of one tree differ")
	}
}

func TestExclude(t *testing.T) {
	tree := readTree(t, makeTar(t, fileOf("usr/share/doc/a", "a"), fileOf("usr/share/doc/b/c.gz", "c"), fileOf("etc/d.gz", "d"), linkOf("etc/e", "etc/d.gz")))
	for _, c := range []struct { // in this order: the first takes c.gz along
		pattern string
		want    int
	}{{"/usr/share/doc", 1}, {"*.gz", 1}, {"nothing", 0}} {
		if got, err := tree.Exclude(c.pattern); err != nil || got != c.want {
			t.Errorf("%s: got %d, %v, want %d", c.pattern, got, err, c.want)
		}
	}
	if _, err := tree.Exclude("["); err == nil {
		t.Error("got no error for a broken pattern")
	}
	got := readBack(t, writeImage(t, tree))
	if diff := cmp.Diff([]string{".", "etc", "etc/e", "usr", "usr/share"}, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Error(diff)
	}
	if got["etc/e"].Nlink != 1 {
		t.Errorf("the name that is left has %d links", got["etc/e"].Nlink)
	}
}

// TestChangedFile: a file that changes between listing and reading is noticed.
func TestChangedFile(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"shorter":  func(path string) error { return os.Truncate(path, 10) },
		"longer":   func(path string) error { return os.Truncate(path, 10000) },
		"replaced": func(path string) error { os.Remove(path); return os.WriteFile(path, make([]byte, 5000), 0o600) },
		"gone":     os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "f")
			if err := os.WriteFile(file, make([]byte, 5000), 0o600); err != nil {
				t.Fatal(err)
			}
			plan, err := readDir(t, dir).Plan()
			if err != nil {
				t.Fatal(err)
			}
			if err := change(file); err != nil {
				t.Fatal(err)
			}
			if _, err := plan.WriteTo(io.Discard); err == nil {
				t.Error("got no error")
			}
		})
	}
}

// FuzzTar: whatever is read can be written, and read back.
func FuzzTar(f *testing.F) {
	f.Add(makeTar(f, dirOf("d"), fileOf("d/f", "data"), linkOf("l", "d/f")))
	f.Add(makeTar(f, fileOf("x", strings.Repeat("x", 5000)).with(func(h *tar.Header) { h.PAXRecords["SCHILY.xattr.user.a"] = "b" })))
	f.Fuzz(func(t *testing.T, data []byte) {
		for archive := tar.NewReader(bytes.NewReader(data)); ; {
			header, err := archive.Next()
			if err != nil {
				break
			}
			if header.Size > 1<<24 {
				return // sparse: to look for its holes takes too long
			}
		}
		tree := rootfs.New()
		if err := (&Reader{Tree: tree}).ReadTar(context.Background(), bytes.NewReader(data), int64(len(data))); err != nil {
			return
		}
		plan, err := tree.Plan()
		if err != nil {
			t.Fatalf("planning what was read: %v", err)
		}
		if plan.Size > 1<<24 {
			return
		}
		plan.WriteTo(io.Discard) // may find data missing; must not panic
	})
}
