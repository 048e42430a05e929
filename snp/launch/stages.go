package launch

import (
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
)

// Base is a launch digest after the firmware, the first and longest stage. All
// further stages can share it. It is safe for concurrent use.
type Base struct {
	mode     Mode
	measured *Firmware // the image whose metadata and entry points are used: the SVSM, if there is one
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

// NewBaseFromDigest returns a Base with a known launch digest after the firmware's
// pages (see Base.FirmwareDigest). It uses only the metadata of firmware.
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
	if varsSize > gpa || uint64(len(svsm.image)) > gpa-varsSize {
		return nil, fmt.Errorf("measuring SVSM: variable store has %#x bytes, want room for %#x bytes of SVSM below %#x",
			varsSize, len(svsm.image), gpa)
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
// NewBaseFromDigest. Modes SEV and SEVES have no such digest.
func (b *Base) FirmwareDigest() ([sha512.Size384]byte, error) {
	if b.sev != nil {
		return chain{}, fmt.Errorf("measuring firmware: mode %v has no digest of the firmware alone", b.mode)
	}
	return b.snp, nil
}

// Metadata is a launch digest after the firmware and those pages of its SEV
// metadata that come before the kernel-hashes page. It is safe for concurrent use.
type Metadata struct {
	base *Base
	vmm  VMM
	snp  chain
	rest []Section // to measure, from the kernel-hashes page on
}

// Metadata measures the SEV metadata up to the kernel-hashes page, as the
// launcher vmm does it (QEMU target/i386/sev.c, snp_populate_metadata_pages).
func (b *Base) Metadata(vmm VMM) (*Metadata, error) {
	m := &Metadata{base: b, vmm: vmm, snp: b.snp}
	if b.sev != nil {
		return m, nil
	}
	sections := b.measured.sections
	for i, s := range sections {
		switch s.Type {
		case SectionSecMem, SectionSecrets, SectionCPUID, SectionSVSMCAA, SectionKernelHashes:
		default:
			return nil, formatError(s.Offset+8, "SEV metadata section at %#x has %v, which no launcher here knows", s.GPA, s.Type)
		}
		if s.Type == SectionKernelHashes && m.rest == nil {
			m.rest = sections[i:]
		}
		if m.rest == nil {
			m.extend(&m.snp, s, nil)
		}
	}
	return m, nil
}

// extend measures one section. A nil hashes means that the launcher left the
// kernel-hashes page empty.
func (m *Metadata) extend(c *chain, s Section, hashes *[sha512.Size384]byte) {
	gpa, size := uint64(s.GPA), uint64(s.Size)
	switch s.Type {
	case SectionSecMem:
		if m.vmm == GCE {
			c.extendEmpty(pageUnmeasured, gpa, size)
			return
		}
		c.extendEmpty(pageZero, gpa, size)
	case SectionSecrets:
		c.extendEmpty(pageSecrets, gpa, size)
	case SectionCPUID:
		if m.vmm != EC2 { // EC2 measures it after all others
			c.extendEmpty(pageCPUID, gpa, size)
		}
	case SectionSVSMCAA:
		c.extendEmpty(pageZero, gpa, size)
	case SectionKernelHashes:
		if hashes == nil {
			c.extendEmpty(pageZero, gpa, size)
			return
		}
		c.extend(pageNormal, gpa, hashes)
	}
}

// Prefix is a launch digest before any vCPU. It is safe for concurrent use.
type Prefix struct {
	mode Mode
	snp  chain
	sev  cloner
}

// Prefix measures the kernel hashes and the rest of the metadata. A nil hashes
// means a launch without kernel hashes: without a kernel, or with QEMU's
// kernel-hashes=off. If there are hashes and the firmware cannot check a kernel,
// the error is a *FormatError.
func (m *Metadata) Prefix(hashes *Hashes) (Prefix, error) {
	p := Prefix{mode: m.base.mode, snp: m.snp}
	if hashes != nil {
		if err := hashes.check(); err != nil {
			return Prefix{}, err
		}
	}
	if p.mode == SNPSVSM && hashes != nil {
		return Prefix{}, fmt.Errorf("measuring kernel hashes: mode %v has none", p.mode)
	}
	f := m.base.measured
	if p.mode == SEV || p.mode == SEVES {
		p.sev = cloneOf(m.base.sev)
		if hashes == nil {
			return p, nil
		}
		if _, err := f.hashesBase(); err != nil {
			return Prefix{}, err
		}
		p.sev.Write(hashes.table()) // never fails (package hash)
		return p, nil
	}
	var page *[sha512.Size384]byte
	if hashes != nil {
		_, offset, err := f.hashesPage()
		if err != nil {
			return Prefix{}, err
		}
		sum := sha512.Sum384(hashes.page(offset)[:])
		page = &sum
	}
	for _, s := range m.rest {
		m.extend(&p.snp, s, page)
	}
	if s, ok := f.section(SectionCPUID); ok && m.vmm == EC2 {
		p.snp.extendEmpty(pageCPUID, uint64(s.GPA), uint64(s.Size))
	}
	return p, nil
}

// Prefix calls Metadata, and Prefix on its result.
func (b *Base) Prefix(vmm VMM, hashes *Hashes) (Prefix, error) {
	m, err := b.Metadata(vmm)
	if err != nil {
		return Prefix{}, err
	}
	return m.Prefix(hashes)
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
