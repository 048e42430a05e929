package tables

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// filled returns the template at an address as the gate fills it in.
func filled(t *testing.T, address uint64, windows [][2]uint64, processors ...[]byte) map[string][]byte {
	t.Helper()
	tpl := New()
	b := slices.Clone(tpl.Bytes)
	for _, p := range tpl.Pointers {
		le.PutUint64(b[p:], le.Uint64(b[p:])+address)
	}
	for i, w := range windows {
		d := b[tpl.Windows[i]:]
		le.PutUint64(d[memoryMinimumAt:], w[0])
		le.PutUint64(d[memoryMaximumAt:], w[1]-1)
		le.PutUint64(d[memoryLengthAt:], w[1]-w[0])
	}
	for _, p := range processors {
		b = append(b, p...)
	}
	le.PutUint32(b[tpl.MADT+4:], uint32(len(b))-uint32(tpl.MADT))
	for _, s := range tpl.Sums {
		n := uint32(s.Length)
		if n == 0 {
			n = le.Uint32(b[s.Start+4:])
		}
		b[s.Place] = -sum(b[s.Start:][:n])
	}
	all := map[string][]byte{}
	for _, name := range append(Names(), "XSDT") {
		table := b[tpl.find(name):]
		all[name] = table[:le.Uint32(table[4:])]
	}
	all["RSDP"] = b[:36]
	return all
}

func lapic(number, id byte) []byte { return []byte{0, 8, number, id, 1, 0, 0, 0} }

func x2apic(number, id uint32) []byte {
	e := le.AppendUint32([]byte{9, 16, 0, 0}, id)
	return le.AppendUint32(le.AppendUint32(e, 1), number)
}

var twoWindows = [][2]uint64{{0x80000000, 0x80100000}, {0xc000000000, 0xc000100000}}

func TestCheck(t *testing.T) {
	var many [][]byte
	for i := range 255 {
		many = append(many, lapic(byte(i), byte(i)))
	}
	many = append(many, x2apic(255, 255), x2apic(256, 256))
	for name, processors := range map[string][][]byte{
		"one": {lapic(0, 0)}, "sparse": {lapic(0, 0), lapic(1, 1), lapic(2, 4), x2apic(3, 300)}, "many": many,
	} {
		for table, data := range filled(t, 0x3d9fb000, twoWindows, processors...) {
			if table == "RSDP" || table == "XSDT" {
				continue
			}
			if err := Check(table, data); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestCheckRefuses changes every byte of every table.
func TestCheckRefuses(t *testing.T) {
	good := filled(t, 0x3d9fb000, twoWindows, lapic(0, 0), lapic(1, 2))
	for _, name := range Names() {
		data := good[name]
		for i := range data {
			for _, bit := range []int{i % 8, (i + 5) % 8} {
				data[i] ^= 1 << bit
				err := Check(name, data)
				if err == nil {
					t.Errorf("%s: bit %d of byte %d may change", name, bit, i)
				}
				// The same with a right checksum. Fields that the gate fills in may
				// then have other values.
				if name != "FACS" && i != checksumAt && len(data) == int(le.Uint32(data[4:])) {
					old := data[checksumAt]
					data[checksumAt] -= sum(data)
					if err := Check(name, data); err == nil && !isFilled(name, i) {
						t.Errorf("%s: bit %d of byte %d may change with the checksum", name, bit, i)
					}
					data[checksumAt] = old
				}
				data[i] ^= 1 << bit
			}
		}
		for _, other := range [][]byte{nil, data[:len(data)-1], append(slices.Clone(data), 0), data[:10]} {
			if err := Check(name, other); err == nil {
				t.Errorf("%s with %d bytes was accepted, want %d", name, len(other), len(data))
			}
		}
	}
	if err := Check("SSDT", good["DSDT"]); err == nil {
		t.Error("a table of another name was accepted")
	}
}

// isFilled reports whether the gate fills in that byte of a table.
func isFilled(name string, i int) bool {
	tpl := New()
	at := tpl.find(name)
	switch name {
	case "APIC":
		return i >= len(tpl.Bytes)-int(at) // a processor's APIC ID
	case "DSDT":
		for _, w := range windowOffsets() {
			if i >= int(w)+memoryMinimumAt && i < int(w)+memoryDescriptorSize {
				return true
			}
		}
	case "FACP":
		return i >= 132 && i < 148
	}
	return false
}

func TestCheckFilled(t *testing.T) {
	for name, tables := range map[string]map[string][]byte{
		"window below 2 GiB":          filled(t, 0x1000, [][2]uint64{{0x7ffff000, 0x80001000}}, lapic(0, 0)),
		"window over ECAM":            filled(t, 0x1000, [][2]uint64{{0xdffff000, 0xe0001000}}, lapic(0, 0)),
		"window in ECAM":              filled(t, 0x1000, [][2]uint64{{0xe0000000, 0xf0000000}}, lapic(0, 0)),
		"window over the I/O APIC":    filled(t, 0x1000, [][2]uint64{{0xfebff000, 0xfec01000}}, lapic(0, 0)),
		"window over 4 GiB":           filled(t, 0x1000, [][2]uint64{{0xfffff000, 0x100001000}}, lapic(0, 0)),
		"window too high":             filled(t, 0x1000, [][2]uint64{{0x7ffffffff000, 0x800000001000}}, lapic(0, 0)),
		"window that begins nowhere":  filled(t, 0x1000, [][2]uint64{{0x80000800, 0x80001800}}, lapic(0, 0)),
		"window behind an unused one": filled(t, 0x1000, [][2]uint64{{0, 1}, {0x80000000, 0x80001000}}, lapic(0, 0)),
		"no processor":                filled(t, 0x1000, nil),
		"two of one APIC ID":          filled(t, 0x1000, nil, lapic(0, 3), lapic(1, 3)),
		"a number left out":           filled(t, 0x1000, nil, lapic(0, 0), lapic(2, 1)),
		"a short ID in the long form": filled(t, 0x1000, nil, lapic(0, 0), x2apic(1, 1)),
		"a wake-up mailbox":           filled(t, 0x1000, nil, lapic(0, 0), []byte{16, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}),
		"tables at address 0":         filled(t, 0, nil, lapic(0, 0)),
		"tables above 4 GiB":          filled(t, 1<<32, nil, lapic(0, 0)),
		"tables not on a page":        filled(t, 0x1040, nil, lapic(0, 0)),
	} {
		found := false
		for _, table := range Names() {
			found = found || Check(table, tables[table]) != nil
		}
		if !found {
			t.Errorf("%s was accepted", name)
		}
	}
}

// TestIASL reads every table with the reference compiler of ACPI.
func TestIASL(t *testing.T) {
	iasl := needs.Tool(t, "iasl")
	dir := t.TempDir()
	// All four windows are used, because the compiler reports an empty descriptor
	// as an error. The kernel ignores it.
	windows := append(slices.Clone(twoWindows), [2]uint64{0xf0000000, 0xfec00000}, [2]uint64{1 << 32, 1 << 40})
	made := filled(t, 0x3d9fb000, windows, lapic(0, 0), lapic(1, 1))
	for name, data := range made {
		if name == "RSDP" {
			continue // iasl takes system description tables only
		}
		path := filepath.Join(dir, name+".dat")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(iasl, "-d", path).CombinedOutput()
		if err != nil || strings.Contains(string(out), "Error") || strings.Contains(string(out), "Warning") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		text, err := os.ReadFile(strings.TrimSuffix(path, ".dat") + ".dsl")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("Invalid")) || bytes.Contains(text, []byte("Unknown")) || bytes.Contains(text, []byte("ERROR")) {
			t.Errorf("%s: iasl says\n%s", name, text)
		}
	}
	// From its reading of the DSDT the compiler makes the same bytes again. So the
	// AML means what the compiler reads, and holds nothing that runs.
	text, err := os.ReadFile(filepath.Join(dir, "DSDT.dsl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, runs := range []string{"Method (", "OperationRegion (", "If (", "While (", "Store ("} {
		if bytes.Contains(text, []byte(runs)) {
			t.Errorf("the DSDT has a %s", runs)
		}
	}
	out, err := exec.Command(iasl, "-on", "-p", filepath.Join(dir, "again"), filepath.Join(dir, "DSDT.dsl")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	again, err := os.ReadFile(filepath.Join(dir, "again.aml"))
	if err != nil {
		t.Fatal(err)
	}
	want := made["DSDT"]
	if len(again) != len(want) || !bytes.Equal(again[headerSize:], want[headerSize:]) {
		t.Errorf("iasl makes %d bytes of what it read, want the same %d", len(again), len(want))
	}
}
