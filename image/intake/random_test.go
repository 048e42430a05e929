package intake

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
)

// randomTar has files whose inodes, attributes and data end on all sides of a
// block's end.
func randomTar(t testing.TB, seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 0))
	text := func(size int) string {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte('a' + random.IntN(26))
		}
		return string(b)
	}
	// Around a block less an inode of either form, and around whole blocks.
	size := func() int {
		return max(0, []int{0, 20, 500, 2000, 4096 - 64, 4096 - 32, 4096, 2*4096 - 1, 20000}[random.IntN(9)]+random.IntN(5)-2)
	}
	entries := []entry{dirOf("d0")}
	dirs, files := []string{"d0"}, []string{}
	for i := range 150 {
		name := fmt.Sprintf("%s/%d%s", dirs[random.IntN(len(dirs))], i, text(random.IntN(200)))
		var e entry
		switch kind := random.IntN(10); {
		case kind == 0:
			e = dirOf(name)
			dirs = append(dirs, name)
		case kind == 1 && len(files) > 0:
			entries = append(entries, linkOf(name, files[random.IntN(len(files))]))
			continue
		case kind == 2:
			e = entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: text(1 + random.IntN(rootfs.MaxSymlink)), Mode: 0o777}, ""}
			files = append(files, name)
		default:
			e = fileOf(name, text(size()))
			files = append(files, name)
		}
		entries = append(entries, e.with(func(h *tar.Header) {
			h.PAXRecords["comment"] = "so that the format is PAX"
			if random.IntN(2) == 0 {
				h.ModTime = time.Unix(1e9+random.Int64N(3), 0)
			}
			if random.IntN(4) == 0 {
				h.Uid = 1 << 20
			}
			for range random.IntN(4) {
				// On a symbolic link the kernel shows no attribute of user.
				h.PAXRecords["SCHILY.xattr.trusted."+text(1+random.IntN(20))] = text(size())
			}
		}))
	}
	return makeTar(t, entries...)
}

// TestRandomTrees compares what a reader sees with the tree.
func TestRandomTrees(t *testing.T) {
	for seed := range uint64(30) {
		tree := readTree(t, randomTar(t, seed))
		want := flatten(t, tree)
		image := writeImage(t, tree)
		got := readBack(t, image)
		if len(got) != len(want) {
			t.Errorf("seed %d: got %d names, want %d", seed, len(got), len(want))
		}
		for name, w := range want {
			g := got[name]
			xattrs, err := erofs.EncodeXattrs(g.Xattrs)
			if err != nil {
				t.Fatal(err)
			}
			if g.Data != w.Data || g.UID != w.UID || g.Time != w.Time.Seconds*1e9 || xattrs != w.Xattrs || w.Links > 0 && g.Nlink != int(w.Links) {
				t.Errorf("seed %d, %.40q: another file", seed, name)
			}
		}
	}
}

// TestKernelMountsRandomTrees lets the kernel read them.
func TestKernelMountsRandomTrees(t *testing.T) {
	for seed := range uint64(5) {
		tree := readTree(t, randomTar(t, seed))
		want := flatten(t, tree)
		dir := mount(t, writeImage(t, tree))
		if diff := cmp.Diff(want, flatten(t, readDir(t, dir))); diff != "" {
			t.Errorf("seed %d: the kernel shows another tree: %.500s", seed, diff)
		}
	}
}

// TestDeepTree nests directories further than a path can be long.
func TestDeepTree(t *testing.T) {
	const depth = 2000
	data := makeTar(t, fileOf(strings.Repeat("d/", depth)+"f", "deep").with(func(h *tar.Header) { h.PAXRecords["comment"] = "" }))
	tree := readTree(t, data)
	count := 0
	tree.Root().Walk(func(rootfs.Node) bool { count++; return true })
	if count != depth+2 {
		t.Errorf("got %d files, want %d", count, depth+2)
	}
	if _, err := tree.Plan(); err != nil {
		t.Fatal(err)
	}
}

// TestDeepDirectory reads a directory whose paths are longer than PATH_MAX.
func TestDeepDirectory(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	name := strings.Repeat(strings.Repeat("d", 200)+"/", 25)
	if err := root.MkdirAll(name, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := root.WriteFile(name+"f", []byte("deep"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := flatten(t, readDir(t, dir))[name+"f"].Data; got != "deep" {
		t.Errorf("got %q", got)
	}
}
