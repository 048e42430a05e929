#include "textflag.h"
#include "go_asm.h"

// The program of the gate (docs/spec/gate.md). It is an EFI application: the
// firmware calls it with its handle in CX and the system table in DX. No Go
// program calls it; program.bin holds its bytes.
//
// It runs where it was loaded, writes nothing but its stack and the pages that it
// allocates, reads nothing of the host's but what the firmware's protocols answer,
// and does not return: behind it the firmware would go on to the next boot option.
//
// R12 our handle, R13 system table, R14 boot services, R15 the tables,
// BX our data section.

// Failure of this step is what a refusal names.
#define STEP(n) MOVQ $n, const_step(SP)

// Call a function of the firmware, and refuse unless it returns EFI_SUCCESS.
#define CALL_AX CALL AX; TESTQ AX, AX; JNE refuse
#define BOOT(service) MOVQ service(R14), AX; CALL_AX

TEXT ·program(SB), NOSPLIT|NOFRAME, $0-0
	SUBQ $const_frame, SP // the stack is on 16 bytes now
	MOVQ CX, R12
	MOVQ DX, R13
	MOVQ const_stBootServices(DX), R14
	LEAQ ·program(SB), BX
	ADDQ $(const_DataAt-const_CodeAt), BX

	// Our own image: the command line hangs on it.
	STEP(const_sMemory)
	MOVQ R12, CX
	LEAQ const_dLoadedImage(BX), DX
	LEAQ const_self(SP), R8
	BOOT(const_bsHandleProtocol)

	// Private pages below 4 GiB, which the kernel keeps as "ACPI data". The host
	// cannot change them afterwards.
	MOVQ $const_maxTables, AX
	MOVQ AX, const_local1(SP)
	MOVQ $const_allocateMax, CX
	MOVQ $const_acpiReclaim, DX
	MOVQ $const_tablePages, R8
	LEAQ const_local1(SP), R9
	BOOT(const_bsAllocatePages)
	MOVQ const_local1(SP), R15

	// Zeros, then the template.
	CLD
	MOVQ R15, DI
	XORL AX, AX
	MOVQ $(const_tableBytes/8), CX
	REP; STOSQ
	MOVQ R15, DI
	LEAQ const_dTables(BX), SI
	MOVQ const_dTablesSize(BX), CX
	REP; MOVSB

	// Offsets become addresses.
	LEAQ const_dPointers(BX), SI
	LEAQ const_dPointersEnd(BX), DI
pointer:
	MOVWQZX (SI), AX
	ADDQ R15, (R15)(AX*1)
	ADDQ $2, SI
	CMPQ SI, DI
	JNE pointer

	// The one PCI root bridge. With room for one handle, a second one is an error.
	STEP(const_sBridge)
	MOVQ $const_byProtocol, CX
	LEAQ const_dRootBridge(BX), DX
	XORL R8, R8
	LEAQ const_local1(SP), R9
	MOVQ $8, const_local1(SP)
	LEAQ const_local2(SP), AX
	MOVQ AX, const_argument5(SP)
	BOOT(const_bsLocateHandle)
	MOVQ const_local2(SP), CX
	LEAQ const_dRootBridge(BX), DX
	LEAQ const_local1(SP), R8
	BOOT(const_bsHandleProtocol)

	// The machine: PCI registers whose values make the constants right.
	STEP(const_sMachine)
	LEAQ const_dRegisters(BX), SI
	LEAQ const_dRegistersEnd(BX), DI
register:
	MOVQ const_local1(SP), CX
	MOVQ $const_widthUint32, DX
	MOVQ (SI), R8
	MOVQ $1, R9
	LEAQ const_local2(SP), AX
	MOVQ AX, const_argument5(SP)
	MOVQ const_rbPCIRead(CX), AX
	CALL_AX
	MOVL const_local2(SP), AX
	CMPL AX, const_registerValue(SI)
	JNE refuse
	ADDQ $const_registerSize, SI
	CMPQ SI, DI
	JNE register

	// The memory windows that the firmware gave the root bridge.
	STEP(const_sWindows)
	MOVQ const_local1(SP), CX
	LEAQ const_local2(SP), DX
	MOVQ const_rbConfiguration(CX), AX
	CALL_AX
	MOVQ const_local2(SP), SI
	LEAQ const_dWindows(BX), DI
window:
	CMPB (SI), $const_rdEnd
	JEQ windowed
	CMPB (SI), $const_rdTag
	JNE refuse
	CMPB const_rdKind(SI), $0 // memory
	JNE next
	MOVQ const_rdLength(SI), CX
	TESTQ CX, CX
	JEQ next // an unused one
	LEAQ const_dWindowsEnd(BX), AX
	CMPQ DI, AX
	JEQ refuse // one more than there is room for
	MOVQ const_rdFirst(SI), AX
	TESTQ $const_pageMask, AX
	JNE refuse
	ADDQ AX, CX
	JCS refuse
	ADDQ $const_pageMask, CX
	JCS refuse
	ANDQ $~const_pageMask, CX // the end, on a page
	MOVQ $const_fourGiB, R8
	CMPQ AX, R8
	JCC high
	MOVQ $const_windowMinimum, R8
	CMPQ AX, R8
	JCS refuse
	MOVQ $const_windowLowEnd, R8
	CMPQ CX, R8
	JHI refuse
	MOVQ $const_ecamStart, R8
	CMPQ CX, R8
	JLS good
	MOVQ $const_ecamEnd, R8
	CMPQ AX, R8
	JCS refuse
	JMP good
high:
	MOVQ $const_windowMaximum, R8
	CMPQ CX, R8
	JHI refuse
good:
	MOVWQZX (DI), DX
	ADDQ $2, DI
	ADDQ R15, DX
	MOVQ AX, const_rdFirst(DX)
	SUBQ AX, CX
	MOVQ CX, const_rdLength(DX)
	LEAQ -1(AX)(CX*1), AX
	MOVQ AX, const_rdLast(DX)
next:
	ADDQ $const_rdSize, SI
	JMP window
windowed:

	// The processors, appended to the last table, the MADT.
	STEP(const_sProcessors)
	LEAQ const_dMPServices(BX), CX
	XORL DX, DX
	LEAQ const_local1(SP), R8
	BOOT(const_bsLocateProtocol)
	MOVQ const_local1(SP), SI
	MOVQ SI, CX
	LEAQ const_local1(SP), DX // how many
	LEAQ const_local2(SP), R8 // how many are enabled: looked at one by one
	MOVQ const_mpNumber(SI), AX
	CALL_AX
	MOVQ R15, DI
	ADDQ const_dTablesSize(BX), DI
	MOVQ $0, const_local3(SP) // the processor's number
processor:
	MOVQ const_local3(SP), DX
	CMPQ DX, const_local1(SP)
	JCC processors
	LEAQ (const_tableBytes-const_x2apicSize)(R15), AX
	CMPQ DI, AX
	JHI refuse
	MOVQ SI, CX
	LEAQ const_buffer(SP), R8
	MOVQ const_mpInformation(SI), AX
	CALL_AX
	TESTB $const_piEnabled, (const_buffer+const_piFlags)(SP)
	JEQ refuse
	MOVQ const_buffer(SP), AX // the APIC ID
	MOVQ const_local3(SP), DX
	INCQ const_local3(SP)
	CMPQ AX, $const_x2APIC
	JCC x2apic
	CMPQ DX, $const_x2APIC
	JCC x2apic
	MOVW $const_lapicEntry, (DI)
	MOVB DX, 2(DI)
	MOVB AX, 3(DI)
	MOVL $1, 4(DI)
	ADDQ $const_lapicSize, DI
	JMP processor
x2apic:
	MOVL $const_x2apicEntry, (DI)
	MOVL AX, 4(DI)
	MOVL $1, 8(DI)
	MOVL DX, 12(DI)
	ADDQ $const_x2apicSize, DI
	JMP processor
processors:
	MOVQ R15, AX
	ADDQ const_dMADT(BX), AX
	SUBQ AX, DI
	MOVL DI, const_tableLength(AX)

	// The checksums.
	LEAQ const_dSums(BX), SI
	LEAQ const_dSumsEnd(BX), DI
table:
	MOVWQZX (SI), AX
	MOVWQZX const_sumLength(SI), CX
	MOVWQZX const_sumPlace(SI), DX
	ADDQ R15, AX
	ADDQ R15, DX
	TESTQ CX, CX
	JNE sized
	MOVL const_tableLength(AX), CX
sized:
	XORL R8, R8
sum:
	SUBB (AX), R8
	INCQ AX
	DECQ CX
	JNE sum
	MOVB R8, (DX)
	ADDQ $const_sumSize, SI
	CMPQ SI, DI
	JNE table

	// Every configuration table goes that is not among those that stay.
	STEP(const_sConfiguration)
	XORL DI, DI
entry:
	CMPQ DI, const_stTableEntries(R13)
	JCC entries
	IMUL3Q $const_tableEntry, DI, AX
	ADDQ const_stTables(R13), AX
	MOVQ (AX), CX
	MOVQ 8(AX), DX
	LEAQ const_dKept(BX), SI
	LEAQ const_dKeptEnd(BX), R8
kept:
	CMPQ CX, (SI)
	JNE other
	CMPQ DX, 8(SI)
	JEQ keep
other:
	ADDQ $const_guidSize, SI
	CMPQ SI, R8
	JNE kept
	MOVQ CX, const_buffer(SP) // a copy: the entry itself is about to go
	MOVQ DX, (const_buffer+8)(SP)
	LEAQ const_buffer(SP), CX
	XORL DX, DX
	BOOT(const_bsInstallTable)
	JMP entry // another one has its place now
keep:
	INCQ DI
	JMP entry
entries:
	LEAQ const_dACPI(BX), CX
	MOVQ R15, DX
	BOOT(const_bsInstallTable)

	// The kernel, with our command line and our device.
	STEP(const_sKernel)
	XORL CX, CX
	MOVQ R12, DX
	XORL R8, R8
	LEAQ -const_DataAt(BX), R9 // our first byte
	ADDQ const_dKernel(BX), R9
	MOVQ const_dKernelSize(BX), AX
	MOVQ AX, const_argument5(SP)
	MOVQ $0, const_local1(SP)
	LEAQ const_local1(SP), AX
	MOVQ AX, const_argument6(SP)
	BOOT(const_bsLoadImage)
	MOVQ const_local1(SP), CX
	LEAQ const_dLoadedImage(BX), DX
	LEAQ const_local2(SP), R8
	BOOT(const_bsHandleProtocol)
	MOVQ const_self(SP), SI
	MOVQ const_local2(SP), DI
	MOVL const_liLoadOptionsSize(SI), AX
	MOVL AX, const_liLoadOptionsSize(DI)
	MOVQ const_liLoadOptions(SI), AX
	MOVQ AX, const_liLoadOptions(DI)
	MOVQ const_liDeviceHandle(SI), AX
	MOVQ AX, const_liDeviceHandle(DI)
	MOVQ const_local1(SP), CX
	XORL DX, DX
	XORL R8, R8
	MOVQ const_bsStartImage(R14), AX
	CALL AX
	STEP(const_sReturned)

	// The one way out: a line, and power off.
refuse:
	MOVQ const_stConOut(R13), CX
	TESTQ CX, CX
	JEQ off
	MOVQ const_step(SP), AX
	SHLQ $const_messageShift, AX
	LEAQ const_dMessages(BX)(AX*1), DX
	MOVQ const_coOutputString(CX), AX
	CALL AX
off:
	MOVQ const_stRuntimeServices(R13), R10
	MOVQ $const_resetShutdown, CX
	XORL DX, DX
	XORL R8, R8
	XORL R9, R9
	MOVQ const_rsResetSystem(R10), AX
	CALL AX
halt:
	HLT
	JMP halt
	QUAD $0x444e452d45544147 // "GATE-END", which is not part of the program

// func assembled() *byte
TEXT ·assembled(SB), NOSPLIT, $0-8
	LEAQ ·program(SB), AX
	MOVQ AX, ret+0(FP)
	RET
