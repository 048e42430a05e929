package tables

import (
	"bytes"
	"fmt"
	"slices"
)

// Names returns the names of the tables that a kernel behind the gate shows in
// /sys/firmware/acpi/tables. The kernel does not show RSDP and XSDT.
func Names() []string { return []string{"APIC", "DSDT", "FACP", "FACS", "HPET", "MCFG"} }

// Check compares a table, as the kernel shows it, with the template. Constants must
// be equal. Fields that the gate fills in must have values that the gate can write.
func Check(name string, got []byte) error {
	if !slices.Contains(Names(), name) {
		return fmt.Errorf("table %q is not one of the gate's", name)
	}
	t := New()
	at := t.find(name)
	want := t.Bytes[at:]
	if name != "APIC" {
		want = want[:le.Uint32(want[4:])]
	}
	if len(got) < len(want) {
		return fmt.Errorf("table %s has %d bytes, want %d", name, len(got), len(want))
	}
	if name != "APIC" && len(got) > len(want) {
		return fmt.Errorf("table %s has %d bytes, want %d", name, len(got), len(want))
	}
	// blank is a copy of the table in which the fields that the gate filled in are
	// zero again.
	blank := slices.Clone(got[:len(want)])
	var err error
	switch name {
	case "APIC":
		err = checkProcessors(got, len(want))
		copy(blank[4:8], want[4:8])
	case "DSDT":
		err = checkWindows(blank)
	case "FACP":
		err = t.checkPointers(blank, at)
	}
	if err != nil {
		return fmt.Errorf("table %s: %w", name, err)
	}
	if name != "FACS" {
		blank[checksumAt] = 0
		if s := sum(got); s != 0 {
			return fmt.Errorf("table %s: its bytes add up to %#02x, want 0", name, s)
		}
	}
	for i := range want {
		if blank[i] != want[i] {
			return fmt.Errorf("table %s: byte %d is %#02x, want %#02x", name, i, got[i], want[i])
		}
	}
	return nil
}

// find returns the offset of the table with this name.
func (t Template) find(name string) uint16 {
	at := bytes.Index(t.Bytes, []byte(name))
	if at < 0 || at%alignment != 0 {
		panic("tables: internal error: no table " + name)
	}
	return uint16(at)
}

func sum(b []byte) (s byte) {
	for _, c := range b {
		s += c
	}
	return s
}

// checkPointers checks that the addresses in a FADT point into one template, which
// begins on a page below 4 GiB. It replaces the addresses by the template's
// offsets.
func (t Template) checkPointers(fadt []byte, at uint16) error {
	for _, field := range t.Pointers {
		if field < at || int(field) >= int(at)+len(fadt) {
			continue
		}
		here := fadt[field-at:]
		offset := le.Uint64(t.Bytes[field:])
		base := le.Uint64(here) - offset
		if base == 0 || base%pageSize != 0 || base >= FourGiB {
			return fmt.Errorf("address at byte %d is %#x, want %#x bytes behind a page below 4 GiB", field-at, le.Uint64(here), offset)
		}
		le.PutUint64(here, offset)
	}
	return nil
}

// checkWindows checks the memory windows of a DSDT and sets them to zero.
func checkWindows(dsdt []byte) error {
	unused := false
	for _, at := range windowOffsets() {
		w := dsdt[at:]
		first, last, length := le.Uint64(w[memoryMinimumAt:]), le.Uint64(w[memoryMaximumAt:]), le.Uint64(w[memoryLengthAt:])
		if length == 0 && first == 0 && last == 0 {
			unused = true
			continue
		}
		if unused {
			return fmt.Errorf("memory window %#x-%#x follows an unused one", first, last)
		}
		if last != first+length-1 || !inBounds(first, first+length) {
			return fmt.Errorf("memory window %#x-%#x of %#x bytes is out of bounds", first, last, length)
		}
		for _, field := range []int{memoryMinimumAt, memoryMaximumAt, memoryLengthAt} {
			le.PutUint64(w[field:], 0)
		}
	}
	return nil
}

// inBounds reports whether a window may have this first byte and this end. The
// assembly uses the same rule.
func inBounds(first, end uint64) bool {
	switch {
	case end <= first || first%pageSize != 0 || end%pageSize != 0:
		return false
	case first >= FourGiB:
		return end <= WindowMaximum
	}
	return first >= WindowMinimum && end <= WindowLowEnd && (end <= ECAM || first >= ECAMEnd)
}

// Entries of the MADT (5.2.12): a processor with a short and a long APIC ID.
const (
	lapicType, lapicSize   = 0, 8
	x2apicType, x2apicSize = 9, 16
	enabled                = 1
	shortIDs               = 255
)

// checkProcessors checks that only processors follow the MADT's own entries. They
// must be numbered from 0 and have distinct APIC IDs.
func checkProcessors(madt []byte, at int) error {
	if n := le.Uint32(madt[4:]); int64(n) != int64(len(madt)) {
		return fmt.Errorf("its length is %d, want %d", n, len(madt))
	}
	seen := map[uint32]bool{}
	for n := uint32(0); at < len(madt); n++ {
		e := madt[at:]
		var id, number, flags uint32
		switch {
		case len(e) >= lapicSize && e[0] == lapicType && e[1] == lapicSize:
			number, id, flags = uint32(e[2]), uint32(e[3]), le.Uint32(e[4:])
			at += lapicSize
		case len(e) >= x2apicSize && e[0] == x2apicType && e[1] == x2apicSize && e[2] == 0 && e[3] == 0:
			id, flags, number = le.Uint32(e[4:]), le.Uint32(e[8:]), le.Uint32(e[12:])
			if id < shortIDs && number < shortIDs {
				return fmt.Errorf("processor %d has APIC ID %d in the long form", number, id)
			}
			at += x2apicSize
		default:
			return fmt.Errorf("byte %d begins no entry of a processor", at)
		}
		if number != n || flags != enabled || seen[id] {
			return fmt.Errorf("entry %d is processor %d with APIC ID %d and flags %#x, want the next one, enabled, with an ID of its own", n, number, id, flags)
		}
		seen[id] = true
	}
	if len(seen) == 0 {
		return fmt.Errorf("it has no processor")
	}
	return nil
}
