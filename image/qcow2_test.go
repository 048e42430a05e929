package image

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// TestInteropQCOW2 lets qemu-img check the file and turn it into the raw disk.
func TestInteropQCOW2(t *testing.T) {
	needs.Tool(t, "qemu-img")
	source := tarSource(t, smallTar(t))
	for _, size := range []uint64{0, 600 << 20} { // the larger needs two L2 tables
		raw := mustBuild(t, source, Options{Size: size})
		packed := mustBuild(t, source, Options{Size: size, Format: QCOW2})
		run(t, "qemu-img", "check", "-f", "qcow2", packed.Disk)
		if raw.pins.RootHash != packed.pins.RootHash || raw.pins.HeaderSHA256 != packed.pins.HeaderSHA256 {
			t.Error("the formats have different pins")
		}
		if size > 0 {
			run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw.Disk, packed.Disk)
			continue
		}
		back := filepath.Join(t.TempDir(), "raw")
		run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", packed.Disk, back)
		if !bytes.Equal(read(t, back), read(t, raw.Disk)) {
			t.Error("the qcow2 has another disk than the raw file")
		}
	}
	if _, err := ParseFormat("vmdk"); err == nil {
		t.Error("got no error for vmdk")
	}
}
