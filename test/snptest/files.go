package snptest

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// Files writes an accepted report with all that belongs to it to a directory.
func Files(t testing.TB) (string, *Signer) {
	t.Helper()
	dir := t.TempDir()
	s := New(t, snp.Genoa)
	r := s.Unsigned(t, [64]byte{7})
	e := s.Sign(t, r)
	encoded, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	values, err := refval.New(refval.EmulatedARK(s.Chain.ARKDigest()),
		[]refval.Measurement{{Digest: r.Measurement, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC-v4"}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	r.Policy |= snp.PolicyDebug
	var chain []byte
	for _, der := range [][]byte{s.Chain.ASK.Raw, s.Chain.ARK.Raw} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	now := Now()
	for name, data := range map[string][]byte{
		"report.bin": e.Report, "debug.bin": s.Sign(t, r).Report, "evidence.json": encoded, "refval.json": values,
		"leaf.der": s.Chain.VCEK.Raw, "chain.pem": chain, "ark.der": s.Chain.ARK.Raw, "fresh.crl": s.CRL(t).Raw,
		"stale.crl": s.CRLAt(t, 1, now.Add(-2*time.Hour), now.Add(-time.Hour)).Raw, "revoked.crl": s.CRL(t, s.Chain.VCEK).Raw,
		"short.bin": e.Report[:1183], "bad.json": []byte("{}"), "bad.der": {0x30},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, s
}
