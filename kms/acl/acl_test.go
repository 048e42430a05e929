package acl

import (
	"crypto/x509"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
)

var vm = spiffeid.RequireFromString("spiffe://example.org/vm")

// good is a case in which both locks open.
func good(t *testing.T) Case {
	t.Helper()
	chip := snptest.New(t, snp.Genoa)
	c := Case{
		Caller: Caller{ID: vm, SPKI: []byte("public key")},
		Record: store.Record{Header: pins.Header{DiskUUID: pins.UUID{1}}, SPIFFEID: vm, Evidence: store.EvidenceRequired, State: store.Enabled},
		Values: refval.New(refval.EmulatedARK(chip.Chain.ARKDigest()),
			[]refval.Measurement{{Digest: snp.Measurement{0x4d, 1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC-v4"}}),
		Request:    keyapi.ReleaseRequest{Version: 1, Nonce: evidence.Nonce{1}, HPKEPublicKey: keyapi.PublicKey{2}},
		Collateral: appraise.Collateral{CRLs: []*x509.RevocationList{chip.CRL(t)}},
		Now:        snptest.Now(),
	}
	e := chip.Evidence(t, evidence.KeyRelease(evidence.Nonce{1}, pins.UUID{1}, []byte("public key"), c.Request.HPKEPublicKey[:]))
	var err error
	if c.Request.Evidence, err = e.Encode(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDecide(t *testing.T) {
	base := good(t)
	for _, c := range []struct {
		name   string
		change func(*Case)
		want   string // "" is a yes
	}{
		{"good", func(*Case) {}, ""},
		{"no caller", func(c *Case) { c.Caller.ID, c.Record.SPIFFEID = spiffeid.ID{}, spiffeid.ID{} }, "lock 1"},
		{"other caller", func(c *Case) { c.Caller.ID = spiffeid.RequireFromString("spiffe://example.org/vm/2") }, "lock 1"},
		{"other SVID", func(c *Case) { c.Caller.SPKI = []byte("another") }, "lock 2"},
		{"other nonce", func(c *Case) { c.Request.Nonce[0] ^= 1 }, "lock 2"},
		{"other disk", func(c *Case) { c.Record.DiskUUID[0] ^= 1 }, "lock 2"},
		{"other HPKE key", func(c *Case) { c.Request.HPKEPublicKey[0] ^= 1 }, "lock 2"},
		{"no evidence", func(c *Case) { c.Request.Evidence = nil }, "lock 2"},
		{"no reference values", func(c *Case) { c.Values = refval.Values{} }, "lock 2"},
		{"no CRL", func(c *Case) { c.Collateral = appraise.Collateral{} }, "lock 2"},
		{"root of trust amd", func(c *Case) { c.Values.RootOfTrust = refval.AMD() }, "lock 2"},
		{"disabled", func(c *Case) { c.Record.State = store.Disabled }, "record is disabled"},
		{"no state", func(c *Case) { c.Record.State = "" }, "record is"},
		{"no rule", func(c *Case) { c.Record.Evidence = "" }, "lock 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := base
			c.change(&x)
			x.Evidence, x.Malformed = appraise.Read(x.Request.Evidence, evidence.Plain)
			launch, err := Decide(x)
			if c.want == "" && (err != nil || launch.ReportID != snp.ReportID{0x1d}) {
				t.Errorf("got %+v, %v", launch, err)
			}
			if c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
				t.Errorf("got error %v, want one of %q", err, c.want)
			}
		})
	}
	blind := base
	blind.Record.Evidence = store.EvidenceNotRequired
	if launch, err := Decide(blind); err != nil || launch != (Launch{}) {
		t.Errorf("evidence not required: got %+v, %v, want no launch: nobody verified it", launch, err)
	}
}
