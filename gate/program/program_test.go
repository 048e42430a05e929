//go:build amd64

package program

import (
	"bytes"
	"flag"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

var update = flag.Bool("update", false, "write program.bin anew")

// pinned is the toolchain that makes program.bin. Another toolchain may encode the
// same instructions differently.
const pinned = "go1.26"

// TestAssembly compares the committed bytes with the toolchain's output for the
// source.
func TestAssembly(t *testing.T) {
	if v := runtime.Version(); v != pinned && !strings.HasPrefix(v, pinned+".") {
		t.Skipf("SKIPPED: toolchain is %s; program.bin is what %s assembles", v, pinned)
	}
	const most = DataAt - CodeAt
	got, _, found := bytes.Cut(unsafe.Slice(assembled(), most+8), []byte("GATE-END"))
	if !found {
		t.Fatalf("the program has no end within %d bytes", most)
	}
	if *update {
		if err := os.WriteFile("program.bin", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("program.bin")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("program.bin is not what program_amd64.s assembles to: %d bytes, want %d (go test ./gate/program -update)", len(want), len(got))
	}
}
