package kds_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
	"github.com/rootvouch/rootvouch/test/snptest"
)

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoadDir(t *testing.T) {
	s := snptest.New(t, snp.Genoa)
	dir := t.TempDir()
	write(t, dir, "ark.der", s.Chain.ARK.Raw)
	write(t, dir, "ask.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Chain.ASK.Raw}))
	write(t, dir, "ark.crl", s.CRL(t).Raw)
	write(t, dir, "older.crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: s.CRL(t).Raw}))
	write(t, dir, "README", []byte("not collateral"))
	write(t, dir, ".ark.der.tmp123", []byte("half written"))
	if err := os.Mkdir(filepath.Join(dir, "sub.der"), 0o700); err != nil {
		t.Fatal(err)
	}
	certs, crls, err := kds.LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(certs) != 2 || len(crls) != 2 || !certs[0].Equal(s.Chain.ARK) || !certs[1].Equal(s.Chain.ASK) {
		t.Errorf("got %d certificates and %d CRLs, want 2 and 2", len(certs), len(crls))
	}
	for name, data := range map[string][]byte{
		"bad.der": {1}, "bad.crl": s.Chain.ARK.Raw, "trailing.crl": append(s.CRL(t).Raw, 0),
		"trailing.pem": pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: append(s.CRL(t).Raw, 0)}), "bad.pem": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n"),
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}), "empty.pem": nil,
		"large.der": make([]byte, 1<<20+1),
	} {
		bad := t.TempDir()
		write(t, bad, name, data)
		if _, _, err := kds.LoadDir(bad); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want an error that names it", name, err)
		}
	}
	if _, _, err := kds.LoadDir(filepath.Join(dir, "absent")); err == nil {
		t.Error("LoadDir takes a directory that is not there")
	}
}

// TestDirFollowsChanges checks that a new revocation is seen, and that a removed
// directory is an error.
func TestDirFollowsChanges(t *testing.T) {
	s := snptest.New(t, snp.Genoa)
	dir := t.TempDir()
	write(t, dir, "ark.crl", s.CRL(t).Raw)
	d := kds.NewDir(dir)
	d.SetClock(func() time.Time { return time.Now().Add(time.Minute) }) // the files are old
	_, first, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	_, second, err := d.Load()
	if err != nil || first[0] != second[0] {
		t.Errorf("an unchanged directory was read again: %v", err)
	}
	write(t, dir, "ark.crl", s.CRL(t, s.Chain.ASK).Raw)
	if err := os.Chtimes(filepath.Join(dir, "ark.crl"), time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	_, third, err := d.Load()
	if err != nil || len(third[0].RevokedCertificateEntries) != 1 {
		t.Errorf("a changed directory was not read again: %v", err)
	}
	write(t, dir, "ark.crl", []byte("damaged"))
	if _, _, err := d.Load(); err == nil {
		t.Error("Load hides that the directory is damaged")
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Load(); err == nil {
		t.Error("Load hides that the directory is gone")
	}
}

// TestDirSeesEqualSizes replaces a revocation list by another of the same size and
// modification time, by renaming and by writing.
func TestDirSeesEqualSizes(t *testing.T) {
	s, other := snptest.New(t, snp.Genoa), snptest.New(t, snp.Genoa)
	lists := [][]byte{s.CRL(t, s.Chain.ASK).Raw, s.CRL(t, other.Chain.ASK).Raw}
	if len(lists[0]) != len(lists[1]) {
		lists[1] = s.CRL(t, s.Chain.ASK).Raw // same serial number, another signature
	}
	for name, put := range map[string]func(path string, data []byte) error{
		"renamed": func(path string, data []byte) error {
			return errors.Join(os.WriteFile(path+".tmp", data, 0o600), os.Rename(path+".tmp", path))
		},
		"written": func(path string, data []byte) error { return os.WriteFile(path, data, 0o600) },
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "ark.crl")
		d := kds.NewDir(dir)
		for i := range 100 { // in one tick of the clock more often than not
			want := lists[i%2]
			if err := errors.Join(put(path, want), os.Chtimes(path, time.Time{}, time.Unix(1, 0))); err != nil {
				t.Fatal(err)
			}
			if _, crls, err := d.Load(); err != nil || !bytes.Equal(crls[0].Raw, want) {
				t.Fatalf("%s, change %d went unseen: %v", name, i, err)
			}
		}
	}
}

// TestAMDCertificates compares the built-in certificates with the published
// digests.
func TestAMDCertificates(t *testing.T) {
	want := map[string]string{ // :: common name -> SHA-256; each was found in at least three repositories, and no other
		"ARK-Milan":      "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
		"ARK-Genoa":      "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
		"ARK-Turin":      "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
		"SEV-Milan":      "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
		"SEV-Genoa":      "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
		"SEV-Turin":      "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
		"SEV-VLEK-Milan": "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
		"SEV-VLEK-Genoa": "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
		"SEV-VLEK-Turin": "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
	}
	roots := make(map[string]*x509.Certificate)
	for _, c := range kds.AMDCertificates() {
		name := c.Subject.CommonName
		if got := pins.Digest(sha256.Sum256(c.Raw)).String(); got != want[name] {
			t.Errorf("%s has SHA-256 %s, want %q", name, got, want[name])
		}
		if name == c.Issuer.CommonName {
			roots[name] = c
		}
	}
	if got := len(kds.AMDCertificates()); got != len(want) || len(roots) != 3 {
		t.Fatalf("got %d certificates and %d roots, want %d and 3", got, len(roots), len(want))
	}
	for _, c := range kds.AMDCertificates() {
		if root := roots[c.Issuer.CommonName]; root == nil || c.CheckSignatureFrom(root) != nil {
			t.Errorf("%s is not signed by its root", c.Subject.CommonName)
		}
	}
}
