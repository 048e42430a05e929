// Package acpitest gives a VM ACPI tables as a malicious host would.
package acpitest

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/gate/tables"
	"github.com/rootvouch/rootvouch/internal/needs"
)

var le = binary.LittleEndian

// Host holds the tables of a host. The firmware passes them on like QEMU's own
// tables.
type Host struct {
	FADT, FACS, DSDT []byte
	Others           [][]byte // the XSDT's further tables, besides the FADT
}

// Q35 returns the tables of a q35 with vcpus processors: the gate's own tables,
// with memory windows for everything that the firmware may place there. An attack
// edits them.
func Q35(vcpus int) *Host {
	h := &Host{}
	for name, table := range Gated(vcpus) {
		switch name {
		case "FACP":
			h.FADT = table
		case "FACS":
			h.FACS = table
		case "DSDT":
			h.DSDT = table
		default:
			h.Others = append(h.Others, table)
		}
	}
	return h
}

// Gated returns the tables that a kernel shows behind the gate, by name.
func Gated(vcpus int) map[string][]byte {
	const address = 0x3d9fb000
	t := tables.New()
	b := append([]byte(nil), t.Bytes...)
	for _, at := range t.Pointers {
		le.PutUint64(b[at:], le.Uint64(b[at:])+address)
	}
	for i, w := range [][2]uint64{{tables.WindowMinimum, tables.ECAM}, {0xc000000000, 0x10000000000}} {
		d := b[t.Windows[i]:]
		le.PutUint64(d[14:], w[0])
		le.PutUint64(d[22:], w[1]-1)
		le.PutUint64(d[38:], w[1]-w[0])
	}
	for i := range vcpus {
		b = append(b, 0, 8, byte(i), byte(i), 1, 0, 0, 0)
	}
	le.PutUint32(b[t.MADT+4:], uint32(len(b))-uint32(t.MADT))
	t.Bytes = b
	all := map[string][]byte{}
	for _, table := range t.Tables() {
		if !slices.Contains(tables.Names(), table.Name) {
			continue
		}
		if table.Name != "FACS" {
			var sum byte
			for _, c := range table.Bytes {
				sum += c
			}
			table.Bytes[9] -= sum
		}
		all[table.Name] = table.Bytes
	}
	return all
}

// WriteByFADT declares memory at address as a block of event registers. The kernel
// then writes length/2 bytes ff there, followed by length/2 bytes 00. No bytecode
// runs.
func (h *Host) WriteByFADT(address uint64, length byte) {
	h.FADT[93], h.FADT[94] = length, 0x80 // GPE1_BLK_LEN and GPE1_BASE
	copy(h.FADT[232:244], []byte{0, length * 8, 0, 0})
	le.PutUint64(h.FADT[236:], address)
}

// Table returns a table of the host's with a body.
func Table(name string, body []byte) []byte {
	table := append([]byte(name+"\x00\x00\x00\x00\x01\x00HOST  HOST    \x01\x00\x00\x00HOST\x01\x00\x00\x00"), body...)
	le.PutUint32(table[4:], uint32(len(table)))
	return table
}

// Longer returns a table with more bytes at its end.
func Longer(table, more []byte) []byte {
	table = append(slices.Clone(table), more...)
	le.PutUint32(table[4:], uint32(len(table)))
	return table
}

// Args returns the arguments with which QEMU gives these tables to the firmware
// instead of its own.
func (h *Host) Args(t testing.TB) []string {
	t.Helper()
	const tablesFile, rsdpFile = "etc/acpi/tables", "etc/acpi/rsdp"
	var blob, loader []byte
	command := func(kind uint32, parts ...any) {
		c := le.AppendUint32(nil, kind)
		for _, p := range parts {
			switch p := p.(type) {
			case string:
				c = append(c, append([]byte(p), make([]byte, 56-len(p))...)...)
			case int:
				c = le.AppendUint32(c, uint32(p))
			case byte:
				c = append(c, p)
			}
		}
		loader = append(loader, append(c, make([]byte, 128-len(c))...)...)
	}
	add := func(table []byte) int {
		blob = append(blob, make([]byte, -len(blob)&63)...)
		blob = append(blob, table...)
		return len(blob) - len(table)
	}
	command(1, rsdpFile, 16, byte(2))
	command(1, tablesFile, 64, byte(1))
	point := func(file string, at, size int) { command(2, file, tablesFile, at, byte(size)) }
	sum := func(file string, place, start, length int) { command(3, file, place, start, length) }

	facs, dsdt := add(h.FACS), add(h.DSDT)
	blob[dsdt+9] = 0
	sum(tablesFile, dsdt+9, dsdt, len(h.DSDT))
	fadt := add(h.FADT)
	le.PutUint32(blob[fadt+36:], uint32(facs))
	le.PutUint32(blob[fadt+40:], uint32(dsdt))
	le.PutUint64(blob[fadt+132:], 0)
	le.PutUint64(blob[fadt+140:], uint64(dsdt))
	point(tablesFile, fadt+36, 4)
	point(tablesFile, fadt+40, 4)
	point(tablesFile, fadt+140, 8)
	blob[fadt+9] = 0
	sum(tablesFile, fadt+9, fadt, len(h.FADT))

	list := []int{fadt}
	for _, table := range h.Others {
		at := add(table)
		blob[at+9] = 0
		sum(tablesFile, at+9, at, len(table))
		list = append(list, at)
	}
	xsdtSize := 36 + 8*len(list)
	header := make([]byte, xsdtSize)
	copy(header, "XSDT")
	le.PutUint32(header[4:], uint32(xsdtSize))
	header[8] = 1
	copy(header[10:], "HOST  HOST    ")
	xsdt := add(header)
	for i, at := range list {
		le.PutUint64(blob[xsdt+36+8*i:], uint64(at))
		point(tablesFile, xsdt+36+8*i, 8)
	}
	sum(tablesFile, xsdt+9, xsdt, xsdtSize)

	rsdp := make([]byte, 36)
	copy(rsdp, "RSD PTR \x00HOST  \x02")
	le.PutUint32(rsdp[20:], 36)
	le.PutUint64(rsdp[24:], uint64(xsdt))
	point(rsdpFile, 24, 8)
	sum(rsdpFile, 8, 0, 20)
	sum(rsdpFile, 32, 0, 36)
	blob = append(blob, make([]byte, -len(blob)&4095)...)

	dir := t.TempDir()
	args := []string{"-machine", "acpi=off"}
	for _, f := range []struct {
		name string
		data []byte
	}{{tablesFile, blob}, {rsdpFile, rsdp}, {"etc/table-loader", loader}} {
		path := filepath.Join(dir, filepath.Base(f.name))
		if err := os.WriteFile(path, f.data, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-fw_cfg", "name="+f.name+",file="+path)
	}
	return args
}

// Compile makes AML of ASL source with the reference compiler, and returns the
// table. Each name of the map is replaced by its number.
func Compile(t testing.TB, source string, numbers map[string]uint64) []byte {
	t.Helper()
	iasl := needs.Tool(t, "iasl")
	for name, n := range numbers {
		source = strings.ReplaceAll(source, name, fmt.Sprintf("%#x", n))
	}
	base := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(base+".asl", []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(iasl, "-p", base, base+".asl").CombinedOutput(); err != nil {
		t.Fatalf("compiling ASL: %v\n%s", err, out)
	}
	data, err := os.ReadFile(base + ".aml")
	if err != nil {
		t.Fatal(err)
	}
	return data
}
