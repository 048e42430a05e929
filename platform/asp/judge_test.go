package asp

import (
	"crypto/rand"
	"path/filepath"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// Our judge trusts the evidence with the reference values and the collateral
// that an owner would take from the directory of a chip, and with no others.
func TestJudge(t *testing.T) {
	chip := mustChip(t)
	dir := filepath.Join(t.TempDir(), "asp")
	if err := chip.Create(dir, rand.Reader, issued); err != nil {
		t.Fatal(err)
	}
	certificates, crls, err := kds.LoadDir(filepath.Join(dir, CollateralDir))
	if err != nil {
		t.Fatal(err)
	}
	q := snp.ReportRequest{ReportData: snp.ReportData{1, 2, 3}}
	report, err := mustLaunch(t, chip).Report(q)
	if err != nil {
		t.Fatal(err)
	}
	measured := refval.Measurement{Digest: testLaunch().Measurement, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a"}
	measured.VCPUs, measured.CPUType = 2, "EPYC-v4"
	good := func() appraise.Request {
		v := refval.New(refval.EmulatedARK(chip.ARKDigest()), []refval.Measurement{measured})
		e, err := appraise.Parse(evidence.Evidence{Report: report.Marshal(), Certificates: chip.Certificates()}, evidence.Plain)
		if err != nil {
			t.Fatal(err)
		}
		return appraise.Request{
			Evidence:   e,
			Values:     v,
			ReportData: q.ReportData,
			Collateral: appraise.Collateral{Certificates: certificates, CRLs: crls},
			Now:        issued,
		}
	}
	if v := appraise.Appraise(good()); !v.Trusted() {
		t.Errorf("not trusted:\n%v", v)
	}
	for name, edit := range map[string]func(*appraise.Request){
		"AMD's root":          func(r *appraise.Request) { r.Values.RootOfTrust = refval.AMD() },
		"no CRL":              func(r *appraise.Request) { r.Collateral.CRLs = nil },
		"a CRL out of date":   func(r *appraise.Request) { r.Now = issued.Add(crlValidity + time.Hour) },
		"other report data":   func(r *appraise.Request) { r.ReportData[0]++ },
		"another measurement": func(r *appraise.Request) { r.Values.Measurements[0].Digest[0]++ },
	} {
		r := good()
		edit(&r)
		if v := appraise.Appraise(r); v.Trusted() {
			t.Errorf("%s: trusted", name)
		}
	}
}
