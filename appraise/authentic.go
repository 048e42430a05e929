package appraise

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// authenticate makes every check of authenticity. It returns false when the
// evidence is malformed: then that is the verdict's only check.
func (v *Verdict) authenticate(q Request, anchors Anchors) bool {
	p, where, err := parse(q)
	if err != nil {
		*v = v.malformed(where, err)
		return false
	}
	v.Report = p.report
	v.authenticated = true
	v.authentic("report format", fmt.Sprintf("version %d, %d bytes", p.report.Version, snp.ReportSize), "version 2 to 5, reserved fields zero, signature in range", nil)
	v.checkEndorsement(p)
	v.checkChain(p, q, anchors)
	v.checkSignature(p)
	v.checkReportData(p, q)
	return true
}

// checkEndorsement compares the report with the certificate of the key that is
// said to have signed it.
func (v *Verdict) checkEndorsement(p parsed) {
	missing := p.extErr
	if p.leaf == nil {
		missing = fmt.Errorf("no certificate of the %s is in evidence or collateral", p.report.SigningKey)
	}
	if missing != nil {
		v.authentic("endorsement key", "", "a certificate with AMD's extensions", missing)
		return
	}
	var err error
	if p.ext.Kind() != p.report.SigningKey {
		err = fmt.Errorf("certificate is of a %s, want a %s: the report's SIGNING_KEY", p.ext.Kind(), p.report.SigningKey)
	}
	v.authentic("endorsement key", p.ext.Kind().String(), p.report.SigningKey.String(), err)

	product, err := agreedProduct(p.report, p.ext)
	v.authentic("product", string(product), "one product in report and certificate", err)
	if err != nil {
		return
	}
	v.Product = product
	got := p.report.ReportedTCB.String()
	if err = checkTCB(p.report, p.ext); err == nil {
		v.TCB = p.ext.TCB
		got = v.TCB.String()
	}
	v.authentic("endorsed TCB", got, p.ext.TCB.String(), err)

	if p.ext.Kind() == snp.VLEK {
		v.authentic("endorsed chip", "none: a VLEK stands for "+p.ext.CSPID, "none for a VLEK", nil)
		return
	}
	err = nil
	if !p.ext.MatchesChip(p.report.ChipID) {
		err = fmt.Errorf("CHIP_ID is %s, want %x: the certificate's chip", p.report.ChipID, p.ext.HWID)
	}
	v.authentic("endorsed chip", p.report.ChipID.String(), fmt.Sprintf("%x", p.ext.HWID), err)
}

// agreedProduct returns the product that the certificate names, if the report
// does not name another. A version 2 report names none.
func agreedProduct(r *snp.Report, ext snp.KeyExtensions) (snp.Product, error) {
	product, err := ext.Product()
	if err != nil {
		return "", err
	}
	if r.Version < 3 {
		return product, nil
	}
	named, err := r.Product()
	if err != nil {
		return "", err
	}
	if named != product {
		return "", fmt.Errorf("report is of %s (CPUID %s), certificate of %s", named, r.CPUID, product)
	}
	return product, nil
}

// checkTCB compares REPORTED_TCB with what the certificate stands for.
func checkTCB(r *snp.Report, ext snp.KeyExtensions) error {
	product, err := ext.Product()
	if err != nil {
		return err
	}
	if err := r.CheckTCBs(product); err != nil {
		return err
	}
	got, err := product.DecodeTCB(r.ReportedTCB)
	if err != nil {
		return err
	}
	if got != ext.TCB {
		return fmt.Errorf("REPORTED_TCB is %s, want %s: the certificate's TCB", got, ext.TCB)
	}
	return nil
}

// checkChain checks root, chain, names, validity and revocation.
func (v *Verdict) checkChain(p parsed, q Request, anchors Anchors) {
	want := "signed up to " + anchors.what
	if p.leaf == nil {
		v.authentic("chain", "", want, errors.New("no certificate of the endorsement key"))
		return
	}
	candidates := append(append([]*x509.Certificate{}, p.offered...), q.Collateral.Certificates...)
	c, err := buildChain(p.leaf, candidates, anchors, q.Memo)
	if err != nil {
		v.authentic("chain", "", want, err)
		return
	}
	v.authentic("chain", fmt.Sprintf("root %x", sha256.Sum256(c.root.Raw)), want, nil)
	got, err := c.names(v.Product, p.report.SigningKey)
	v.authentic("names", got, "those of one product's chain", err)
	v.authentic("validity", c.validity(), "valid at "+stamp(q.Now), c.valid(q.Now))

	got, err = checkRevocation(c, q.Collateral.CRLs, q.Now, q.Memo)
	if q.Revocation == AcceptUnknownRevocation && errors.Is(err, errUnknownRevocation) {
		v.note("revocation: not checked, as was asked for: %v", err)
		got, err = "unknown, accepted by name", nil
	}
	v.authentic("revocation", got, "a fresh CRL of the root that revokes none of the chain", err)
}

// checkSignature checks that the endorsement key signed the report.
func (v *Verdict) checkSignature(p parsed) {
	const want = "ECDSA P-384 with SHA-384 by the endorsement key"
	if p.leaf == nil {
		v.authentic("signature", "", want, errors.New("no certificate of the endorsement key"))
		return
	}
	key, ok := p.leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		v.authentic("signature", "", want, fmt.Errorf("endorsement key is %s, want ECDSA", p.leaf.PublicKeyAlgorithm))
		return
	}
	v.Key = keyDigest(p.leaf)
	v.authentic("signature", "by key "+v.Key.String(), want, p.report.Verify(key))
}

// keyDigest returns the SHA-256 of a certificate's SubjectPublicKeyInfo.
func keyDigest(c *x509.Certificate) pins.Digest { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// checkReportData checks that the report was made for this request.
func (v *Verdict) checkReportData(p parsed, q Request) {
	got := [64]byte(p.report.ReportData)
	if p.hcl != nil {
		want := p.hcl.RuntimeBinding()
		var err error
		if got != want {
			err = fmt.Errorf("REPORT_DATA is %x, want %x: the hash of the HCL runtime data", got, want)
		}
		v.authentic("runtime data", fmt.Sprintf("%x", got), "SHA-256 of the HCL runtime data, then zeros", err)
		if got, err = p.hcl.UserData(); err != nil && !q.AcceptAnyReportData {
			v.authentic("REPORT_DATA", "", fmt.Sprintf("%x", q.ReportData), err)
			return
		}
	}
	if q.AcceptAnyReportData {
		v.note("REPORT_DATA: not checked: nothing says who presents this report, or when it was made")
		return
	}
	var err error
	if !bytes.Equal(got[:], q.ReportData[:]) {
		err = fmt.Errorf("REPORT_DATA is %x, want %x", got, q.ReportData)
	}
	v.authentic("REPORT_DATA", fmt.Sprintf("%x", got), fmt.Sprintf("%x", q.ReportData), err)
}
