package appraise_test

import (
	"bytes"
	"crypto/x509"
	"testing"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/amdtest"
)

// bits calls f with copies of data in which one bit is flipped: one bit in
// every stride, in `make test` one in every full.
func bits(data []byte, stride, full int, f func(at int, changed []byte)) {
	if needs.Full() {
		stride = full
	}
	for at := 0; at < 8*len(data); at += stride {
		bit := min(at+at/stride%8, 8*len(data)-1)
		changed := bytes.Clone(data)
		changed[bit/8] ^= 1 << (bit % 8)
		f(bit, changed)
	}
}

// TestMutatedReport flips the bits of an accepted report. Nothing is accepted,
// and nothing panics.
func TestMutatedReport(t *testing.T) {
	for p, full := range map[snp.Product]int{snp.Genoa: 1, snp.Turin: 8} {
		s := newSigner(t, p)
		q := request(t, s, s.Evidence(t, [64]byte{}), func(q *asked) { q.Memo = &appraise.Memo{} })
		if v := q.judge(); !v.Trusted() {
			t.Fatalf("the report is not accepted to begin with\n%s", v)
		}
		report := q.Evidence.Report
		bits(report, 16, full, func(at int, changed []byte) {
			q.Evidence.Report = changed
			if v := q.judge(); v.Trusted() || v.Authentic() {
				t.Errorf("%s: accepted with bit %d flipped\n%s", p, at, v)
			}
		})
	}
}

// TestMutatedCertificates flips the bits of each certificate of an accepted
// chain, and of its CRL. Nothing is accepted, and nothing panics.
func TestMutatedCertificates(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	q := request(t, s, s.Evidence(t, [64]byte{}), nil)
	chain := s.Chain.Certificates()
	for i := range chain {
		bits(chain[i], 64, 5, func(at int, changed []byte) {
			q.Evidence.Certificates = s.Chain.Certificates()
			q.Evidence.Certificates[i] = changed
			if v := q.judge(); v.Trusted() || v.Authentic() {
				t.Errorf("accepted with bit %d of certificate %d flipped\n%s", at, i, v)
			}
		})
	}
	q.Evidence.Certificates = chain
	bits(q.Collateral.CRLs[0].Raw, 64, 5, func(at int, changed []byte) {
		crl, err := x509.ParseRevocationList(changed)
		if err != nil {
			return
		}
		q.Collateral.CRLs = []*x509.RevocationList{crl}
		if v := q.judge(); v.Trusted() {
			t.Errorf("accepted with bit %d of the CRL flipped\n%s", at, v)
		}
	})
}

// TestMutatedVectors does the same to a sample of bits of real reports and
// their certificates.
func TestMutatedVectors(t *testing.T) {
	collateral := amd(t)
	for _, name := range []string{"gsg-milan", "ars-genoa-v5", "msteeav-turin", "trustee-milan-vlek-aws"} {
		v := amdtest.Find(t, name)
		report, leaf := v.Report, v.Leaf
		q := appraise.AuthenticityRequest{
			Anchors: appraise.AMDAnchors(), Collateral: collateral, Now: v.CheckTime, Revocation: appraise.AcceptUnknownRevocation,
		}
		judge := func(what string, at int, report, leaf []byte) {
			if got := authenticate(evidence.Evidence{Report: report, Certificates: [][]byte{leaf}}, evidence.Plain, q); got.Authentic() {
				t.Errorf("%s: authentic with bit %d of the %s flipped\n%s", v.Name, at, what, got)
			}
		}
		stride := 256
		if needs.Full() {
			stride = 16
		}
		for at := 3; at < 8*len(report); at += stride + 1 {
			changed := bytes.Clone(report)
			changed[at/8] ^= 1 << (at % 8)
			judge("report", at, changed, leaf)
		}
		for at := 3; at < 8*len(leaf); at += stride + 1 {
			changed := bytes.Clone(leaf)
			changed[at/8] ^= 1 << (at % 8)
			judge("leaf", at, report, changed)
		}
	}
}

// FuzzAppraise appraises changed evidence. Only the exact report and leaf that were
// signed may be accepted.
func FuzzAppraise(f *testing.F) {
	s := newSigner(f, snp.Genoa)
	e := s.Evidence(f, [64]byte{})
	q := request(f, s, e, func(q *asked) { q.Memo = &appraise.Memo{} })
	f.Add(e.Report, e.Certificates[0], e.Certificates[1])
	f.Add(e.Report, e.Certificates[1], e.Certificates[0])
	f.Add(e.Report[:100], e.Certificates[0], []byte{})
	f.Fuzz(func(t *testing.T, report, leaf, ca []byte) {
		r := q
		r.Evidence = evidence.Evidence{Report: report, Certificates: [][]byte{leaf, ca, e.Certificates[2]}}
		v := r.judge()
		_ = v.String()
		if v.Trusted() && (!bytes.Equal(report[:0x2a0], e.Report[:0x2a0]) || !bytes.Equal(leaf, e.Certificates[0])) {
			t.Errorf("accepted evidence that nobody signed\n%s", v)
		}
	})
}
