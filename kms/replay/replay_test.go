package replay_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/replay"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
)

const window = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// log is a directory of contents, and leaves that refer to them.
type log struct {
	t    *testing.T
	dir  tlogdir.Dir
	chip *snptest.Signer
	put  audit.AboutChange
}

func newLog(t *testing.T) *log {
	l := &log{t: t, dir: tlogdir.Dir(t.TempDir()), chip: snptest.New(t, snp.Genoa)}
	v := refval.New(refval.EmulatedARK(l.chip.Chain.ARKDigest()), []refval.Measurement{{Digest: snp.Measurement{0x4d, 1}, VCPUs: 1, CPUType: "EPYC-v4", HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a"}})
	values, err := v.Encode()
	must(t, err)
	l.put = audit.AboutChange{Disk: pins.UUID{1}, SPIFFEID: "spiffe://example.org/vm", Generation: 1, Evidence: "required",
		ReferenceValues: l.blob(values), Header: pins.Digest{2}}
	return l
}

func (l *log) blob(data []byte) pins.Digest {
	l.t.Helper()
	must(l.t, l.dir.PutBlob(data))
	return digest(data)
}

// release is a leaf about a release that was right.
func (l *log) release(launch byte) audit.AboutRelease {
	l.t.Helper()
	spki := []byte("spki")
	hpke := keyapi.PublicKey{5}
	nonce := evidence.Nonce{launch}
	report := l.chip.Unsigned(l.t, evidence.KeyRelease(nonce, l.put.Disk, spki, hpke[:]))
	report.ReportID = snp.ReportID{launch}
	e := l.chip.Sign(l.t, report)
	p := &audit.Proof{Time: snptest.Now(), Nonce: nonce, SPKI: spki, HPKEPublicKey: hpke, Report: e.Report, ReferenceValues: l.put.ReferenceValues,
		Collateral: l.collateral(l.chip.CRL(l.t))}
	for _, der := range e.Certificates {
		p.Certificates = append(p.Certificates, l.blob(der))
	}
	return audit.AboutRelease{Request: audit.Request{SPIFFEID: l.put.SPIFFEID, Disk: l.put.Disk, SHA256: pins.Digest{launch}, ReportID: snp.ReportID{launch}},
		Generation: 1, Proof: p}
}

func (l *log) collateral(crls ...*x509.RevocationList) pins.Digest {
	list := audit.CollateralList{Certificates: []pins.Digest{}, CRLs: []pins.Digest{}}
	for _, crl := range crls {
		list.CRLs = append(list.CRLs, l.blob(crl.Raw))
	}
	return l.blob(list.Encode())
}

// TestJudgeFinds what should not have been, one thing at a time.
func TestJudgeFinds(t *testing.T) {
	l := newLog(t)
	leaf := func(event audit.Event, about audit.Body) audit.Leaf {
		return audit.Leaf{Time: snptest.Now(), Entry: audit.Entry{Event: event, About: about}}
	}
	put := leaf(audit.Put, l.put)
	changed := func(change func(*audit.AboutRelease)) audit.Leaf {
		a := l.release(1)
		change(&a)
		return leaf(audit.Release, a)
	}
	good := func() audit.Leaf { return changed(func(*audit.AboutRelease) {}) }
	for _, c := range []struct {
		name   string
		leaves func() []audit.Leaf
		want   string // of the last; the others are right
	}{
		{"right", func() []audit.Leaf { return []audit.Leaf{put, good()} }, ""},
		{"no record", func() []audit.Leaf { return []audit.Leaf{good()} }, "has no record"},
		{"deleted", func() []audit.Leaf { return []audit.Leaf{put, leaf(audit.Delete, l.put), good()} }, "has no record"},
		{"disabled", func() []audit.Leaf { return []audit.Leaf{put, leaf(audit.Disable, l.put), good()} }, "is disabled"},
		{"enabled again", func() []audit.Leaf {
			return []audit.Leaf{put, leaf(audit.Disable, l.put), leaf(audit.Enable, l.put), good()}
		}, ""},
		{"twice", func() []audit.Leaf { return []audit.Leaf{put, good(), good()} }, "had the key"},
		{"again", func() []audit.Leaf {
			a := l.release(1)
			return []audit.Leaf{put, leaf(audit.Release, a), leaf(audit.ReleaseAgain, a)}
		}, ""},
		{"again for another request", func() []audit.Leaf {
			a := l.release(1)
			b := a
			b.SHA256 = pins.Digest{9}
			return []audit.Leaf{put, leaf(audit.Release, a), leaf(audit.ReleaseAgain, b)}
		}, "another request"},
		{"again without a first", func() []audit.Leaf { return []audit.Leaf{put, leaf(audit.ReleaseAgain, l.release(1))} }, "did not have the key"},
		{"again too late", func() []audit.Leaf {
			a := l.release(1)
			late := leaf(audit.ReleaseAgain, a)
			late.Time = late.Time.Add(window + 1)
			return []audit.Leaf{put, leaf(audit.Release, a), late}
		}, "again after"},
		{"another caller", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.SPIFFEID = "spiffe://example.org/other" })}
		}, "lock 1"},
		{"another generation", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Generation = 2 })}
		}, "generation is 2"},
		{"no proof", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Proof = nil })}
		}, "there is a proof: false"},
		{"other reference values", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Proof.ReferenceValues = l.blob([]byte("{}")) })}
		}, "reference values are"},
		{"another SVID", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Proof.SPKI = []byte("other") })}
		}, "lock 2"},
		{"another nonce", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Proof.Nonce[1] ^= 1 })}
		}, "lock 2"},
		{"another report", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) {
				a.Proof.Report = bytes.Clone(a.Proof.Report)
				a.Proof.Report[0x90] ^= 1
			})}
		}, "lock 2"},
		{"another REPORT_ID than the report's", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.ReportID = snp.ReportID{9} })}
		}, "the report has"},
		{"no CRL", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Proof.Collateral = l.collateral() })}
		}, "lock 2"},
		{"revoked", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Proof.Collateral = l.collateral(l.chip.CRL(t, l.chip.Chain.VCEK)) })}
		}, "lock 2"},
		{"judged when the CRL was stale", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Proof.Time = a.Proof.Time.AddDate(3, 0, 0) })}
		}, "lock 2"},
		{"contents that are missing", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Proof.Collateral = pins.Digest{9} })}
		}, "reading contents"},
	} {
		t.Run(c.name, func(t *testing.T) {
			judge := replay.NewJudge(l.dir, window)
			leaves := c.leaves()
			for i, leaf := range leaves {
				err := judge.Next(leaf)
				want := ""
				if i == len(leaves)-1 {
					want = c.want
				}
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("leaf %d: got error %v, want one with %q", i, err, want)
				}
			}
		})
	}
}

func digest(data []byte) pins.Digest { return sha256.Sum256(data) }
