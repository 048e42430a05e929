package launch

import (
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"iter"
)

// MaxVCPUs bounds the vCPU count of a guest, as QEMU's q35 machine does.
const MaxVCPUs = 4096

// Base is a launch digest after the firmware: the first and longest stage,
// shared by whatever follows. It is safe for concurrent use.
type Base struct {
	mode     Mode
	measured *Firmware // whose metadata and entry points count: the SVSM, if there is one
	gpa      uint64    // of measured
	snp      chain
	sev      cloner // SEV and SEV-ES
}

// cloner is a SHA-256 whose state can be copied.
type cloner interface {
	hash.Hash
	hash.Cloner
}

// NewBase measures the firmware of a guest in mode SNP, SEV or SEVES.
func NewBase(mode Mode, firmware *Firmware) (*Base, error) {
	b, err := newBase(mode, firmware)
	if err != nil {
		return nil, err
	}
	switch mode {
	case SNP:
		b.snp.extendImage(b.gpa, firmware.image)
	case SEV, SEVES:
		b.sev = newCloner()
		b.sev.Write(firmware.image) // never fails (package hash)
	}
	return b, nil
}

// NewBaseFromDigest takes the launch digest after the firmware's pages (see
// Base.FirmwareDigest) as known, so that of firmware only the metadata counts.
func NewBaseFromDigest(firmware *Firmware, digest [sha512.Size384]byte) (*Base, error) {
	b, err := newBase(SNP, firmware)
	if err != nil {
		return nil, err
	}
	b.snp = digest
	return b, nil
}

func newBase(mode Mode, firmware *Firmware) (*Base, error) {
	if mode != SNP && mode != SEV && mode != SEVES {
		return nil, fmt.Errorf("measuring firmware: mode is %v, want %v, %v or %v", mode, SNP, SEV, SEVES)
	}
	b := &Base{mode: mode, measured: firmware, gpa: fourGiB - uint64(len(firmware.image))}
	if mode == SNP {
		return b, b.checkSections(b.gpa)
	}
	return b, nil
}

// NewBaseSVSM measures the firmware and the SVSM of a guest in mode SNPSVSM.
// The SVSM lies below the firmware's variable store of varsSize bytes, which
// lies below the firmware; its metadata is measured, the firmware's is not
// (QEMU for the COCONUT SVSM, target/i386/sev.c).
func NewBaseSVSM(firmware, svsm *Firmware, varsSize uint64) (*Base, error) {
	gpa := fourGiB - uint64(len(firmware.image))
	if varsSize%PageSize != 0 || varsSize > gpa || uint64(len(svsm.image)) > gpa-varsSize {
		return nil, fmt.Errorf("measuring SVSM: variable store has %#x bytes, want a multiple of %#x that leaves room for %#x bytes of SVSM below %#x",
			varsSize, PageSize, len(svsm.image), gpa)
	}
	b := &Base{mode: SNPSVSM, measured: svsm, gpa: gpa - varsSize - uint64(len(svsm.image))}
	if err := b.checkSections(b.gpa); err != nil {
		return nil, err
	}
	if _, err := svsm.launchOffset(); err != nil {
		return nil, err
	}
	b.snp.extendImage(gpa, firmware.image)
	b.snp.extendImage(b.gpa, svsm.image)
	return b, nil
}

// checkSections refuses metadata that asks for pages of an image at or above gpa.
func (b *Base) checkSections(gpa uint64) error {
	sections, err := b.measured.metadata()
	if err != nil {
		return err
	}
	for _, s := range sections {
		if s.overlaps(gpa, fourGiB-gpa) {
			return formatError(s.Offset, "%v section %#x+%#x overlaps the firmware, which starts at %#x", s.Type, s.GPA, s.Size, gpa)
		}
	}
	return nil
}

// FirmwareDigest returns the launch digest after the firmware's pages, for
// NewBaseFromDigest; modes SEV and SEVES have none.
func (b *Base) FirmwareDigest() ([sha512.Size384]byte, error) {
	if b.sev != nil {
		return chain{}, fmt.Errorf("measuring firmware: mode %v has no digest of the firmware alone", b.mode)
	}
	return b.snp, nil
}

// Prefix is a launch digest after the firmware and what its metadata asks for,
// before any vCPU. It is safe for concurrent use.
type Prefix struct {
	mode Mode
	snp  chain
	sev  cloner
}

// Prefix measures what the firmware's metadata asks for, as the launcher vmm
// does it. A nil hashes means a launch without kernel hashes: without a kernel
// or with kernel-hashes=off. A firmware that cannot check a kernel gives a
// *FormatError if there are hashes.
func (b *Base) Prefix(vmm VMM, hashes *Hashes) (Prefix, error) {
	p := Prefix{mode: b.mode, snp: b.snp}
	if hashes != nil {
		if err := hashes.check(); err != nil {
			return Prefix{}, err
		}
	}
	switch b.mode {
	case SEV, SEVES:
		p.sev = cloneOf(b.sev)
		if hashes == nil {
			return p, nil
		}
		if _, err := b.measured.hashesBase(); err != nil {
			return Prefix{}, err
		}
		p.sev.Write(hashes.table()) // never fails (package hash)
		return p, nil
	case SNPSVSM:
		if hashes != nil {
			return Prefix{}, fmt.Errorf("measuring kernel hashes: mode %v has none", b.mode)
		}
	}
	return p, p.extendSections(b.measured, vmm, hashes)
}

// extendSections measures the pages of the SEV metadata in its order (QEMU
// target/i386/sev.c, snp_populate_metadata_pages). EC2 measures the CPUID page
// last; GCE measures SNP_SEC_MEM as unmeasured pages.
func (p *Prefix) extendSections(f *Firmware, vmm VMM, hashes *Hashes) error {
	var page *[sha512.Size384]byte // of the kernel-hashes page
	if hashes != nil {
		_, offset, err := f.hashesPage()
		if err != nil {
			return err
		}
		sum := sha512.Sum384(hashes.page(offset)[:])
		page = &sum
	}
	for _, s := range f.sections {
		gpa, size := uint64(s.GPA), uint64(s.Size)
		switch s.Type {
		case SectionSecMem:
			if vmm == GCE {
				p.snp.extendEmpty(pageUnmeasured, gpa, size)
			} else {
				p.snp.extendEmpty(pageZero, gpa, size)
			}
		case SectionSecrets:
			p.snp.extendEmpty(pageSecrets, gpa, size)
		case SectionCPUID:
			if vmm != EC2 {
				p.snp.extendEmpty(pageCPUID, gpa, size)
			}
		case SectionSVSMCAA:
			p.snp.extendEmpty(pageZero, gpa, size)
		case SectionKernelHashes:
			if page != nil {
				p.snp.extend(pageNormal, gpa, page)
			} else {
				p.snp.extendEmpty(pageZero, gpa, size)
			}
		default:
			return formatError(s.Offset+8, "SEV metadata section at %#x has %v, which no launcher here knows", s.GPA, s.Type)
		}
	}
	if s, ok := f.section(SectionCPUID); ok && vmm == EC2 {
		p.snp.extendEmpty(pageCPUID, uint64(s.GPA), uint64(s.Size))
	}
	return nil
}

// VMSAs are the register states of a guest's vCPUs: one for the first, one for
// all others.
type VMSAs struct {
	first, other       *[PageSize]byte // other is nil if the firmware says of no address
	firstSum, otherSum [sha512.Size384]byte
	missing            error // why other is nil
}

// VMSAs builds the VMSAs that the launcher makes for this firmware.
func (b *Base) VMSAs(v VCPU) (*VMSAs, error) {
	if err := v.check(b.mode); err != nil {
		return nil, err
	}
	m := &VMSAs{}
	switch b.mode {
	case SEV:
		return m, nil
	case SNPSVSM:
		offset, err := b.measured.launchOffset()
		if err != nil {
			return nil, err
		}
		v.Features = featureSNPActive
		m.first = svsmMode(uint32(b.gpa)+offset, v).page()
		m.other = m.first
	default:
		if b.mode == SEVES {
			v.Features = 0
		}
		m.first = realMode(bspEIP, v).page()
		if eip, err := b.measured.ResetEIP(); err != nil {
			m.missing = err
		} else {
			m.other = realMode(eip, v).page()
		}
	}
	m.firstSum = sha512.Sum384(m.first[:])
	if m.other != nil {
		m.otherSum = sha512.Sum384(m.other[:])
	}
	return m, nil
}

// Digests yields the launch digests of guests with 1, 2, … last vCPUs.
func (p Prefix) Digests(m *VMSAs, last int) (iter.Seq2[int, Sum], error) {
	if last < 1 || last > MaxVCPUs {
		return nil, fmt.Errorf("measuring vCPUs: %d vCPUs, want 1 to %d", last, MaxVCPUs)
	}
	if p.mode == SEV {
		sum := newSum(p.sev.Sum(nil))
		return func(yield func(int, Sum) bool) {
			for n := 1; n <= last && yield(n, sum); n++ {
			}
		}, nil
	}
	if last > 1 && m.other == nil {
		return nil, fmt.Errorf("measuring %d vCPUs: %w", last, m.missing)
	}
	if p.mode == SEVES {
		return p.digestsES(m, last), nil
	}
	return func(yield func(int, Sum) bool) {
		c := p.snp
		c.extend(pageVMSA, vmsaGPA, &m.firstSum)
		for n := 1; yield(n, newSum(c[:])) && n < last; n++ {
			c.extend(pageVMSA, vmsaGPA, &m.otherSum)
		}
	}, nil
}

func (p Prefix) digestsES(m *VMSAs, last int) iter.Seq2[int, Sum] {
	return func(yield func(int, Sum) bool) {
		h := cloneOf(p.sev)
		h.Write(m.first[:]) // never fails (package hash)
		for n := 1; yield(n, newSum(h.Sum(nil))) && n < last; n++ {
			h.Write(m.other[:])
		}
	}
}

func newCloner() cloner {
	h, ok := sha256.New().(cloner)
	if !ok {
		panic("launch: internal error: SHA-256 cannot be cloned")
	}
	return h
}

func cloneOf(h cloner) cloner {
	c, err := h.Clone()
	if err != nil {
		panic(fmt.Sprintf("launch: internal error: cloning SHA-256: %v", err))
	}
	return c.(cloner)
}
