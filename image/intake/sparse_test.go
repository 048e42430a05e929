package intake

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/image/rootfs"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// islands are pieces of data in a file that has nothing else: byte -> data.
type islands map[int64]string

// writeSparse makes a file of size bytes.
func writeSparse(t testing.TB, path string, size int64, data islands) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for at, text := range data {
		if _, err := f.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
	}
}

// sparseFiles are files with holes at every place: name -> size and data.
func sparseFiles(t testing.TB, dir string) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	for name, c := range map[string]struct {
		size int64
		data islands
	}{
		"first":  {1 << 20, islands{0: "start", 300000: "island", 1<<20 - 3: "end"}},
		"middle": {1<<20 + 1, islands{8192: strings.Repeat("x", 8192), 20480: "y"}},
		"last":   {1<<20 + 2, islands{1<<20 - 1: "end"}},
		"empty":  {1 << 20, nil},
		"short":  {5000, islands{4999: "z"}},
	} {
		writeSparse(t, filepath.Join(dir, name), c.size, c.data)
		sizes[name] = c.size
	}
	return sizes
}

// TestSparseTar reads the four sparse formats that GNU tar writes.
func TestSparseTar(t *testing.T) {
	gnutar := needs.Tool(t, "tar")
	dir := t.TempDir()
	files := sparseFiles(t, dir)
	for _, format := range []string{"gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"} {
		t.Run(format, func(t *testing.T) {
			args := append([]string{"-S", "-C", dir, "-cf", "-"}, strings.Fields("--format="+format)...)
			data, err := exec.Command(gnutar, append(args, "first", "middle", "last", "empty", "short")...).Output()
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > 1<<18 {
				t.Fatalf("tar of %d bytes is not sparse", len(data))
			}
			image := writeImage(t, readTree(t, data))
			if got := fileSize(t, image); got > 64<<10 {
				t.Errorf("image has %d bytes: holes are stored", got)
			}
			got := readBack(t, image)
			for name := range files {
				want, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				if got[name].Data != string(want) {
					t.Errorf("%s: contents differ", name)
				}
			}
		})
	}
}

// TestReadingEnds: a tar of 2 KiB may claim terabytes of holes, and its reader must
// be able to stop.
func TestReadingEnds(t *testing.T) {
	gnutar := needs.Tool(t, "tar")
	dir := t.TempDir()
	writeSparse(t, filepath.Join(dir, "large"), 1<<42, nil)
	data, err := exec.Command(gnutar, "-S", "-C", dir, "-cf", "-", "large").Output()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := (&Reader{Tree: rootfs.New()}).ReadTar(ctx, bytes.NewReader(data), int64(len(data))); !errors.Is(err, context.Canceled) {
		t.Errorf("tar: got error %v, want %v", err, context.Canceled)
	}
	if _, err := (&Reader{Tree: rootfs.New()}).ReadDir(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("directory: got error %v, want %v", err, context.Canceled)
	}
}

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestSparseDirectory keeps the holes of files, as the kernel shows them.
func TestSparseDirectory(t *testing.T) {
	dir := t.TempDir()
	files := sparseFiles(t, dir)
	// So large that its chunks are larger than a block.
	writeSparse(t, filepath.Join(dir, "large"), 1<<40+5, islands{1 << 39: "island", 1 << 40: "end"})
	files["large"] = 1<<40 + 5
	image := writeImage(t, readDir(t, dir))
	if got := fileSize(t, image); got > 40<<20 { // two chunks of 16 MiB and a map of 256 KiB
		t.Errorf("image has %d bytes: holes are stored", got)
	}
	mounted := mount(t, image)
	for name, size := range files {
		got, want := dataExtents(t, filepath.Join(mounted, name), size), dataExtents(t, filepath.Join(dir, name), size)
		if diff := cmp.Diff(want, got); diff != "" && name != "large" {
			t.Errorf("%s: other parts have data: %s", name, diff)
		}
		for _, e := range got {
			if a, b := part(t, filepath.Join(mounted, name), e), part(t, filepath.Join(dir, name), e); !bytes.Equal(a, b) {
				t.Errorf("%s: contents from byte %d on differ", name, e.Start)
			}
		}
		for _, e := range want { // nothing is lost
			if !slices.ContainsFunc(got, func(g rootfs.Extent) bool { return g.Start <= e.Start && g.End >= e.End }) {
				t.Errorf("%s: data from byte %d on is missing", name, e.Start)
			}
		}
	}
}

func dataExtents(t testing.TB, path string, size int64) []rootfs.Extent {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() != size {
		t.Fatalf("%s has %d bytes (%v), want %d", path, info.Size(), err, size)
	}
	if _, err := f.Seek(0, unix.SEEK_HOLE); errors.Is(err, unix.EINVAL) {
		t.Skip("SKIPPED: this file system knows no holes")
	}
	data, err := dataOf(f, size)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func part(t testing.TB, path string, e rootfs.Extent) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, e.End-e.Start)
	if _, err := f.ReadAt(b, e.Start); err != nil {
		t.Fatal(err)
	}
	return b
}
