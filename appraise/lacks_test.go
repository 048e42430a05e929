package appraise_test

import (
	"crypto/x509"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// TestLacksCertificate: which refusals a certificate may mend.
func TestLacksCertificate(t *testing.T) {
	s := snptest.New(t, snp.Genoa)
	values := refval.New(refval.EmulatedARK(s.Chain.ARKDigest()), []refval.Measurement{{
		Digest: s.Unsigned(t, [64]byte{7}).Measurement, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured,
		Gate: refval.GateNone, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, VCPUs: 1, CPUType: "EPYC-v4",
	}})
	for _, c := range []struct {
		name  string
		edit  func(*snp.Report)
		bare  bool
		lacks bool
	}{
		{"all there", func(*snp.Report) {}, false, false},
		{"no certificate", func(*snp.Report) {}, true, true},
		{"that of another TCB", func(r *snp.Report) { r.ReportedTCB++ }, false, true},
		{"that of another chip", func(r *snp.Report) { r.ChipID[0]++ }, false, true},
		{"another measurement", func(r *snp.Report) { r.Measurement[0]++ }, false, false},
	} {
		r := s.Unsigned(t, [64]byte{7})
		c.edit(r)
		e := s.Sign(t, r)
		if c.bare {
			e.Certificates = nil
		}
		encoded, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		read, err := appraise.Read(encoded, evidence.Plain)
		if err != nil {
			t.Fatal(err)
		}
		v := appraise.Appraise(appraise.Request{
			Evidence: read, Values: values, ReportData: [64]byte{7}, Now: snptest.Now(),
			Collateral: appraise.Collateral{Certificates: []*x509.Certificate{s.Chain.ASK, s.Chain.ARK}, CRLs: []*x509.RevocationList{s.CRL(t)}},
		})
		if v.LacksCertificate() != c.lacks {
			t.Errorf("%s: LacksCertificate is %t, want %t: %v", c.name, v.LacksCertificate(), c.lacks, v.Err())
		}
		if c.bare && !strings.Contains(v.Err().Error(), r.ChipID.String()) {
			t.Errorf("%s: %v does not name the chip", c.name, v.Err())
		}
	}
}
