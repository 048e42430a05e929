package appraise

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// authenticate makes every check of authenticity.
func (v *Verdict) authenticate(q Request, anchors Anchors) {
	e := q.Evidence
	v.Report = e.report
	v.authenticated = true
	v.group = Hardware
	v.addAuthenticity("report format", fmt.Sprintf("version %d, %d bytes", e.report.Version, snp.ReportSize),
		fmt.Sprintf("version %d to %d, reserved fields zero, signature in range", snp.MinVersion, snp.MaxVersion), nil)
	s := e.findSigner(q.Collateral, q.Memo)
	v.checkEndorsement(e.report, s)
	v.checkChain(s, q, anchors)
	v.checkSignature(s)
	v.group = Freshness
	v.checkReportData(e, q)
}

// errNoCertificate is the error for evidence whose endorsement key has a
// certificate neither in the evidence nor in the collateral.
var errNoCertificate = errors.New("no certificate of the endorsement key")

// checkEndorsement compares the report with the certificate of its alleged
// endorsement key.
func (v *Verdict) checkEndorsement(r *snp.Report, s *signer) {
	var missing error
	switch {
	case s == nil:
		missing = fmt.Errorf("%w: none in evidence or collateral fits SIGNING_KEY %s, CHIP_ID %s, REPORTED_TCB %s", errNoCertificate, r.SigningKey, r.ChipID, r.ReportedTCB)
	case s.extErr != nil:
		missing = s.extErr
	}
	if missing != nil {
		v.addAuthenticity("endorsement key", "", "a certificate with AMD's extensions", missing)
		return
	}
	e := s.endorsement
	v.addAuthenticity("endorsement key", fmt.Sprint(s.kind), fmt.Sprint(r.SigningKey), e.KeyErr)
	v.addAuthenticity("product", string(e.Product), "one product in report and certificate", e.ProductErr)
	if e.ProductErr != nil {
		return
	}
	v.Product, v.tcbs = e.Product, e.TCBs
	v.otherCertificate = s.kind == snp.VCEK && r.SigningKey == snp.VCEK && (e.TCBErr != nil || e.ChipErr != nil)
	got := fmt.Sprint(r.ReportedTCB)
	if e.TCBErr == nil {
		v.TCB = s.ext.TCB
		got = fmt.Sprint(v.TCB)
	}
	v.addAuthenticity("endorsed TCB", got, fmt.Sprint(s.ext.TCB), e.TCBErr)
	if s.kind == snp.VLEK {
		v.addAuthenticity("endorsed chip", "none: a VLEK stands for "+s.ext.CSPID, "none for a VLEK", nil)
		return
	}
	v.addAuthenticity("endorsed chip", r.ChipID.String(), fmt.Sprintf("%x", s.ext.HWID), e.ChipErr)
}

// checkChain checks root, chain, names, validity and revocation.
func (v *Verdict) checkChain(s *signer, q Request, anchors Anchors) {
	want := "signed up to " + anchors.what
	if s == nil {
		v.addAuthenticity("chain", "", want, errors.New("no certificate of the endorsement key"))
		return
	}
	candidates := append(append([]*x509.Certificate{}, q.Evidence.certificates...), q.Collateral.Certificates...)
	c, err := buildChain(s.cert, candidates, anchors, q.Memo)
	if err != nil {
		v.addAuthenticity("chain", "", want, err)
		return
	}
	v.addAuthenticity("chain", fmt.Sprintf("root %x", sha256.Sum256(c.root.Raw)), want, nil)
	got, err := c.names(v.Product, v.Report.SigningKey)
	v.addAuthenticity("names", got, "those of one product's chain", err)
	v.addAuthenticity("validity", c.validity(), "valid at "+stamp(q.Now), c.valid(q.Now))

	got, err = checkRevocation(c, q.Collateral.CRLs, q.Now, q.Memo)
	if q.Revocation == AcceptUnknownRevocation && errors.Is(err, errUnknownRevocation) {
		v.addNote("revocation: not checked, as was asked for: %v", err)
		got, err = "unknown, accepted by name", nil
	}
	v.addAuthenticity("revocation", got, "a fresh CRL of the root that revokes none of the chain", err)
}

// checkSignature checks that the endorsement key signed the report.
func (v *Verdict) checkSignature(s *signer) {
	const want = "ECDSA P-384 with SHA-384 by the endorsement key"
	if s == nil {
		v.addAuthenticity("signature", "", want, errors.New("no certificate of the endorsement key"))
		return
	}
	v.Key = keyDigest(s.cert)
	if s.verified == nil {
		v.Signer = s.cert
	}
	v.addAuthenticity("signature", "by key "+v.Key.String(), want, s.verified)
}

// keyDigest returns the SHA-256 of a certificate's SubjectPublicKeyInfo.
func keyDigest(c *x509.Certificate) pins.Digest { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// checkReportData checks that the report was made for this request.
func (v *Verdict) checkReportData(e Evidence, q Request) {
	got := [64]byte(e.report.ReportData)
	if e.hcl != nil {
		want := e.hcl.RuntimeBinding()
		var err error
		if got != want {
			err = fmt.Errorf("REPORT_DATA is %x, want %x: the hash of the HCL runtime data", got, want)
		}
		v.addAuthenticity("runtime data", fmt.Sprintf("%x", got), "hash of the HCL runtime data, then zeros", err)
		if got, err = e.userData, e.userDataErr; err != nil && !q.AcceptAnyReportData {
			v.addAuthenticity("REPORT_DATA", "", fmt.Sprintf("%x", q.ReportData), err)
			return
		}
	}
	if q.AcceptAnyReportData {
		v.unbound = true
		v.addNote("REPORT_DATA: not checked: nothing says who presents this report, or when it was made")
		return
	}
	var err error
	if !bytes.Equal(got[:], q.ReportData[:]) {
		err = fmt.Errorf("REPORT_DATA is %x, want %x", got, q.ReportData)
	}
	v.addAuthenticity("REPORT_DATA", fmt.Sprintf("%x", got), fmt.Sprintf("%x", q.ReportData), err)
}
