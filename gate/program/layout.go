package program

import "github.com/rootvouch/rootvouch/gate/tables"

// The layout of the application in memory, in bytes from its first byte. The
// assembly takes these names from go_asm.h.
const (
	CodeAt = 0x1000
	DataAt = 0x2000
)

// The layout of the data section.
const (
	dKernel       = 0x00 // where the kernel begins in the application (u64)
	dKernelSize   = 0x08 // u64
	dTablesSize   = 0x10 // of the template (u64)
	dMADT         = 0x18 // the offset of the last table (u64)
	dLoadedImage  = 0x20 // GUID EFI_LOADED_IMAGE_PROTOCOL
	dRootBridge   = 0x30 // GUID EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL
	dMPServices   = 0x40 // GUID EFI_MP_SERVICES_PROTOCOL
	dACPI         = 0x50 // GUID of the ACPI 2.0 configuration table
	dKept         = 0x60 // GUIDs of the configuration tables that stay
	dKeptEnd      = 0xa0
	dRegisters    = 0xa0 // what the machine's registers must hold
	dRegistersEnd = 0xf0
	dPointers     = 0x100 // offsets to which the tables' address is added (u16)
	dPointersEnd  = 0x10e
	dWindows      = 0x110 // offsets of the empty memory windows (u16)
	dWindowsEnd   = 0x118
	dSums         = 0x120 // start, length, place of each checksum (u16 each)
	dSumsEnd      = 0x150
	dMessages     = 0x180 // one for each step, UTF-16, at most 63 characters
	dTables       = 0x600 // the template
)

// The steps, in order. If a step fails, the gate prints the step's message and
// powers off.
const (
	sMemory = iota
	sBridge
	sMachine
	sWindows
	sProcessors
	sConfiguration
	sKernel
	sReturned
	steps
)

// messageSize is the size of one message's slot in bytes. The assembly multiplies
// by it with a shift.
const (
	messageShift = 7
	messageSize  = 1 << messageShift
)

// The constants of the checks.
const (
	// tablePages is the number of pages for the tables: one for the constant
	// tables, the rest for processors.
	tablePages    = 16
	tableBytes    = tablePages * 4096
	maxTables     = 0xffffffff // the highest address of a table
	windowMinimum = tables.WindowMinimum
	ecamStart     = tables.ECAM
	ecamEnd       = tables.ECAMEnd
	windowLowEnd  = tables.WindowLowEnd
	fourGiB       = tables.FourGiB
	windowMaximum = tables.WindowMaximum
	pageMask      = 0xfff
	x2APIC        = 255 // from this APIC ID on, a processor needs the longer entry
)

// The slots on the stack. The first 32 bytes belong to the called function, the
// next 32 are arguments five to eight.
const (
	argument5 = 0x20
	argument6 = 0x28
	local1    = 0x40
	local2    = 0x48
	local3    = 0x50
	step      = 0x58
	self      = 0x60 // our EFI_LOADED_IMAGE_PROTOCOL
	buffer    = 0x70 // EFI_PROCESSOR_INFORMATION, 48 bytes, or a GUID
	frame     = 0x108
)

// Offsets of the UEFI Specification 2.10 in 64-bit mode.
const (
	// EFI_SYSTEM_TABLE (4.3)
	stConOut          = 64
	stRuntimeServices = 88
	stBootServices    = 96
	stTableEntries    = 104
	stTables          = 112
	tableEntry        = 24
	// EFI_BOOT_SERVICES (4.4)
	bsAllocatePages  = 40
	bsHandleProtocol = 152
	bsLocateHandle   = 176
	bsInstallTable   = 192
	bsLoadImage      = 200
	bsStartImage     = 208
	bsLocateProtocol = 320
	// EFI_RUNTIME_SERVICES (4.5), and EfiResetShutdown (8.5.1)
	rsResetSystem = 104
	resetShutdown = 2
	// EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL (12.4)
	coOutputString = 8
	// EFI_LOADED_IMAGE_PROTOCOL (9.1)
	liDeviceHandle    = 24
	liLoadOptionsSize = 48
	liLoadOptions     = 56
	// EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL (14.2)
	rbPCIRead       = 56
	rbConfiguration = 136
	widthUint32     = 2
	// EFI_MP_SERVICES_PROTOCOL (Platform Initialization 1.8, volume 2, 13.4)
	mpNumber      = 0
	mpInformation = 8
	piFlags       = 8 // StatusFlag of EFI_PROCESSOR_INFORMATION
	piEnabled     = 2
	// AllocateMaxAddress, EfiACPIReclaimMemory (7.2), ByProtocol (7.3)
	allocateMax = 1
	acpiReclaim = 9
	byProtocol  = 2
	// QWORD address space descriptor (ACPI 6.5, 6.4.3.5.1)
	rdTag    = 0x8a
	rdEnd    = 0x79
	rdSize   = 46
	rdKind   = 3
	rdFirst  = 14
	rdLast   = 22
	rdLength = 38
	// MADT (ACPI 6.5, 5.2.12): length in the header; entries of types 0 and 9
	tableLength   = 4
	lapicEntry    = 0x0800 // type 0, 8 bytes
	lapicSize     = 8
	x2apicEntry   = 0x1009 // type 9, 16 bytes
	x2apicSize    = 16
	sumSize       = 6
	sumLength     = 2
	sumPlace      = 4
	guidSize      = 16
	registerSize  = 16
	registerValue = 8
)
