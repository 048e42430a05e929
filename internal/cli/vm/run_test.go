package vm

import (
	"path/filepath"
	"testing"

	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/initramfs/kmod"
	"github.com/rootvouch/rootvouch/test/initramfstest"
)

// TestNeededMemory: half of the memory holds what is unpacked.
func TestNeededMemory(t *testing.T) {
	var names []string
	for _, p := range initramfs.GuestBinaries() {
		names = append(names, filepath.Base(p))
	}
	bin := initramfstest.GuestBin(t, names...)
	large := initramfstest.Program(2, 1) // ET_EXEC, PT_LOAD
	initramfstest.Files{names[0]: append(large, make([]byte, 16<<20)...)}.WriteTo(t, bin)
	tree, err := kmod.Open([]string{initramfstest.Kernel(t)}, "")
	if err != nil {
		t.Fatal(err)
	}
	base, manifest, err := initramfs.Build(initramfs.Options{Kernel: tree, Modules: initramfs.DefaultModules(), GuestBin: bin})
	if err != nil {
		t.Fatal(err)
	}
	if got := neededMemory(base); got < 2*manifest.UncompressedSize>>20 || got > 2*manifest.UncompressedSize>>20+8 {
		t.Errorf("got %d MiB for %d bytes that are unpacked", got, manifest.UncompressedSize)
	}
	if got := neededMemory([]byte("070701")); got != 0 {
		t.Errorf("another program's initramfs: got %d MiB, want 0", got)
	}
}
