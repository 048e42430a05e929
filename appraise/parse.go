package appraise

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/snp"
)

// Evidence is parsed, unverified evidence. The zero value is no evidence, and
// [Appraise] refuses it.
type Evidence struct {
	report       *snp.Report
	certificates []*x509.Certificate

	// Set for an Azure HCL blob only.
	hcl         *evidence.HCL
	userData    [64]byte
	userDataErr error
}

// Claims returns the fields of the report, unverified. They are zero for the
// zero Evidence.
func (e Evidence) Claims() snp.Report {
	if e.report == nil {
		return snp.Report{}
	}
	return *e.report
}

// Certificates returns the certificates that came with the report, unverified.
func (e Evidence) Certificates() []*x509.Certificate { return slices.Clone(e.certificates) }

// formatError is an error of [Parse]. It names the malformed part as checks do.
type formatError struct {
	part string
	err  error
}

func (e *formatError) Error() string { return e.part + ": " + e.err.Error() }
func (e *formatError) Unwrap() error { return e.err }

// Read decodes an evidence document and parses it.
func Read(document []byte, kind evidence.Kind) (Evidence, error) {
	e, err := evidence.Decode(document)
	if err != nil {
		return Evidence{}, err
	}
	return Parse(e, kind)
}

// Parse decodes the report, the wrapper of a cloud around it, and the certificates. It
// stops at the first error.
//
// The kind is the verifier's choice: never take it from the party that presents
// the evidence.
func Parse(raw evidence.Evidence, kind evidence.Kind) (Evidence, error) {
	return parse(raw, kind, x509.ParseCertificate)
}

// Read does the same as the function [Read], but parses each certificate once. It
// is for a server that reads the same certificates often.
func (m *Memo) Read(document []byte, kind evidence.Kind) (Evidence, error) {
	e, err := evidence.Decode(document)
	if err != nil {
		return Evidence{}, err
	}
	return parse(e, kind, m.certificate)
}

func parse(raw evidence.Evidence, kind evidence.Kind, certificate func([]byte) (*x509.Certificate, error)) (Evidence, error) {
	var e Evidence
	report := raw.Report
	switch kind {
	case evidence.Plain:
	case evidence.AzureHCL:
		hcl, err := evidence.ParseHCL(raw.Report)
		if err != nil {
			return Evidence{}, &formatError{"report format", err}
		}
		e.hcl, report = &hcl, hcl.Report
		e.userData, e.userDataErr = hcl.UserData()
	default:
		return Evidence{}, &formatError{"report format", fmt.Errorf("kind of evidence is %d, want plain or azure-hcl", int(kind))}
	}
	var err error
	if e.report, err = snp.ParseReport(report); err != nil {
		return Evidence{}, &formatError{"report format", err}
	}
	if n := len(raw.Certificates); n > evidence.MaxCertificates {
		return Evidence{}, &formatError{"certificate format", fmt.Errorf("got %d certificates, want at most %d", n, evidence.MaxCertificates)}
	}
	for i, der := range raw.Certificates {
		cert, err := certificate(der)
		if err != nil {
			return Evidence{}, &formatError{"certificate format", fmt.Errorf("parsing certificate %d: %v", i, err)}
		}
		e.certificates = append(e.certificates, cert)
	}
	return e, nil
}

// NotEvidence returns the verdict on input that [Parse] or [Read] refused with
// err.
func NotEvidence(err error) Verdict {
	if format, ok := errors.AsType[*formatError](err); ok {
		return malformed(format.part, format.err)
	}
	return malformed("evidence format", err)
}

// signer is a certificate that may be the endorsement key's, with the results of
// its comparison with the report.
type signer struct {
	cert        *x509.Certificate
	ext         snp.KeyExtensions
	kind        snp.SigningKey
	extErr      error           // the certificate lacks AMD's extensions
	endorsement snp.Endorsement // unless extErr
	verified    error           // nil: its key signed the report
}

func newSigner(cert *x509.Certificate, r *snp.Report, memo *Memo) *signer {
	s := &signer{cert: cert, verified: errors.New("not verified")}
	if s.ext, s.extErr = snp.ParseKeyExtensions(cert); s.extErr == nil {
		s.kind = s.ext.Kind()
		s.endorsement = s.ext.Endorse(r)
	}
	if key, ok := cert.PublicKey.(*ecdsa.PublicKey); ok {
		s.verified = memo.verify(r, cert, key)
	} else {
		s.verified = fmt.Errorf("endorsement key is %s, want ECDSA", cert.PublicKeyAlgorithm)
	}
	return s
}

func (s *signer) fits() bool { return s.extErr == nil && s.endorsement.OK() && s.verified == nil }

// findSigner returns the certificate of the endorsement key: the first certificate
// that fits the report, among the evidence's first and the collateral's. If none
// fits, it returns the evidence's first, and the verdict shows its faults. If the
// evidence has no certificate, it returns nil.
func (e Evidence) findSigner(c Collateral, memo *Memo) *signer {
	candidates := c.Certificates
	brings := len(e.certificates) > 0 && !e.certificates[0].IsCA
	if brings {
		candidates = append([]*x509.Certificate{e.certificates[0]}, candidates...)
	}
	var first *signer
	for i, cert := range candidates {
		if cert.IsCA {
			continue
		}
		s := newSigner(cert, e.report, memo)
		if s.fits() {
			return s
		}
		if brings && i == 0 {
			first = s
		}
	}
	return first
}
