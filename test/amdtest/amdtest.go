// Package amdtest gives tests reports that real AMD processors signed.
//
// testdata/ORIGIN.md says where each file comes from. The package makes forgeries from
// the genuine files. If ../shared/vectors is there, the package adds its reports; no
// test depends on them.
package amdtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"embed"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/internal/needs"
)

//go:embed testdata
var files embed.FS

// A Vector is a report with its expected results.
type Vector struct {
	Name, Generation, Signer string
	Version, VMPL            uint32
	Measurement              string
	ReportedTCB              string    `json:"reported_tcb_bytes"`
	CPUID                    string    `json:"cpuid_fms"` // empty if the report's version has none
	CheckTime                time.Time `json:"check_time"`

	Report []byte `json:"-"`
	Leaf   []byte `json:"-"` // nil if no certificate is known

	Malformed bool `json:"-"` // the report does not parse
	Signed    bool `json:"-"` // the leaf's key signed the report
	Bound     bool `json:"-"` // the leaf names the report's chip, TCB and kind of key
	Valid     bool `json:"-"` // signed, bound, and the leaf is AMD's
}

// Vectors returns every report: genuine ones, forgeries of them, and further
// reports of ../shared/vectors.
func Vectors(t testing.TB) []Vector {
	t.Helper()
	all := genuine(t)
	all = append(all, forged(t, all)...)
	for _, v := range shared(t) {
		if !slices.ContainsFunc(all, func(o Vector) bool { return o.Name == v.Name }) {
			all = append(all, v)
		}
	}
	return all
}

// Find returns the genuine report of that name.
func Find(t testing.TB, name string) Vector {
	t.Helper()
	all := genuine(t)
	at := slices.IndexFunc(all, func(v Vector) bool { return v.Name == name })
	if at < 0 {
		t.Fatalf("no report %q", name)
	}
	return all[at]
}

// HCL returns the Azure blob that holds the report of that name.
func HCL(t testing.TB, name string) []byte { return readHex(t, name+".hcl.hex") }

// CRL returns a revocation list of Milan, in force from 2025-05-06 to 2026-05-12.
func CRL(t testing.TB) []byte { return read(t, "crl-milan-6.der") }

// KeyCertificate returns a VCEK without a report: "turin", "azure-imds", or, of
// the chip whose keys are public, "compromised-tcb-0" and
// "compromised-tcb-2.0.5.6".
func KeyCertificate(t testing.TB, name string) []byte { return read(t, "vcek-"+name+".der") }

func genuine(t testing.TB) []Vector {
	t.Helper()
	var all []Vector
	if err := json.Unmarshal(read(t, "reports.json"), &all); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		v := &all[i]
		v.Report = readHex(t, v.Name+".report.hex")
		if leaf, err := files.ReadFile("testdata/" + v.Name + ".leaf.der"); err == nil {
			v.Leaf, v.Signed, v.Bound, v.Valid = leaf, true, true, true
		}
	}
	return all
}

// forged makes each kind of forgery from a genuine report.
func forged(t testing.TB, from []Vector) []Vector {
	t.Helper()
	var all []Vector
	forge := func(name, of string, change func(v *Vector)) {
		at := slices.IndexFunc(from, func(v Vector) bool { return v.Name == of })
		v := from[at]
		v.Name, v.Valid = name, false
		v.Report, v.Leaf = bytes.Clone(v.Report), bytes.Clone(v.Leaf)
		change(&v)
		all = append(all, v)
	}
	forge("forged-reserved-tcb-byte", "ars-genoa-v5", func(v *Vector) {
		v.Report[0x182], v.Malformed, v.Signed, v.Bound = 1, true, false, false
	})
	forge("forged-signature", "cmc-milan", func(v *Vector) { v.Report[0x2a0] ^= 1; v.Signed = false })
	forge("forged-measurement", "msteeav-turin", func(v *Vector) {
		v.Report[0x90] ^= 1
		v.Measurement, v.Signed = hex.EncodeToString(v.Report[0x90:0xc0]), false
	})
	// A VCEK contains the chip's ID as the report has it, raw in older certificates
	// and inside an OCTET STRING in newer ones. The edit makes either form name
	// another chip.
	for _, of := range []string{"trustee-milan-vcek", "ars-genoa-v5"} {
		forge("forged-chip-of-"+of, of, func(v *Vector) {
			at := bytes.Index(v.Leaf, v.Report[0x1a0:0x1e0])
			if at < 0 {
				t.Fatalf("%s: the certificate does not hold the report's CHIP_ID", of)
			}
			v.Leaf[at] ^= 1
			v.Bound = false
		})
	}
	forge("forged-foreign-leaf", "trustee-milan-vcek", func(v *Vector) {
		v.Leaf, v.Signed, v.Bound = Find(t, "gsg-milan").Leaf, false, false
	})
	forge("forged-self-signed-leaf", "cmc-milan", func(v *Vector) {
		v.Leaf, v.Signed, v.Bound = selfSigned(t, v.CheckTime), false, false
	})
	return all
}

func selfSigned(t testing.TB, at time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "SEV-VCEK"},
		NotBefore: at.Add(-time.Hour), NotAfter: at.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &c, &c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// shared returns the reports of ../shared/vectors, or none.
func shared(t testing.TB) []Vector {
	t.Helper()
	dir := filepath.Join(needs.Repository(t), "..", "shared", "vectors", "snp-reports")
	data, err := os.ReadFile(filepath.Join(dir, "reports.json"))
	if err != nil {
		return nil
	}
	var rows []struct {
		Vector
		Report, Leaf, Verdict string
		CheckTime             string `json:"check_time"`
		Signature             string `json:"raw_signature"`
		Binding               string `json:"tcb_hwid_binding"`
	}
	if err := json.Unmarshal(data, &rows); err != nil {
		t.Fatal(err)
	}
	var all []Vector
	for _, r := range rows {
		v := r.Vector
		v.Signed, v.Bound, v.Valid = r.Signature == "OK", r.Binding == "OK", strings.HasPrefix(r.Verdict, "VALID")
		v.Malformed = strings.Contains(r.Binding, "reserved TCB bytes")
		if v.CheckTime, err = time.Parse(time.RFC3339, r.CheckTime); err != nil && r.CheckTime != "" {
			t.Fatal(err)
		}
		v.Report = sharedFile(t, dir, r.Report)
		if r.Leaf != "" {
			v.Leaf = sharedFile(t, dir, r.Leaf)
		}
		all = append(all, v)
	}
	return all
}

func sharedFile(t testing.TB, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := files.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func readHex(t testing.TB, name string) []byte {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(string(read(t, name)), "\n", ""))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return data
}
