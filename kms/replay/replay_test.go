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
		ReferenceValues: l.blob(values), Header: pins.Digest{2}, State: "enabled"}
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
	disabled, other, bounded := l.put, l.put, l.put
	disabled.State = "disabled"
	other.ReferenceValues, other.Generation = l.blob([]byte("{}")), 2
	bounded.MaxReleases = 1
	before := other
	before.Generation, before.Before = 1, []audit.Expiring{{ReferenceValues: l.put.ReferenceValues, Until: snptest.Now().Add(time.Minute)}}
	expired := before
	expired.Before = []audit.Expiring{{ReferenceValues: l.put.ReferenceValues, Until: snptest.Now()}}
	stopped := other
	stopped.State = "disabled"
	next := l.put
	next.Generation = 1
	current := other
	current.Generation = 2
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
		{"disabled", func() []audit.Leaf { return []audit.Leaf{put, leaf(audit.Disable, disabled), good()} }, "is disabled"},
		{"enabled again", func() []audit.Leaf {
			return []audit.Leaf{put, leaf(audit.Disable, disabled), leaf(audit.Enable, l.put), good()}
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
		}, "differs from the first"},
		{"again without a first", func() []audit.Leaf { return []audit.Leaf{put, leaf(audit.ReleaseAgain, l.release(1))} }, "never had the key"},
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
		}, "has a proof: false"},
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
		}, "as in the report"},
		{"no CRL", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Proof.Collateral = l.collateral() })}
		}, "lock 2"},
		{"revoked", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Proof.Collateral = l.collateral(l.chip.CRL(t, l.chip.Chain.VCEK)) })}
		}, "lock 2"},
		{"judged when the CRL was stale", func() []audit.Leaf {
			return []audit.Leaf{put, changed(func(a *audit.AboutRelease) { a.Proof.Time = a.Proof.Time.AddDate(3, 0, 0) })}
		}, "lock 2"},
		{"reference values of before", func() []audit.Leaf { return []audit.Leaf{put, leaf(audit.Update, before), good()} }, ""},
		{"reference values that expired", func() []audit.Leaf { return []audit.Leaf{put, leaf(audit.Update, expired), good()} }, "reference values are"},
		{"staged", func() []audit.Leaf { return []audit.Leaf{leaf(audit.Put, current), leaf(audit.Stage, next), good()} }, ""},
		{"staged and confirmed", func() []audit.Leaf {
			return []audit.Leaf{leaf(audit.Put, current), leaf(audit.Stage, next), leaf(audit.Confirm, next), good()}
		}, ""},
		{"staged and withdrawn", func() []audit.Leaf {
			return []audit.Leaf{leaf(audit.Put, current), leaf(audit.Stage, next), leaf(audit.Withdraw, next), good()}
		}, "generation is 1"},
		{"staged beside a disabled one", func() []audit.Leaf {
			return []audit.Leaf{leaf(audit.Put, current), leaf(audit.Stage, next), leaf(audit.Disable, stopped), good()}
		}, "is disabled"},
		{"deleted and restored", func() []audit.Leaf {
			return []audit.Leaf{put, leaf(audit.Delete, l.put), leaf(audit.Restore, l.put), good()}
		}, ""},
		{"more than the bound", func() []audit.Leaf {
			return []audit.Leaf{leaf(audit.Put, bounded), good(), leaf(audit.Release, l.release(2))}
		}, "2 releases within an hour"},
		{"the bound an hour later", func() []audit.Leaf {
			late := leaf(audit.Release, l.release(2))
			late.Time = late.Time.Add(time.Hour)
			return []audit.Leaf{leaf(audit.Put, bounded), good(), late}
		}, ""},
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
