package appraise_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
	"github.com/rootvouch/rootvouch/test/amdtest"
)

// amd returns AMD's certificates and a CRL of Milan.
func amd(t testing.TB) appraise.Collateral {
	t.Helper()
	crl, err := x509.ParseRevocationList(amdtest.CRL(t))
	if err != nil {
		t.Fatal(err)
	}
	return appraise.Collateral{Certificates: kds.AMDCertificates(), CRLs: []*x509.RevocationList{crl}}
}

// TestVectors accepts and refuses the real reports as listed.
func TestVectors(t *testing.T) {
	collateral := amd(t)
	for _, v := range amdtest.Vectors(t) {
		if v.Leaf == nil {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			raw := evidence.Evidence{Report: v.Report, Certificates: [][]byte{v.Leaf}}
			q := appraise.AuthenticityRequest{
				Anchors:    appraise.AMDAnchors(),
				Collateral: collateral, Now: v.CheckTime, Revocation: appraise.AcceptUnknownRevocation,
			}
			got := authenticate(raw, evidence.Plain, q)
			if got.Trusted() {
				t.Error("authenticity alone is trusted")
			}
			if got.Authentic() != v.Valid {
				t.Fatalf("authentic: got %v, want %v\n%s", got.Authentic(), v.Valid, got)
			} else if !v.Valid {
				return
			}
			q.Revocation = appraise.RequireRevocation
			if got := authenticate(raw, evidence.Plain, q); got.Authentic() {
				t.Errorf("authentic without a fresh CRL\n%s", got)
			}
			appraiseVector(t, v, raw, q, got)
		})
	}
}

// appraiseVector judges a genuine report by reference values that fit it, except
// for values that no owner should accept.
func appraiseVector(t *testing.T, v amdtest.Vector, raw evidence.Evidence, q appraise.AuthenticityRequest, authentic appraise.Verdict) {
	r := authentic.Report
	values := refval.New(refval.AMD(), []refval.Measurement{{Digest: r.Measurement, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC"}}, anyTCB(snp.Genoa), anyTCB(snp.Turin))
	milan := strings.HasPrefix(v.Generation, "Milan")
	if milan { // most of these hosts are too old to say it
		values.PlatformInfo.AliasCheckComplete = refval.AnyBit
	}
	values.IDKeyDigests, values.AuthorKeyDigests = refval.Any[[]snp.KeyDigest](), refval.Any[[]snp.KeyDigest]()
	values.SigningKeys = []snp.SigningKey{snp.VCEK, snp.VLEK}
	values.VMPL = refval.Exactly(v.VMPL)
	request := asked{Evidence: raw, Request: appraise.Request{
		Values: values, ReportData: r.ReportData, Collateral: q.Collateral, Now: q.Now,
		Revocation: appraise.AcceptUnknownRevocation,
	}}
	got := request.judge()
	if got.Trusted() == milan {
		t.Errorf("Genoa and Turin accepted: trusted %v on %s\n%s", got.Trusted(), v.Generation, got)
	}
	if r.ChipID == (snp.ChipID{}) {
		if !strings.Contains(got.String(), "CHIP_ID is masked") {
			t.Errorf("no word of a masked CHIP_ID:\n%s", got)
		}
		masked := request
		masked.Values.Deny.ChipIDs = []snp.ChipID{{1}}
		if got := masked.judge(); got.Trusted() || !strings.Contains(got.String(), "FAILED  chip known") {
			t.Errorf("a masked CHIP_ID passes a list of denied chips:\n%s", got)
		}
	}
	if !milan {
		return
	}
	values.Products = append(values.Products, anyTCB(snp.Milan))
	request.Values = values
	got = request.judge()
	debug := r.Policy.Has(snp.PolicyDebug)
	if got.Trusted() == debug {
		t.Errorf("Milan accepted by name: trusted %v with debug %v\n%s", got.Trusted(), debug, got)
	}
	if debug && got.Outcome() != appraise.Refused {
		t.Errorf("outcome: got %s, want %s", got.Outcome(), appraise.Refused)
	}
	if !strings.Contains(got.String(), "Milan is accepted by name") {
		t.Errorf("the verdict does not say that it accepts Milan:\n%s", got)
	}
}

func anyTCB(p snp.Product) refval.Product {
	return refval.Product{Name: p, MinimumTCB: refval.Any[snp.TCB]()}
}

// TestVectorCRL judges a real report by a real CRL: fresh, stale, and before
// its time.
func TestVectorCRL(t *testing.T) {
	collateral, v := amd(t), amdtest.Find(t, "trustee-azure-v0")
	for _, row := range []struct {
		at string
		ok bool
	}{{"2025-07-01T00:00:00Z", true}, {"2025-05-01T00:00:00Z", false}, {"2026-05-12T00:00:00Z", true}, {"2026-05-12T00:00:01Z", false}, {"2026-11-23T00:00:00Z", false}} {
		now, err := time.Parse(time.RFC3339, row.at)
		if err != nil {
			t.Fatal(err)
		}
		raw := evidence.Evidence{Report: v.Report, Certificates: [][]byte{v.Leaf}}
		got := authenticate(raw, evidence.Plain, appraise.AuthenticityRequest{
			Anchors: appraise.AMDAnchors(), Collateral: collateral, Now: now,
		})
		if got.Authentic() != row.ok {
			t.Errorf("at %s: authentic %v, want %v\n%s", row.at, got.Authentic(), row.ok, got)
		}
	}
}

// TestVectorAzure judges a report inside its HCL blob. The guest's own value is in
// the runtime data, and a plain report is not accepted as a blob.
func TestVectorAzure(t *testing.T) {
	for _, name := range []string{"trustee-azure-v0", "trustee-azure-hcl", "trustee-azure-genoa"} {
		blob := amdtest.HCL(t, name)
		var zero [64]byte
		e := evidence.Evidence{Report: blob, Certificates: [][]byte{amdtest.Find(t, name).Leaf}}
		q := appraise.AuthenticityRequest{
			Anchors: appraise.AMDAnchors(), Collateral: amd(t),
			Now: time.Date(2025, 7, 1, 0, 0, 0, 0, time.UTC), ReportData: &zero,
		}
		if name == "trustee-azure-genoa" { // no list of Genoa is here
			q.Now, q.Revocation = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), appraise.AcceptUnknownRevocation
		}
		if got := authenticate(e, evidence.AzureHCL, q); !got.Authentic() {
			t.Errorf("%s: refused\n%s", name, got)
		}
		other := [64]byte{1}
		q.ReportData = &other
		if got := authenticate(e, evidence.AzureHCL, q); got.Authentic() {
			t.Errorf("%s: accepted with other user data\n%s", name, got)
		}
		q.ReportData = &zero
		changed := append([]byte{}, blob...)
		changed[1300] ^= 1 // inside the runtime data
		e.Report = changed
		if got := authenticate(e, evidence.AzureHCL, q); got.Authentic() {
			t.Errorf("%s: accepted with changed runtime data\n%s", name, got)
		}
		e.Report = blob
		if got := authenticate(e, evidence.Plain, q); got.Outcome() != appraise.Malformed || len(got.Checks) != 1 {
			t.Errorf("%s: as a plain report: got %s\n%s", name, got.Outcome(), got)
		}
	}
}

// TestVectorCompromisedChip refuses the chip whose keys are public, whatever
// the reference values say, even if a report of it were authentic.
func TestVectorCompromisedChip(t *testing.T) {
	cert, err := x509.ParseCertificate(amdtest.KeyCertificate(t, "compromised-tcb-2.0.5.6"))
	if err != nil {
		t.Fatal(err)
	}
	ext, err := snp.ParseKeyExtensions(cert)
	if err != nil {
		t.Fatal(err)
	}
	s := newSigner(t, snp.Milan)
	r := s.Unsigned(t, [64]byte{})
	r.ChipID = snp.ChipID(ext.HWID)
	got := request(t, s, s.Sign(t, r), nil).judge()
	if got.Trusted() || !strings.Contains(got.String(), "FAILED  chip not compromised") {
		t.Errorf("the chip is not denied:\n%s", got)
	}
}
