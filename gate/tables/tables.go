// Package tables holds the ACPI tables with which the gate replaces the host's.
//
// Every byte is a constant, except for values that only the running machine has:
// the addresses of the tables, the memory windows of the PCI root bridge and the
// list of processors. docs/spec/gate.md lists each field with its reason.
package tables

import (
	"encoding/binary"
)

// Identity of every table. The kernel shows it in its log.
const (
	oemID      = "ROOTV "
	oemTableID = "GATE    "
	creatorID  = "RVG1"
)

// Addresses of the q35 machine as the AmdSev firmware sets it up.
const (
	localAPIC    = 0xfee00000
	ioAPIC       = 0xfec00000
	hpet         = 0xfed00000
	hpetID       = 0x8086a201 // of the timer block, as QEMU's
	resetPort    = 0xcf9
	sciInterrupt = 9

	// PowerPorts is PMBASE of the ICH9.
	PowerPorts = 0x600
	// ECAM is the address of PCI configuration space (PcdPciExpressBaseAddress of
	// AmdSevX64.dsc), and ECAMEnd its end.
	ECAM    = 0xe0000000
	ECAMEnd = ECAM + 256<<20
)

// Bounds of a memory window of the PCI root bridge: it begins on a page, below
// 4 GiB between the first two and outside ECAM, or above 4 GiB below the last.
const (
	WindowMinimum = 0x80000000
	WindowLowEnd  = ioAPIC
	FourGiB       = 1 << 32
	WindowMaximum = 1 << 47 // the end of page tables with four levels
)

const (
	headerSize = 36
	rsdpSize   = 36
	alignment  = 64 // of each table; the FACS needs it
	pageSize   = 4096
)

var le = binary.LittleEndian

// Template holds the tables in their order in memory, and the places that the gate
// fills in. Offsets count from the first byte of the RSDP.
type Template struct {
	// Bytes begin with the RSDP and end with the MADT, to which the gate appends
	// the processors.
	Bytes []byte
	// Pointers are fields of 8 bytes that hold an offset. The gate adds the address
	// of the tables.
	Pointers []uint16
	// Windows are the unused memory descriptors of the PCI root bridge.
	Windows []uint16
	// Sums are the checksums that the gate computes.
	Sums []Sum
	// MADT is the offset of the MADT, the last table.
	MADT uint16
}

// Sum is a checksum: Place makes the Length bytes from Start add up to zero. A
// Length of 0 stands for the length in the table's own header.
type Sum struct{ Start, Length, Place uint16 }

// New returns the template.
func New() Template {
	var t Template
	rsdp := t.add(rsdpTable())
	xsdt := t.add(header("XSDT", 1, make([]byte, 4*8)))
	facs := t.add(facsTable())
	mcfg := t.add(mcfgTable())
	timer := t.add(hpetTable())
	fadt := t.add(fadtTable())
	dsdt := t.add(dsdtTable())
	madt := t.add(madtTable())
	t.MADT = madt

	t.point(rsdp+24, xsdt)
	for i, table := range []uint16{fadt, madt, mcfg, timer} {
		t.point(xsdt+headerSize+uint16(8*i), table)
	}
	t.point(fadt+132, facs)
	t.point(fadt+140, dsdt)
	for _, at := range windowOffsets() {
		t.Windows = append(t.Windows, dsdt+at)
	}
	for _, table := range []uint16{xsdt, mcfg, timer, fadt, dsdt, madt} {
		t.Sums = append(t.Sums, Sum{table, 0, table + checksumAt})
	}
	// The long checksum of the RSDP covers the short one.
	t.Sums = append(t.Sums, Sum{rsdp, 20, rsdp + 8}, Sum{rsdp, 36, rsdp + 32})
	return t
}

// add appends a table and returns its offset.
func (t *Template) add(table []byte) uint16 {
	for len(t.Bytes)%alignment != 0 {
		t.Bytes = append(t.Bytes, 0)
	}
	at := len(t.Bytes)
	t.Bytes = append(t.Bytes, table...)
	return uint16(at)
}

// point makes the field at one offset the address of another.
func (t *Template) point(field, to uint16) {
	le.PutUint64(t.Bytes[field:], uint64(to))
	t.Pointers = append(t.Pointers, field)
}

// checksumAt is the checksum's offset in a table's header.
const checksumAt = 9

// header returns body with the header of a system description table (ACPI 6.5,
// table 5.4) before it. The checksum is 0.
func header(signature string, revision byte, body []byte) []byte {
	t := make([]byte, headerSize, headerSize+len(body))
	copy(t, signature)
	le.PutUint32(t[4:], uint32(headerSize+len(body)))
	t[8] = revision
	copy(t[10:], oemID)
	copy(t[16:], oemTableID)
	le.PutUint32(t[24:], 1)
	copy(t[28:], creatorID)
	le.PutUint32(t[32:], 1)
	return append(t, body...)
}

// Table is one table of a template.
type Table struct {
	Name  string
	Bytes []byte
}

// Tables returns the tables of a template in their order, before the gate fills
// them in.
func (t Template) Tables() []Table {
	all := []Table{{"RSDP", t.Bytes[:rsdpSize]}}
	for at := alignment; at < len(t.Bytes); {
		table := t.Bytes[at:][:le.Uint32(t.Bytes[at+4:])]
		all = append(all, Table{string(table[:4]), table})
		at += (len(table) + alignment - 1) &^ (alignment - 1)
	}
	return all
}
