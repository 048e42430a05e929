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
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// A report of a Genoa processor is parsed, then authenticated with its VCEK and
// AMD's certificates. Authenticate alone trusts nobody: Appraise also compares
// the report with the owner's reference values.
func ExampleAuthenticate() {
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
	fmt.Println("version", report.Version, "signed by a", report.SigningKey)

	parsed, err := appraise.Parse(evidence.Evidence{Report: raw, Certificates: [][]byte{vcek}}, evidence.Plain)
	if err != nil {
		panic(err)
	}
	verdict := appraise.Authenticate(appraise.AuthenticityRequest{
		Evidence: parsed, Anchors: appraise.AMDAnchors(),
		Collateral: appraise.Collateral{Certificates: kds.AMDCertificates()},
		Now:        time.Date(2026, 3, 5, 3, 0, 0, 0, time.UTC), Revocation: appraise.AcceptUnknownRevocation,
	})
	fmt.Println("authentic:", verdict.Authentic(), "trusted:", verdict.Trusted())
	// Output:
	// version 3 signed by a VCEK
	// authentic: true trusted: false
}
