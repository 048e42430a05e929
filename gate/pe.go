package gate

import (
	"encoding/binary"
	"fmt"

	"github.com/rootvouch/rootvouch/gate/program"
	"github.com/rootvouch/rootvouch/uki"
)

// The application is a PE32+ file (Microsoft PE Format, "Overview"). An offset in
// the file is the same offset in memory.
const (
	pageSize       = 0x1000
	peAt           = 0x40
	optionalSize   = 112 + 6*8 // six empty data directories
	sectionsAt     = peAt + 24 + optionalSize
	sectionSize    = 40
	machineAMD64   = 0x8664
	efiApplication = 10
	// Executable, no line numbers, no symbols, may be loaded above 2 GiB, no debug
	// information.
	characteristics = 0x0002 | 0x0004 | 0x0008 | 0x0020 | 0x0200
	nxCompat        = 0x0100
	sectionCode     = 0x60000020 // code, readable, executable
	sectionData     = 0x40000040 // data, readable
)

// The setup header of a Linux kernel (Documentation/arch/x86/boot.rst). QEMU reads
// it from the kernel's file. Without the header QEMU refuses an initramfs.
const (
	setupAt    = 0x1f1
	setupEnd   = 0x270
	sizeAt     = 0x1f4 // syssize: what follows the setup sectors, in units of 16 bytes
	magicAt    = 0x202
	protocolAt = 0x206
	// minProtocol is the first boot protocol with xloadflags, which say that the
	// kernel has 64 bits and an EFI stub.
	minProtocol = 0x020c
	xloadAt     = 0x236
	xload64     = 1 << 0
	xloadEFI64  = 1 << 3
)

// checkKernel refuses a file that the firmware would not start as a Linux kernel.
// It accepts a bzImage with an EFI stub, and a unified kernel image, which has an
// initramfs of its own.
func checkKernel(kernel []byte) error {
	le := binary.LittleEndian
	if len(kernel) <= MaxKernel && uki.Is(kernel) {
		_, err := uki.Open(kernel)
		return err
	}
	switch {
	case len(kernel) > MaxKernel:
		return fmt.Errorf("the kernel has %d bytes, want at most %d", len(kernel), MaxKernel)
	case len(kernel) < pageSize || string(kernel[magicAt:magicAt+4]) != "HdrS":
		return fmt.Errorf("the kernel is no Linux bzImage: it has no setup header")
	case le.Uint16(kernel[protocolAt:]) < minProtocol:
		return fmt.Errorf("the kernel's boot protocol is %#x, want at least %#x", le.Uint16(kernel[protocolAt:]), minProtocol)
	case le.Uint16(kernel[xloadAt:])&(xload64|xloadEFI64) != xload64|xloadEFI64:
		return fmt.Errorf("the kernel has no 64-bit EFI stub: xloadflags are %#x", le.Uint16(kernel[xloadAt:]))
	case string(kernel[:2]) != "MZ":
		return fmt.Errorf("the kernel is no EFI application")
	}
	return CheckWhole(kernel)
}

// CheckWhole refuses a bzImage with fewer bytes than its setup header says. Such a
// file was cut off, for example by a broken download. CheckWhole accepts bytes
// after the end, which are a signature or padding, and all other kinds of files.
func CheckWhole(kernel []byte) error {
	if len(kernel) < setupEnd || string(kernel[magicAt:magicAt+4]) != "HdrS" {
		return nil
	}
	const sector, paragraph = 512, 16 // bytes
	setup := int64(kernel[setupAt])
	if setup == 0 {
		setup = 4 // boot.rst, setup_sects
	}
	want := (setup+1)*sector + int64(binary.LittleEndian.Uint32(kernel[sizeAt:]))*paragraph
	if int64(len(kernel)) < want {
		return fmt.Errorf("the kernel is cut off: it has %d bytes, want at least %d", len(kernel), want)
	}
	return nil
}

// headers returns the bytes before the code: the DOS header with our marker, PE
// headers, section table, and the kernel's setup header at its offset.
func headers(kernel []byte, codeSize, dataSize, kernelAt int) []byte {
	le := binary.LittleEndian
	end := align(kernelAt + len(kernel))
	h := make([]byte, program.CodeAt)
	copy(h, "MZ")
	copy(h[MarkerAt:], Marker)
	le.PutUint32(h[0x3c:], peAt)

	copy(h[peAt:], "PE\x00\x00")
	le.PutUint16(h[peAt+4:], machineAMD64)
	le.PutUint16(h[peAt+6:], 3) // sections
	le.PutUint16(h[peAt+20:], optionalSize)
	le.PutUint16(h[peAt+22:], characteristics)

	o := h[peAt+24:]
	le.PutUint16(o, 0x20b) // PE32+
	le.PutUint32(o[4:], uint32(program.DataAt-program.CodeAt))
	le.PutUint32(o[8:], uint32(end-program.DataAt))
	le.PutUint32(o[16:], program.CodeAt) // the entry point
	le.PutUint32(o[20:], program.CodeAt)
	le.PutUint32(o[32:], pageSize) // in memory
	le.PutUint32(o[36:], pageSize) // in the file
	le.PutUint32(o[56:], uint32(end))
	le.PutUint32(o[60:], program.CodeAt) // size of the headers
	le.PutUint16(o[68:], efiApplication)
	le.PutUint16(o[70:], nxCompat)
	le.PutUint32(o[108:], 6)

	for i, s := range []struct {
		name           string
		at, size, next int
		kind           uint32
	}{
		{".text", program.CodeAt, codeSize, program.DataAt, sectionCode},
		{".data", program.DataAt, dataSize, kernelAt, sectionData},
		{".linux", kernelAt, len(kernel), end, sectionData},
	} {
		b := h[sectionsAt+i*sectionSize:]
		copy(b, s.name)
		le.PutUint32(b[8:], uint32(s.size))
		le.PutUint32(b[12:], uint32(s.at))
		le.PutUint32(b[16:], uint32(s.next-s.at))
		le.PutUint32(b[20:], uint32(s.at))
		le.PutUint32(b[36:], s.kind)
	}
	if !uki.Is(kernel) { // which has no setup header
		copy(h[setupAt:setupEnd], kernel[setupAt:setupEnd])
	}
	return h
}

func align(n int) int { return (n + pageSize - 1) &^ (pageSize - 1) }
