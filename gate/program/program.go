// Package program is the program of the gate without a kernel: its code and its data
// section, as they are in memory.
package program

import (
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"fmt"
	"unicode/utf16"

	"github.com/rootvouch/rootvouch/gate/tables"
	"github.com/rootvouch/rootvouch/pins"
)

// code is the output of the pinned toolchain for program_amd64.s.
//
//go:embed program.bin
var code string

// Code returns the machine code.
func Code() []byte { return []byte(code) }

var le = binary.LittleEndian

// A guid is a GUID in its three numbers and eight bytes, as UEFI stores it.
type guid struct {
	a    uint32
	b, c uint16
	d    [8]byte
}

var (
	loadedImage = guid{0x5b1b31a1, 0x9562, 0x11d2, [8]byte{0x8e, 0x3f, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b}}
	rootBridge  = guid{0x2f707ebb, 0x4a1a, 0x11d4, [8]byte{0x9a, 0x38, 0x00, 0x90, 0x27, 0x3f, 0xc1, 0x4d}}
	mpServices  = guid{0x3fdda605, 0xa76e, 0x4f46, [8]byte{0xad, 0x29, 0x12, 0xf4, 0x53, 0x1b, 0x3d, 0x08}}
	acpi20      = guid{0x8868e871, 0xe4f1, 0x11d3, [8]byte{0xbc, 0x22, 0x00, 0x80, 0xc7, 0x3c, 0x88, 0x81}}
)

// kept are the configuration tables that stay. The firmware makes all of them, and
// none is a copy of the host's data.
var kept = []guid{
	// The table that names an SNP guest's secrets and CPUID pages (AMD 56860).
	{0x067b1f5f, 0xcf26, 0x44c5, [8]byte{0x85, 0x54, 0x93, 0xd7, 0x77, 0x91, 0x2d, 0x42}},
	// EFI_MEMORY_ATTRIBUTES_TABLE and EFI_RT_PROPERTIES_TABLE: about the firmware
	// itself, for kernels that keep its runtime services.
	{0xdcfa911d, 0x26eb, 0x469f, [8]byte{0xa2, 0x20, 0x38, 0xb7, 0xdc, 0x46, 0x12, 0x20}},
	{0xeb66918a, 0x7eef, 0x402a, [8]byte{0x84, 0x2e, 0x93, 0x1d, 0x21, 0xc3, 0x8a, 0xe9}},
	// DXE services, by which the kernel's stub makes its own pages executable.
	{0x05ad34ba, 0x6f02, 0x4214, [8]byte{0x95, 0x2e, 0x4d, 0xa0, 0x39, 0x8e, 0x2b, 0xb9}},
}

// registers are the PCI registers that identify the machine for which the tables
// are made.
var registers = []struct {
	device, register uint64
	value            uint32
}{
	{0, 0x00, 0x29c08086},             // host bridge: the q35's
	{0, 0x60, tables.ECAM | 1},        // PCIEXBAR: configuration space of 256 buses, on
	{0, 0x64, 0},                      // its upper half
	{31, 0x00, 0x29188086},            // LPC bridge: the ICH9's
	{31, 0x40, tables.PowerPorts | 1}, // PMBASE: the ports of power management
}

// messages are the refusals of the steps.
var messages = [steps]string{
	sMemory:        "no memory for the tables",
	sBridge:        "there is not exactly one PCI root bridge",
	sMachine:       "this is not QEMU's q35",
	sWindows:       "a PCI memory window is out of bounds",
	sProcessors:    "a processor is off, or they are too many",
	sConfiguration: "the firmware keeps the host's tables",
	sKernel:        "the kernel does not load",
	sReturned:      "the kernel returned",
}

// Refused begins the line that a gate prints before it powers off.
const Refused = "gate: refused: "

// Data returns the data section of a gate whose application has a kernel of this
// size at this offset.
func Data(kernelAt, kernelSize uint64) []byte {
	t := tables.New()
	d := make([]byte, dTables)
	le.PutUint64(d[dKernel:], kernelAt)
	le.PutUint64(d[dKernelSize:], kernelSize)
	le.PutUint64(d[dTablesSize:], uint64(len(t.Bytes)))
	le.PutUint64(d[dMADT:], uint64(t.MADT))
	for _, g := range []struct {
		at   int
		guid guid
	}{{dLoadedImage, loadedImage}, {dRootBridge, rootBridge}, {dMPServices, mpServices}, {dACPI, acpi20}} {
		g.guid.put(d[g.at:])
	}
	for i, g := range kept {
		g.put(room(d, dKept, dKeptEnd, i, len(kept)))
	}
	for i, r := range registers {
		entry := room(d, dRegisters, dRegistersEnd, i, len(registers))
		le.PutUint64(entry, r.device<<16|r.register)
		le.PutUint32(entry[registerValue:], r.value)
	}
	for i, at := range t.Pointers {
		le.PutUint16(room(d, dPointers, dPointersEnd, i, len(t.Pointers)), at)
	}
	for i, at := range t.Windows {
		le.PutUint16(room(d, dWindows, dWindowsEnd, i, len(t.Windows)), at)
	}
	for i, s := range t.Sums {
		entry := room(d, dSums, dSumsEnd, i, len(t.Sums))
		le.PutUint16(entry, s.Start)
		le.PutUint16(entry[sumLength:], s.Length)
		le.PutUint16(entry[sumPlace:], s.Place)
	}
	for i, m := range messages {
		text := utf16.Encode([]rune(Refused + m + "\r\n"))
		if 2*len(text) >= messageSize {
			panic(fmt.Sprintf("program: internal error: message %q has %d characters, want less than %d", m, len(text), messageSize/2))
		}
		for j, c := range text {
			le.PutUint16(d[dMessages+i*messageSize+2*j:], c)
		}
	}
	return append(d, t.Bytes...)
}

// room returns the slot of entry i of a list. The list must fill its slots exactly,
// because the assembly has no other end mark.
func room(d []byte, from, to, i, n int) []byte {
	size := (to - from) / n
	if size*n != to-from {
		panic(fmt.Sprintf("program: internal error: %d entries do not fill the room from %#x to %#x", n, from, to))
	}
	return d[from+i*size : from+(i+1)*size]
}

func (g guid) put(b []byte) {
	le.PutUint32(b, g.a)
	le.PutUint16(b[4:], g.b)
	le.PutUint16(b[6:], g.c)
	copy(b[8:16], g.d[:])
}

// ID returns the name of this gate: the SHA-256 over a label, the code and the data
// section. The data section then has zeros for the kernel's offset and size, so the
// ID does not depend on the kernel.
func ID() pins.Digest {
	h := sha256.New()
	h.Write([]byte("rootvouch gate v1\n"))
	h.Write(Code())
	h.Write(Data(0, 0))
	return pins.Digest(h.Sum(nil))
}
