package appraise_test

import (
	"crypto/x509"
	"testing"

	"github.com/google/go-sev-guest/verify"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/amdtest"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// benchRequest is the judgement of an emulated guest.
func benchRequest(b *testing.B) asked {
	b.Helper()
	s := snptest.New(b, snp.Genoa)
	return request(b, s, s.Evidence(b, [64]byte{}), nil)
}

// BenchmarkAppraise judges a report whose certificates come with it, as a
// server does: with a memo.
func BenchmarkAppraise(b *testing.B) {
	q := benchRequest(b)
	q.Memo = &appraise.Memo{}
	for b.Loop() {
		if v := q.judge(); !v.Trusted() {
			b.Fatal(v)
		}
	}
}

// BenchmarkAppraiseAMD judges a real report with AMD's chain of RSA-4096 keys, with
// every signature verified again.
func BenchmarkAppraiseAMD(b *testing.B) {
	collateral := amd(b)
	v := amdtest.Find(b, "msteeav-genoa")
	report, err := snp.ParseReport(v.Report)
	if err != nil {
		b.Fatal(err)
	}
	values := refval.New(refval.AMD(), []refval.Measurement{{Digest: report.Measurement, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC"}}, anyTCB(snp.Genoa))
	values.IDKeyDigests, values.AuthorKeyDigests = refval.Any[[]snp.KeyDigest](), refval.Any[[]snp.KeyDigest]()
	q := asked{Evidence: evidence.Evidence{Report: v.Report, Certificates: [][]byte{v.Leaf}}, Request: appraise.Request{
		Values: values, ReportData: report.ReportData, Collateral: collateral, Now: v.CheckTime,
		Revocation: appraise.AcceptUnknownRevocation,
	}}
	for b.Loop() {
		if v := q.judge(); !v.Trusted() {
			b.Fatal(v)
		}
	}
}

// BenchmarkGoSevGuestSignature measures the least work of another verifier: the
// report's signature alone.
func BenchmarkGoSevGuestSignature(b *testing.B) {
	q := benchRequest(b)
	leaf, err := x509.ParseCertificate(q.Evidence.Certificates[0])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := verify.SnpReportSignature(q.Evidence.Report, leaf); err != nil {
			b.Fatal(err)
		}
	}
}
