// Package asp is a software AMD-SP: it answers the report requests of one VM of
// the emulated platform.
//
// It takes the place of the AMD-SP of an EPYC Genoa processor. It holds a throw-away
// ARK → ASK → VCEK chain, gets the launch digest from the launcher of the VM, and
// signs the reports that the guest asks for. It protects nothing: the host holds all
// of its keys. Emulated: NOT CONFIDENTIAL.
//
// docs/spec/emulated-asp.md describes the wire.
package asp

import (
	"fmt"
	"io"
	"time"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/emuchain"
)

const (
	// product is the product of the processor whose AMD-SP is imitated.
	product = snp.Genoa

	// crlValidity is the time for which a CRL is fresh. Each launch of a VM issues
	// one.
	crlValidity = 30 * 24 * time.Hour

	// backdate is subtracted from the issuing time of certificates and CRL, so
	// that a guest or a verifier whose clock runs a little behind accepts them.
	backdate = time.Hour
)

// tcb returns the TCB that the software AMD-SP reports. Its numbers are those of a
// Genoa host of 2026.
func tcb() snp.TCB { return snp.TCB{Bootloader: 10, TEE: 0, SNP: 26, Microcode: 84} }

// firmware returns the SEV-SNP firmware version that the software AMD-SP reports.
func firmware() snp.Firmware { return snp.Firmware{Major: 1, Minor: 55, Build: 39} }

// cpuid returns the CPUID of EPYC Genoa, stepping B1.
func cpuid() snp.CPUID { return snp.CPUID{Family: 0x19, Model: 0x11, Stepping: 1} }

// Chip is one software AMD-SP with its keys. It corresponds to one processor on
// real hardware, is safe for concurrent use, and outlives the VMs for which it
// signs.
type Chip struct {
	chain  *emuchain.Chain
	chipID snp.ChipID
}

// New makes a chip with fresh keys. That takes seconds, because the roots are RSA
// keys of 4096 bits, as AMD's are.
func New(rand io.Reader, now time.Time) (*Chip, error) {
	return newChip(rand, now, emuchain.DefaultRSABits)
}

// NewWeak is New with RSA keys of 2048 bits, for tests, which make many chips.
func NewWeak(rand io.Reader, now time.Time) (*Chip, error) { return newChip(rand, now, 2048) }

func newChip(rand io.Reader, now time.Time, bits int) (*Chip, error) {
	var id snp.ChipID
	if _, err := io.ReadFull(rand, id[:]); err != nil {
		return nil, fmt.Errorf("drawing a chip ID: %w", err)
	}
	chain, err := emuchain.New(rand, emuchain.Options{
		Product:   product,
		ChipID:    id,
		TCB:       tcb(),
		NotBefore: now.Add(-backdate).UTC().Truncate(time.Second),
		RSABits:   bits,
	})
	if err != nil {
		return nil, err
	}
	return &Chip{chain: chain, chipID: id}, nil
}

// fromChain returns the chip of a stored chain.
func fromChain(chain *emuchain.Chain) (*Chip, error) {
	e, err := snp.ParseKeyExtensions(chain.VCEK)
	if err != nil {
		return nil, err
	}
	switch p, err := e.Product(); {
	case err != nil:
		return nil, err
	case p != product:
		return nil, fmt.Errorf("VCEK is of %s, want %s", p, product)
	case e.TCB != tcb():
		return nil, fmt.Errorf("VCEK is of TCB %v, want %v: it was made by another version of rootvouch", e.TCB, tcb())
	case len(e.HWID) != len(snp.ChipID{}):
		return nil, fmt.Errorf("VCEK has a chip ID of %d bytes, want %d", len(e.HWID), len(snp.ChipID{}))
	}
	return &Chip{chain: chain, chipID: snp.ChipID(e.HWID)}, nil
}

// ARKDigest returns the name of the chip's root of trust in reference values: the
// SHA-256 of the ARK's DER.
func (c *Chip) ARKDigest() pins.Digest { return c.chain.ARKDigest() }

// Certificates returns the DER of VCEK, ASK and ARK.
func (c *Chip) Certificates() [][]byte { return c.chain.Certificates() }

// CRL issues a certificate revocation list of the ARK that revokes nothing and
// is fresh for 30 days.
func (c *Chip) CRL(rand io.Reader, now time.Time) ([]byte, error) {
	from := now.Add(-backdate).UTC().Truncate(time.Second)
	// CRL numbers must increase (RFC 5280, section 5.2.3), and seconds do.
	return c.chain.CRL(rand, now.Unix(), from, now.Add(crlValidity).UTC().Truncate(time.Second))
}
