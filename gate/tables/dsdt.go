package tables

import (
	"bytes"

	"github.com/rootvouch/rootvouch/gate/aml"
)

// dsdtTable returns the differentiated system description table, revision 2, whose
// integers have 64 bits. It holds the values for power-off, and one PCI root
// bridge.
func dsdtTable() []byte {
	zero := aml.Integer(0)
	return header("DSDT", 2, aml.TermList(
		// SLP_TYP of power-off for PM1a and PM1b.
		aml.Name(`\_S5_`, aml.Package(zero, zero, zero, zero)),
		aml.Scope(`\_SB_`,
			aml.Device("PCI0",
				aml.Name("_HID", aml.EISAID("PNP0A08")), // PCI Express root bridge
				aml.Name("_CID", aml.EISAID("PNP0A03")), // PCI root bridge
				aml.Name("_UID", zero),
				aml.Name("_SEG", zero),
				aml.Name("_BBN", zero),
				aml.Name("_CRS", aml.Buffer(bridgeResources())),
				aml.Name("_PRT", interruptRoutes()),
			),
		),
	))
}

// windowSlots is the number of memory windows that the root bridge can have. The
// firmware reports at most four kinds: below and above 4 GiB, prefetchable and not.
const windowSlots = 4

// Resource descriptors (6.4.2, 6.4.3).
const (
	memoryDescriptorSize = 46
	memoryMinimumAt      = 14
	memoryMaximumAt      = 22
	memoryLengthAt       = 38

	producerFixed  = 0x0c // minimum and maximum are fixed
	rangeMemory    = 0
	rangeIO        = 1
	rangeBus       = 2
	entireIORange  = 3
	readWrite      = 1
	tagFixedPort   = 0x47
	tagWordRange   = 0x88
	tagQWordRange  = 0x8a
	configPorts    = 0xcf8
	configPortsEnd = 0xd00
)

// bridgeResources returns _CRS: bus numbers, ports, and the empty memory windows.
func bridgeResources() []byte {
	word := func(kind, flags byte, first, last, length uint16) []byte {
		d := []byte{tagWordRange, 13, 0, kind, producerFixed, flags}
		for _, v := range []uint16{0, first, last, 0, length} {
			d = le.AppendUint16(d, v)
		}
		return d
	}
	r := word(rangeBus, 0, 0, 255, 256)
	r = append(r, tagFixedPort, 1)
	r = le.AppendUint16(r, configPorts)
	r = le.AppendUint16(r, configPorts)
	r = append(r, 1, configPortsEnd-configPorts)
	r = append(r, word(rangeIO, entireIORange, 0, configPorts-1, configPorts)...)
	r = append(r, word(rangeIO, entireIORange, configPortsEnd, 0xffff, 0x10000-configPortsEnd)...)
	for range windowSlots {
		r = append(r, emptyWindow()...)
	}
	return append(r, 0x79, 0) // end; no checksum
}

// emptyWindow returns a memory descriptor of length 0, which the kernel ignores.
func emptyWindow() []byte {
	d := make([]byte, memoryDescriptorSize)
	copy(d, []byte{tagQWordRange, memoryDescriptorSize - 3, 0, rangeMemory, producerFixed, readWrite})
	return d
}

// windowOffsets returns the offsets of the memory descriptors in the DSDT.
func windowOffsets() []uint16 {
	first := bytes.Index(dsdtTable(), emptyWindow())
	var at []uint16
	for i := range windowSlots {
		at = append(at, uint16(first+i*memoryDescriptorSize))
	}
	return at
}

// interruptRoutes returns _PRT: for each device and pin of bus 0, the input of the
// I/O APIC to which the q35 connects it. Devices 0 to 24 share inputs 20 to 23 in
// turns, devices 25 to 31 have inputs 16 to 19.
func interruptRoutes() aml.Data {
	var routes []aml.Data
	for device := range uint64(32) {
		for pin := range uint64(4) {
			input := 20 + (device+pin)&3
			if device >= 25 {
				input = 16 + pin
			}
			routes = append(routes, aml.Package(aml.Integer(device<<16|0xffff), aml.Integer(pin), aml.Integer(0), aml.Integer(input)))
		}
	}
	return aml.Package(routes...)
}
