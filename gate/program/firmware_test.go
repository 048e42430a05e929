//go:build amd64 && linux

package program

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/gate/tables"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// rig runs the program under a firmware of the test's own.
type rig struct{ firmware, code, data string }

func newRig(t *testing.T) rig {
	t.Helper()
	dir := t.TempDir()
	r := rig{filepath.Join(dir, "firmware"), filepath.Join(dir, "code"), filepath.Join(dir, "data")}
	build := exec.Command(needs.Tool(t, "gcc"), "-O0", "-fno-omit-frame-pointer", "-o", r.firmware, "testdata/firmware.c")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("compiling the firmware: %v\n%s", err, out)
	}
	for path, data := range map[string][]byte{r.code: Code(), r.data: Data(0x4000, 1234)} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// run returns the program's actions, line by line.
func (r rig) run(t *testing.T, settings ...string) []string {
	t.Helper()
	out, err := exec.Command(r.firmware, append([]string{r.code, r.data}, settings...)...).Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", settings, err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// started checks that the program started the kernel, and returns the tables by
// name and the configuration tables that were left.
func (r rig) started(t *testing.T, settings ...string) (made map[string][]byte, left []string) {
	t.Helper()
	lines := r.run(t, settings...)
	var address uint64
	var memory []byte
	if lines[0] != "kernel at 0x4000, 1234 bytes" || lines[1] != "options d0d0 6060 7070" {
		t.Fatalf("%v: the kernel was not started: %.200q", settings, lines)
	}
	for _, line := range lines[2:] {
		switch word, rest, _ := strings.Cut(line, " "); word {
		case "address":
			fmt.Sscanf(rest, "%x", &address)
		case "tables":
			memory, _ = hex.DecodeString(rest)
		case "configuration":
			left = append(left, rest)
		}
	}
	// The program ends here only because this firmware's StartImage returns.
	if last := lines[len(lines)-2:]; last[0] != "gate: refused: the kernel returned" || last[1] != "reset 2" {
		t.Errorf("the last lines are %q", last)
	}
	return byName(t, address, memory), left
}

// byName finds the tables as a kernel does, from the RSDP on.
func byName(t *testing.T, address uint64, memory []byte) map[string][]byte {
	t.Helper()
	add := func(b []byte) byte {
		var s byte
		for _, c := range b {
			s += c
		}
		return s
	}
	at := func(pointer uint64) []byte {
		if pointer < address || pointer >= address+uint64(len(memory)) {
			t.Fatalf("pointer %#x leads out of the tables at %#x", pointer, address)
		}
		b := memory[pointer-address:]
		return b[:le.Uint32(b[4:])]
	}
	rsdp := memory[:36]
	if string(rsdp[:8]) != "RSD PTR " || add(rsdp[:20]) != 0 || add(rsdp) != 0 || le.Uint32(rsdp[16:]) != 0 {
		t.Fatalf("RSDP is %x", rsdp)
	}
	all := map[string][]byte{}
	xsdt := at(le.Uint64(rsdp[24:]))
	if string(xsdt[:4]) != "XSDT" || len(xsdt) != 36+4*8 || add(xsdt) != 0 {
		t.Fatalf("XSDT is %x", xsdt)
	}
	for i := 36; i < len(xsdt); i += 8 {
		table := at(le.Uint64(xsdt[i:]))
		all[string(table[:4])] = table
	}
	all["FACS"], all["DSDT"] = at(le.Uint64(all["FACP"][132:])), at(le.Uint64(all["FACP"][140:]))
	if len(all) != len(tables.Names()) {
		t.Errorf("there are %d tables, want %d", len(all), len(tables.Names()))
	}
	for name, table := range all {
		if err := tables.Check(name, table); err != nil {
			t.Error(err)
		}
	}
	// The bytes after the last table are zero.
	madt := all["APIC"]
	end := bytes.Index(memory, madt) + len(madt)
	if rest := bytes.Trim(memory[end:], "\x00"); len(rest) > 0 {
		t.Errorf("%d bytes follow the tables", len(rest))
	}
	return all
}

func TestProgramStarts(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		settings []string
		windows  [][2]uint64
		cpus     int
	}{
		"two windows": {[]string{"cpus=2", "window=80000000:100000", "window=c000000000:100000"},
			[][2]uint64{{0x80000000, 0x100000}, {0xc000000000, 0x100000}}, 2},
		"no window":                        {[]string{"cpus=1"}, nil, 1},
		"all four":                         {[]string{"cpus=1", "window=80000000:60000000", "window=f0000000:ec00000", "window=100000000:1000", "window=7ffffffff000:1000"}, [][2]uint64{{0x80000000, 0x60000000}, {0xf0000000, 0xec00000}, {1 << 32, 0x1000}, {0x7ffffffff000, 0x1000}}, 1},
		"a length that ends within a page": {[]string{"cpus=1", "window=80000000:10"}, [][2]uint64{{0x80000000, 0x1000}}, 1},
		"ports and buses are not windows":  {[]string{"cpus=1", "window=c000:1000:1", "window=0:100:2", "window=80000000:0"}, nil, 1},
		"sparse IDs":                       {[]string{"cpu=0:7", "cpu=1:6", "cpu=2:6", "cpu=4:2"}, nil, 4},
		"300 processors":                   {[]string{"cpus=300"}, nil, 300},
		"a long ID":                        {[]string{"cpu=0:7", "cpu=4294967294:6"}, nil, 2},
	} {
		t.Run(name, func(t *testing.T) {
			made, left := r.started(t, c.settings...)
			dsdt := made["DSDT"]
			tpl := tables.New()
			first := int(tpl.Windows[0]) - bytes.Index(tpl.Bytes, dsdt[:4])
			for i := range 4 {
				var want [2]uint64
				if i < len(c.windows) {
					want = c.windows[i]
				}
				w := dsdt[first+rdSize*i:]
				if got := [2]uint64{le.Uint64(w[rdFirst:]), le.Uint64(w[rdLength:])}; got != want {
					t.Errorf("window %d is %x, want %x", i, got, want)
				}
			}
			if n := countProcessors(made["APIC"]); n != c.cpus {
				t.Errorf("%d processors, want %d", n, c.cpus)
			}
			if len(left) != 1 || !strings.HasSuffix(left[0], " ours") {
				t.Errorf("configuration tables are %q, want ours", left)
			}
		})
	}
}

func countProcessors(madt []byte) (n int) {
	for at := 44; at < len(madt); at += int(madt[at+1]) {
		if madt[at] == 0 || madt[at] == 9 {
			n++
		}
	}
	return n
}

func TestProgramRefuses(t *testing.T) {
	r := newRig(t)
	good := []string{"cpus=2", "window=80000000:100000"}
	for setting, want := range map[string]string{
		"fail=AllocatePages":                messages[sMemory],
		"fail=HandleProtocol":               messages[sMemory],
		"bridges=2":                         messages[sBridge],
		"bridges=0":                         messages[sBridge],
		"fail=LocateHandle":                 messages[sBridge],
		"fail=HandleProtocol:2":             messages[sBridge],
		"register=0:12378086":               messages[sMachine],
		"register=60:b0000001":              messages[sMachine],
		"register=64:1":                     messages[sMachine],
		"register=1f0000:70008086":          messages[sMachine],
		"register=1f0040:b001":              messages[sMachine],
		"fail=PciRead:3":                    messages[sMachine],
		"fail=Configuration":                messages[sWindows],
		"window=7ffff000:2000":              messages[sWindows],
		"window=0:1000":                     messages[sWindows],
		"window=dffff000:2000":              messages[sWindows],
		"window=e0000000:10000000":          messages[sWindows],
		"window=efff0000:20000":             messages[sWindows],
		"window=fec00000:1000":              messages[sWindows],
		"window=febff000:1001":              messages[sWindows],
		"window=fffff000:2000":              messages[sWindows],
		"window=7ffffffff000:1001":          messages[sWindows],
		"window=800000000000:1000":          messages[sWindows],
		"window=80000800:800":               messages[sWindows],
		"window=100000000:ffffffffffffffff": messages[sWindows],
		"window=100000000:fffffffeffffffff": messages[sWindows],
		"fail=LocateProtocol":               messages[sProcessors],
		"fail=GetNumberOfProcessors":        messages[sProcessors],
		"fail=GetProcessorInfo:2":           messages[sProcessors],
		"cpu=2:4":                           messages[sProcessors],
		"cpus=4096":                         messages[sProcessors],
		"fail=InstallConfigurationTable":    messages[sConfiguration],
		"fail=LoadImage":                    messages[sKernel],
		"fail=HandleProtocol:3":             messages[sKernel],
		"fail=StartImage":                   messages[sReturned],
	} {
		lines := r.run(t, append(good, setting)...)
		if n := len(lines); lines[n-1] != "reset 2" || n < 2 || lines[n-2] != "gate: refused: "+want {
			t.Errorf("%s: got %.100q, want %q and power off", setting, lines, want)
		}
	}
	t.Run("a fifth window", func(t *testing.T) {
		lines := r.run(t, "cpus=1", "window=80000000:1000", "window=90000000:1000", "window=a0000000:1000", "window=b0000000:1000", "window=c0000000:1000")
		if lines[0] != "gate: refused: "+messages[sWindows] {
			t.Errorf("got %q", lines)
		}
	})
	t.Run("another descriptor", func(t *testing.T) {
		if lines := r.run(t, "cpus=1", "tag=88", "window=80000000:1000"); lines[0] != "gate: refused: "+messages[sWindows] {
			t.Errorf("got %q", lines)
		}
	})
	t.Run("no console", func(t *testing.T) {
		if lines := r.run(t, "console=none", "bridges=2"); len(lines) != 1 || lines[0] != "reset 2" {
			t.Errorf("got %q, want power off in silence", lines)
		}
	})
}

// Only the configuration tables on the list stay, in any order.
func TestProgramConfiguration(t *testing.T) {
	r := newRig(t)
	for _, c := range [][]string{
		nil,
		{"table=1"},
		{"table=1", "table=2", "table=3"},
		{"keep=0", "table=1", "keep=3", "table=2", "table=3", "keep=1", "keep=2"},
		{"table=1", "keep=2"},
	} {
		_, left := r.started(t, append([]string{"cpus=1"}, c...)...)
		var want []string
		for _, s := range c {
			var n int
			if _, err := fmt.Sscanf(s, "keep=%d", &n); err == nil {
				g := make([]byte, 16)
				kept[n].put(g)
				want = append(want, hex.EncodeToString(g))
			}
		}
		if len(left) != len(want)+1 || strings.Join(left[:len(want)], " ") != strings.Join(want, " ") || !strings.HasSuffix(left[len(want)], " ours") {
			t.Errorf("%v: left are %q, want %q and ours", c, left, want)
		}
	}
}
