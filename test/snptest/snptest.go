// Package snptest makes true reports for tests: signed by the key of an
// emulated chain, with the certificates and the CRL that a verifier needs.
package snptest

import (
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/emuchain"
)

// Signer is a chip that signs any report.
type Signer struct {
	Product snp.Product
	ChipID  snp.ChipID
	TCB     snp.TCB
	Chain   *emuchain.Chain
}

// Now returns the time at which all certificates and CRLs here are valid.
func Now() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

// New returns a signer with a chain of its own. That takes a fraction of a second,
// so tests share a signer if they can.
func New(t testing.TB, product snp.Product) *Signer {
	t.Helper()
	s := &Signer{Product: product, ChipID: snp.ChipID{0xc1, 2, 3, 4, 5, 6, 7, 8}, TCB: snp.TCB{Bootloader: 10, TEE: 1, SNP: 23, Microcode: 84}}
	if product == snp.Turin {
		s.TCB.FMC = 1
	}
	var err error
	s.Chain, err = emuchain.New(rand.Reader, emuchain.Options{
		Product: product, ChipID: s.ChipID, TCB: s.TCB, NotBefore: Now().AddDate(-1, 0, 0), RSABits: 2048,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Unsigned returns a report, not yet signed, of a guest that a careful owner
// accepts: version 5, no debugging, VMPL 0, no ID block.
func (s *Signer) Unsigned(t testing.TB, reportData [64]byte) *snp.Report {
	t.Helper()
	tcb, err := s.Product.EncodeTCB(s.TCB)
	if err != nil {
		t.Fatal(err)
	}
	r := &snp.Report{
		Version: 5, Policy: snp.PolicyReservedOne | snp.PolicySMT, SignatureAlgo: 1, PlatformInfo: snp.PlatformSMT,
		CurrentTCB: tcb, ReportedTCB: tcb, CommittedTCB: tcb, LaunchTCB: tcb,
		ReportData: reportData, Measurement: snp.Measurement{0x4d, 1}, ReportID: snp.ReportID{0x1d},
		CPUID: s.Product.Example(), ChipID: s.ChipID,
		Current: snp.Firmware{Build: 49, Minor: 55, Major: 1}, Committed: snp.Firmware{Build: 49, Minor: 55, Major: 1},
	}
	for i := range r.ReportIDMA {
		r.ReportIDMA[i] = 0xff
	}
	return r
}

// Sign signs r and returns it with the certificates of the chain.
func (s *Signer) Sign(t testing.TB, r *snp.Report) evidence.Evidence {
	t.Helper()
	if err := r.Sign(rand.Reader, s.Chain.VCEKKey); err != nil {
		t.Fatal(err)
	}
	return evidence.Evidence{Report: r.Marshal(), Certificates: s.Chain.Certificates()}
}

// Evidence returns evidence of Unsigned's guest.
func (s *Signer) Evidence(t testing.TB, reportData [64]byte) evidence.Evidence {
	t.Helper()
	return s.Sign(t, s.Unsigned(t, reportData))
}

// CRL returns a CRL of the chain's ARK, fresh at Now, that revokes the given
// certificates.
func (s *Signer) CRL(t testing.TB, revoked ...*x509.Certificate) *x509.RevocationList {
	t.Helper()
	return s.CRLAt(t, 1, Now().Add(-time.Hour), Now().Add(time.Hour), revoked...)
}

// CRLAt returns a CRL with a number and times.
func (s *Signer) CRLAt(t testing.TB, number int64, thisUpdate, nextUpdate time.Time, revoked ...*x509.Certificate) *x509.RevocationList {
	t.Helper()
	serials := make([]*big.Int, 0, len(revoked))
	for _, c := range revoked {
		serials = append(serials, c.SerialNumber)
	}
	der, err := s.Chain.CRL(rand.Reader, number, thisUpdate, nextUpdate, serials...)
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return crl
}
