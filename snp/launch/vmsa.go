package launch

import "encoding/binary"

// Offsets in a VMSA (24593, appendix B, table B-4, "VMSA Layout, State Save
// Area for SEV-ES"), in bytes. A segment is selector and attributes in 2 bytes
// each, limit in 4 and base in 8 (table B-2).
const (
	vmsaES          = 0x000
	vmsaCS          = 0x010
	vmsaSS          = 0x020
	vmsaDS          = 0x030
	vmsaFS          = 0x040
	vmsaGS          = 0x050
	vmsaGDTR        = 0x060
	vmsaLDTR        = 0x070
	vmsaIDTR        = 0x080
	vmsaTR          = 0x090
	vmsaEFER        = 0x0d0
	vmsaCR4         = 0x148
	vmsaCR0         = 0x158
	vmsaDR7         = 0x160
	vmsaDR6         = 0x168
	vmsaRFLAGS      = 0x170
	vmsaRIP         = 0x178
	vmsaGPAT        = 0x268
	vmsaRDX         = 0x310
	vmsaSEVFeatures = 0x3b0
	vmsaXCR0        = 0x3e8
	vmsaMXCSR       = 0x408
	vmsaX87FCW      = 0x410
)

const (
	// bspEIP is the start address of the first vCPU, the reset vector (24593,
	// section 14.1.5, "Fetching the First Instruction").
	bspEIP = 0xfffffff0
	// patReset is the PAT MSR after reset (24593, section A.3, table A-3,
	// "Memory-Typing MSR Cross-Reference").
	patReset = 0x0007040600070406
	// patGCE is the PAT MSR under GCE's hypervisor (sev-snp-measure, vmsa.py).
	patGCE = 0x00070106
	// mxcsrReset and fcwInit are MXCSR after reset (24593, table 14-1) and the
	// x87 control word after FNINIT (24593, table 14-3), which QEMU gives a
	// vCPU. They reach the VMSA since Linux 6.10 (KVM sev.c, sev_es_sync_vmsa;
	// see PreLinux610).
	mxcsrReset = 0x1f80
	fcwInit    = 0x037f
	// rdxNoModel is the value of RDX under EC2 and GCE, which have no CPUID
	// signature there (sev-snp-measure, vmsa.py). For EC2 it is confirmed by a
	// hardware measurement (see docs/spec/launch-digest.md).
	rdxNoModel = 0x600
)

// Registers that have one value in every VMSA: the state after reset (24593, table
// 14-1, "Initial Processor State"), except for KVM's changes. XCR0 has x87 enabled.
const (
	eferSVME    = 0x1000 // KVM svm.c, svm_set_efer; 0 after reset
	cr4MCE      = 0x40   // KVM svm.c, svm_set_cr4; 0 after reset
	dr7Reset    = 0x400
	dr6Reset    = 0xffff0ff0
	rflagsReset = 0x2
	xcr0Reset   = 0x1

	// CR0 after reset is 0x60000010; KVM clears CD and NW (svm.c, svm_set_cr0).
	cr0ET = 0x10
	cr0PE = 0x01 // protected mode, with an SVSM
)

// Segments after reset: limit and attributes (24593, tables 14-1 and 14-2,
// "Initial State of Segment-Register Attributes"). QEMU sets the accessed bit
// as well and makes TR a 32-bit TSS (target/i386/cpu.c, x86_cpu_reset_hold);
// EC2 leaves SS, TR and the first vCPU's CS as they are after reset.
const (
	limitReset = 0xffff

	attrCode     = 0x9a // present, code, readable
	attrData     = 0x92 // present, data, writable
	attrLDT      = 0x82
	attrTSS16    = 0x83 // busy
	attrTSS32    = 0x8b // busy
	attrAccessed = 0x01

	// With an SVSM: 4 GiB of 32 bits, attributes G and D/B (QEMU for the
	// COCONUT SVSM, target/i386/sev.c).
	limitFlat = 0xffffffff
	attrFlat  = 0xc00
)

// SEV_FEATURES in the VMSA (24593, appendix B, table B-4), bit 0.
const featureSNPActive = 1 << 0

// segment is one segment register of a VMSA.
type segment struct {
	selector, attributes uint16
	limit                uint32
	base                 uint64
}

// registers holds the values that differ between the VMSAs of launchers and modes.
type registers struct {
	cs, ss, data, gs, tr segment // data: DS, ES, FS
	cr0, rip, pat, rdx   uint64
	features             uint64
	mxcsr                uint32
	fcw                  uint16
}

// page returns the VMSA of the registers. Fields that page does not set are zero in
// every VMSA.
func (r registers) page() *[PageSize]byte {
	p := new([PageSize]byte)
	le := binary.LittleEndian
	put := func(offset int, s segment) {
		le.PutUint16(p[offset:], s.selector)
		le.PutUint16(p[offset+2:], s.attributes)
		le.PutUint32(p[offset+4:], s.limit)
		le.PutUint64(p[offset+8:], s.base)
	}
	put(vmsaES, r.data)
	put(vmsaCS, r.cs)
	put(vmsaSS, r.ss)
	put(vmsaDS, r.data)
	put(vmsaFS, r.data)
	put(vmsaGS, r.gs)
	put(vmsaGDTR, segment{limit: limitReset})
	put(vmsaLDTR, segment{attributes: attrLDT, limit: limitReset})
	put(vmsaIDTR, segment{limit: limitReset})
	put(vmsaTR, r.tr)
	le.PutUint64(p[vmsaEFER:], eferSVME)
	le.PutUint64(p[vmsaCR4:], cr4MCE)
	le.PutUint64(p[vmsaCR0:], r.cr0)
	le.PutUint64(p[vmsaDR7:], dr7Reset)
	le.PutUint64(p[vmsaDR6:], dr6Reset)
	le.PutUint64(p[vmsaRFLAGS:], rflagsReset)
	le.PutUint64(p[vmsaRIP:], r.rip)
	le.PutUint64(p[vmsaGPAT:], r.pat)
	le.PutUint64(p[vmsaRDX:], r.rdx)
	le.PutUint64(p[vmsaSEVFeatures:], r.features)
	le.PutUint64(p[vmsaXCR0:], xcr0Reset)
	le.PutUint32(p[vmsaMXCSR:], r.mxcsr)
	le.PutUint16(p[vmsaX87FCW:], r.fcw)
	return p
}

// realMode returns the registers of a vCPU that starts at eip in real mode, as
// OVMF's do.
func realMode(eip uint32, vcpu VCPU) registers {
	data := segment{attributes: attrData | attrAccessed, limit: limitReset}
	r := registers{
		cs:   segment{selector: 0xf000, attributes: attrCode | attrAccessed, limit: limitReset, base: uint64(eip & 0xffff0000)},
		ss:   data,
		data: data,
		gs:   data,
		tr:   segment{attributes: attrTSS32, limit: limitReset},
		cr0:  cr0ET,
		rip:  uint64(eip & 0xffff),
		pat:  patReset,
		rdx:  rdxNoModel,

		features: vcpu.Features,
	}
	switch vcpu.VMM {
	case QEMU:
		r.rdx = uint64(vcpu.CPU.Signature)
		if vcpu.VMSA == CurrentVMSA {
			r.mxcsr, r.fcw = mxcsrReset, fcwInit
		}
	case EC2:
		if eip == bspEIP {
			r.cs.attributes = attrCode
		}
		r.ss.attributes, r.tr.attributes = attrData, attrTSS16
	case GCE:
		r.pat = patGCE
	}
	return r
}

// svsmMode returns the registers of a vCPU that starts an SVSM at eip, in protected
// mode with flat segments. QEMU for the COCONUT SVSM gives all vCPUs the same
// registers.
func svsmMode(eip uint32, vcpu VCPU) registers {
	flat := segment{selector: 0x10, attributes: attrFlat | attrData | attrAccessed, limit: limitFlat}
	r := registers{
		cs:   segment{selector: 0x8, attributes: attrFlat | attrCode | attrAccessed, limit: limitFlat},
		ss:   flat,
		data: flat,
		gs:   segment{attributes: attrData | attrAccessed, limit: limitReset},
		tr:   segment{attributes: attrTSS32, limit: limitReset},
		cr0:  cr0ET | cr0PE,
		rip:  uint64(eip),
		pat:  patReset,
		rdx:  uint64(vcpu.CPU.Signature),

		features: vcpu.Features,
	}
	if vcpu.VMSA == CurrentVMSA {
		r.mxcsr = mxcsrReset
	}
	return r
}
