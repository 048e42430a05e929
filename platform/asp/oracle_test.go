package asp

import (
	"crypto/rand"
	"crypto/x509"
	"testing"

	"github.com/google/go-sev-guest/abi"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"github.com/rootvouch/rootvouch/snp"
)

// go-sev-guest, an independent verifier, accepts the reports if it is given the
// chip's ARK, and refuses them if it is given another.
func TestOracle(t *testing.T) {
	chip := mustChip(t)
	other, err := NewWeak(rand.Reader, issued)
	if err != nil {
		t.Fatal(err)
	}
	request := snp.ReportRequest{ReportData: snp.ReportData{42}}
	answer, err := mustLaunch(t, chip).Answer(request.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	response, table := split(t, answer)
	attestation := func() *spb.Attestation {
		report, err := abi.ReportToProto(response.Report)
		if err != nil {
			t.Fatal(err)
		}
		certificates := new(abi.CertTable)
		if err := certificates.Unmarshal(table); err != nil {
			t.Fatal(err)
		}
		return &spb.Attestation{Report: report, CertificateChain: certificates.Proto()}
	}
	options := func(c *Chip) *verify.Options {
		o := verify.DefaultOptions()
		o.DisableCertFetching = true
		o.Now = issued
		root := &trust.AMDRootCerts{
			ProductLine: "Genoa",
			ProductCerts: &trust.ProductCerts{
				Ask: c.chain.ASK, Ark: c.chain.ARK,
			},
		}
		o.TrustedRoots = map[string][]*trust.AMDRootCerts{"Genoa": {root}}
		der, err := c.CRL(rand.Reader, issued)
		if err != nil {
			t.Fatal(err)
		}
		if root.CRL, err = x509.ParseRevocationList(der); err != nil {
			t.Fatal(err)
		}
		o.CheckRevocations = true
		return o
	}
	if err := verify.SnpAttestation(attestation(), options(chip)); err != nil {
		t.Errorf("go-sev-guest refuses our report: %v", err)
	}
	if err := verify.SnpAttestation(attestation(), options(other)); err == nil {
		t.Error("go-sev-guest accepts our report under another root")
	}
}
