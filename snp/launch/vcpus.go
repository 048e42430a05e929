package launch

import (
	"crypto/sha512"
	"fmt"
	"iter"
)

// MaxVCPUs bounds the vCPU count of a guest, as QEMU's q35 machine does
// (hw/i386/pc_q35.c, pc_q35_machine_options).
const MaxVCPUs = 4096

// VMSAs are the register states of a guest's vCPUs: one for the first vCPU, one for
// all others.
type VMSAs struct {
	first, other       *[PageSize]byte // other is nil if the firmware names no start address
	firstSum, otherSum [sha512.Size384]byte
	missing            error // why other is nil
}

// VMSAs builds the VMSAs that the launcher makes for this firmware.
func (b *Base) VMSAs(v VCPU) (*VMSAs, error) {
	if err := v.Check(b.mode); err != nil {
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
