package appraise_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// genoa returns the report of a VM on a Genoa processor, with the certificate of
// the key that signed it.
func genoa() (*snp.Report, appraise.Evidence) {
	dir := filepath.Join("..", "test", "amdtest", "testdata")
	text, err := os.ReadFile(filepath.Join(dir, "msteeav-genoa.report.hex"))
	if err != nil {
		panic(err)
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		panic(err)
	}
	vcek, err := os.ReadFile(filepath.Join(dir, "msteeav-genoa.leaf.der"))
	if err != nil {
		panic(err)
	}
	report, err := snp.ParseReport(raw)
	if err != nil {
		panic(err)
	}
	parsed, err := appraise.Parse(evidence.Evidence{Report: raw, Certificates: [][]byte{vcek}}, evidence.Plain)
	if err != nil {
		panic(err)
	}
	return report, parsed
}

var signedAt = time.Date(2026, 3, 5, 3, 0, 0, 0, time.UTC)

// A report is authenticated with its VCEK and AMD's certificates. Authenticate
// alone trusts no report: Appraise also compares the report with the owner's
// reference values.
func ExampleAuthenticate() {
	report, parsed := genoa()
	fmt.Println("version", report.Version, "signed by a", report.SigningKey)
	verdict := appraise.Authenticate(appraise.AuthenticityRequest{
		Evidence: parsed, Anchors: appraise.AMDAnchors(),
		Collateral: appraise.Collateral{Certificates: kds.AMDCertificates()},
		Now:        signedAt, Revocation: appraise.AcceptUnknownRevocation,
	})
	fmt.Println("authentic:", verdict.Authentic(), "trusted:", verdict.Trusted())
	// Output:
	// version 3 signed by a VCEK
	// authentic: true trusted: false
}

// A report is appraised by the reference values of its owner, and by those of an
// owner who measured another guest.
func ExampleAppraise() {
	report, parsed := genoa()
	for _, measurement := range []snp.Measurement{report.Measurement, {1}} {
		values := refval.New(refval.AMD(), []refval.Measurement{{
			Digest: measurement, VCPUs: 1, CPUType: "EPYC-v4", HostCode: refval.HostCodeNone, Kernel: refval.KernelUnmeasured, Gate: refval.GateNone,
		}}, refval.Product{Name: snp.Genoa, MinimumTCB: refval.Any[snp.TCB]()})
		values.IDKeyDigests = refval.Any[[]snp.KeyDigest]() // this cloud launches with an ID block
		verdict := appraise.Appraise(appraise.Request{
			Evidence: parsed, Values: values,
			ReportData: report.ReportData, // the value that the guest was asked to bind
			Collateral: appraise.Collateral{Certificates: kds.AMDCertificates()},
			Now:        signedAt, Revocation: appraise.AcceptUnknownRevocation,
		})
		fmt.Println(verdict.Outcome())
		for _, c := range verdict.Checks {
			if !c.OK {
				fmt.Println(c.Name)
			}
		}
	}
	// Output:
	// accepted
	// refused by policy
	// measurement
}
