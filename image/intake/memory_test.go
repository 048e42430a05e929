package intake

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/rootvouch/rootvouch/image/rootfs"
)

// TestMemory: a tree takes at most the memory that it states. Writing the tree allocates
// little for each name.
func TestMemory(t *testing.T) {
	const names = 50_000
	data := func() []byte { // the entries are garbage afterwards
		entries := make([]entry, names)
		for i := range entries {
			entries[i] = fileOf(fmt.Sprintf("d%02d/some-file-name-%07d", i/1000, i), "")
		}
		return makeTar(t, entries...)
	}()
	stats := func() (s runtime.MemStats) {
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s
	}
	before := stats()
	tree := rootfs.New()
	if err := (&Reader{Tree: tree}).ReadTar(context.Background(), bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	said := tree.Memory()
	read := stats()
	if took := int64(read.HeapAlloc - before.HeapAlloc); took > said+said/10 {
		t.Errorf("the tree takes %d bytes, and says %d", took, said)
	}
	plan, err := tree.Plan()
	if err != nil {
		t.Fatal(err)
	}
	planned := stats()
	if took := int64(planned.HeapAlloc) - int64(before.HeapAlloc); took > said+said/10 {
		t.Errorf("the plan takes %d bytes, the tree said %d", took, said)
	}
	if _, err := plan.WriteTo(io.Discard); err != nil {
		t.Fatal(err)
	}
	const most = 256 // bytes
	if garbage := (stats().TotalAlloc - planned.TotalAlloc) / names; garbage > most {
		t.Errorf("writing allocates %d bytes for each name, want at most %d", garbage, most)
	}
	runtime.KeepAlive(plan)
	runtime.KeepAlive(data)
}
