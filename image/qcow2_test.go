package image

import (
	"bytes"
	"errors"
	"io"
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

// TestContents reads the disk in a qcow2, and refuses one with any other bit in
// its header or tables, or that is cut off.
func TestContents(t *testing.T) {
	source := tarSource(t, smallTar(t))
	raw, packed := mustBuild(t, source, Options{}), mustBuild(t, source, Options{Format: QCOW2})
	file, want := read(t, packed.Disk), read(t, raw.Disk)
	disk, size, err := Contents(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(io.NewSectionReader(disk, 0, size)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got another disk than the raw one, of %d bytes (%v), want %d", len(got), err, len(want))
	}
	if _, size, err := Contents(bytes.NewReader(want), int64(len(want))); err != nil || size != int64(len(want)) {
		t.Errorf("got %d bytes of the raw disk (%v), want %d", size, err, len(want))
	}
	l := layQCOW2(uint64(len(want)))
	offsets := []uint64{l.tableAt * qcowCluster, l.l1At * qcowCluster, l.l2At * qcowCluster, l.l2At*qcowCluster + 8*l.data - 1}
	for at := range uint64(qcowHeaderSize) {
		offsets = append(offsets, at)
	}
	for _, at := range offsets {
		if at < uint64(len(qcowMagic)) || at == qcowSizeAt+6 || at == qcowSizeAt+7 {
			continue // no qcow2 then, or a disk that ends elsewhere in its last cluster
		}
		for _, bit := range []byte{1, 0x80} {
			file[at] ^= bit
			if _, _, err := Contents(bytes.NewReader(file), int64(len(file))); !errors.Is(err, errForeignQCOW2) {
				t.Errorf("bit %#x of byte %d: got error %v, want %v", bit, at, err, errForeignQCOW2)
			}
			file[at] ^= bit
		}
	}
	if _, _, err := Contents(bytes.NewReader(file), int64(len(file)-1)); !errors.Is(err, errForeignQCOW2) {
		t.Errorf("cut off: got error %v, want %v", err, errForeignQCOW2)
	}
}
