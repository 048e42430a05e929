package initramfs

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/initramfs/cpio"
)

// testArchive returns the archive of a complete base.
func testArchive(t *testing.T, text string) []byte {
	t.Helper()
	entries := skeleton()
	for _, name := range append(GuestBinaries(), bootconfig.ModulesPath) {
		entries = append(entries, file(name, 0o755, []byte(text)))
	}
	slices.SortFunc(entries, func(a, b cpio.Entry) int { return cmp.Compare(a.Name, b.Name) })
	archive, err := encode(entries)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// A cache gives the same result as compression, whatever it contains, and its size
// is bounded.
func TestCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	archive := testArchive(t, "one")
	want, err := compress(archive)
	if err != nil {
		t.Fatal(err)
	}
	get := func() {
		t.Helper()
		if got, err := compressCached(dir, archive); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, error %v, want %d bytes", len(got), err, len(want))
		}
	}
	get()
	get()
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("cache has %v, error %v", paths, err)
	}
	other, err := compress(testArchive(t, "two"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"another base": other, "half": want[:len(want)/2], "nothing": nil} {
		if err := os.WriteFile(paths[0], data, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		get()
	}
	for i := range 2 * cached {
		if _, err := compressCached(dir, testArchive(t, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if paths, err = filepath.Glob(filepath.Join(dir, "*")); err != nil || len(paths) != cached {
		t.Errorf("cache has %d files, error %v, want %d", len(paths), err, cached)
	}
}
