package emuchain_test

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/emuchain"
)

func notBefore() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) }

func newChain(t *testing.T, p snp.Product) *emuchain.Chain {
	t.Helper()
	c, err := emuchain.New(rand.Reader, emuchain.Options{
		Product: p, ChipID: snp.ChipID{1, 2, 3}, TCB: snp.TCB{Bootloader: 10, SNP: 23, Microcode: 200},
		NotBefore: notBefore(), RSABits: 2048,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestGoSevGuestAccepts shows that go-sev-guest accepts a report of an emulated
// chain if it is given the chain's root.
func TestGoSevGuestAccepts(t *testing.T) {
	c := newChain(t, snp.Genoa)
	tcb, err := snp.Genoa.EncodeTCB(snp.TCB{Bootloader: 10, SNP: 23, Microcode: 200})
	if err != nil {
		t.Fatal(err)
	}
	report := &snp.Report{
		Version: 3, Policy: snp.PolicyReservedOne | snp.PolicySMT, CPUID: snp.Genoa.Example(), ChipID: snp.ChipID{1, 2, 3},
		ReportedTCB: tcb, CommittedTCB: tcb, CurrentTCB: tcb, LaunchTCB: tcb,
	}
	if err := report.Sign(rand.Reader, c.VCEKKey); err != nil {
		t.Fatal(err)
	}
	raw := report.Marshal()
	proto, err := abi.ReportToProto(raw)
	if err != nil {
		t.Fatal(err)
	}
	options := &verify.Options{
		DisableCertFetching: true, Now: notBefore().Add(time.Hour),
		TrustedRoots: map[string][]*trust.AMDRootCerts{"Genoa": {{ProductLine: "Genoa", ProductCerts: &trust.ProductCerts{Ark: c.ARK, Ask: c.ASK}}}},
	}
	attestation := &spb.Attestation{Report: proto, CertificateChain: &spb.CertificateChain{VcekCert: c.VCEK.Raw, AskCert: c.ASK.Raw, ArkCert: c.ARK.Raw}}
	if err := verify.SnpAttestation(attestation, options); err != nil {
		t.Errorf("go-sev-guest refuses: %v", err)
	}
	proto.ReportData[0] ^= 1
	if err := verify.SnpAttestation(attestation, options); err == nil {
		t.Error("go-sev-guest accepts a changed report")
	}
}

func TestStateRoundTrip(t *testing.T) {
	c := newChain(t, snp.Turin)
	state, err := c.MarshalState()
	if err != nil {
		t.Fatal(err)
	}
	again, err := emuchain.ParseState(state)
	if err != nil {
		t.Fatal(err)
	}
	if !again.VCEK.Equal(c.VCEK) || !again.VCEKKey.Equal(c.VCEKKey) || again.ARKDigest() != c.ARKDigest() {
		t.Error("ParseState gives another chain")
	}
	other, err := newChain(t, snp.Turin).MarshalState()
	if err != nil {
		t.Fatal(err)
	}
	blocks := bytes.SplitAfter(state, []byte("-----END PRIVATE KEY-----\n"))
	others := bytes.SplitAfter(other, []byte("-----END PRIVATE KEY-----\n"))
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": state[:len(state)/2], "trailing": append(bytes.Clone(state), '\n'),
		"another's VCEK": bytes.Join([][]byte{blocks[0], blocks[1], others[2]}, nil),
		"another's ASK":  bytes.Join([][]byte{blocks[0], others[1], blocks[2]}, nil),
	} {
		if _, err := emuchain.ParseState(bad); err == nil {
			t.Errorf("ParseState accepts a state that is %s", name)
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	good := emuchain.Options{Product: snp.Genoa, ChipID: snp.ChipID{1}, NotBefore: notBefore(), RSABits: 2048}
	for want, change := range map[string]func(*emuchain.Options){
		"product is":       func(o *emuchain.Options) { o.Product = "Rome" },
		"chip ID is all":   func(o *emuchain.Options) { o.ChipID = snp.ChipID{} },
		"chip ID has more": func(o *emuchain.Options) { o.Product, o.ChipID = snp.Turin, snp.ChipID{8: 1} },
		"NotBefore":        func(o *emuchain.Options) { o.NotBefore = time.Time{} },
		"RSA keys of 1024": func(o *emuchain.Options) { o.RSABits = 1024 },
	} {
		o := good
		change(&o)
		if _, err := emuchain.New(rand.Reader, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New: got %v, want an error with %q", err, want)
		}
	}
}

func TestEveryNameIsMarked(t *testing.T) {
	c := newChain(t, snp.Genoa)
	for _, cert := range c.Certificates() {
		if !bytes.Contains(cert, []byte(emuchain.Mark)) {
			t.Error("a certificate does not carry the mark")
		}
	}
}
