package trust

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	domain = spiffeid.RequireTrustDomainFromString("example.org")
	now    = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

func mustInit(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if err := Init(dir, domain, Validity{RootYears: 10, UpstreamYears: 1}, now, rand.Reader); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustParse(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	der, err := readPEM(filepath.Join(dir, name), blockCertificate)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestInit(t *testing.T) {
	dir := mustInit(t)
	root, upstream := mustParse(t, dir, RootCert), mustParse(t, dir, UpstreamCert)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	if _, err := upstream.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	if want := now.AddDate(10, 0, 0); !root.NotAfter.Equal(want) {
		t.Errorf("root ends %v, want %v", root.NotAfter, want)
	}
	for _, cert := range []*x509.Certificate{root, upstream} {
		if !cert.IsCA || len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://example.org" {
			t.Errorf("%s: CA %v, URIs %v", cert.Subject, cert.IsCA, cert.URIs)
		}
	}
	if upstream.MaxPathLen != 1 {
		t.Errorf("path length of the intermediate is %d, want 1", upstream.MaxPathLen)
	}
	for _, name := range []string{RootKey, UpstreamKey} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("mode of %s is %v, want 0600", name, info.Mode())
		}
	}
}

func TestInitRefusesToReplace(t *testing.T) {
	for _, name := range []string{RootCert, RootKey, UpstreamCert, UpstreamKey} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Init(dir, domain, Validity{10, 1}, now, rand.Reader); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: got error %v, want one that matches os.ErrExist", name, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("%s: %d files are there, want the one that was", name, len(entries))
		}
	}
}

func TestRenew(t *testing.T) {
	dir := mustInit(t)
	root, before := mustParse(t, dir, RootCert), mustParse(t, dir, UpstreamCert)
	later := now.AddDate(9, 6, 0)
	if err := Renew(dir, 5, later, rand.Reader); err != nil {
		t.Fatal(err)
	}
	after := mustParse(t, dir, UpstreamCert)
	if after.SerialNumber.Cmp(before.SerialNumber) == 0 || after.Equal(before) {
		t.Error("the intermediate is the old one")
	}
	if err := after.CheckSignatureFrom(root); err != nil {
		t.Error(err)
	}
	if !after.NotAfter.Equal(root.NotAfter) {
		t.Errorf("the intermediate ends %v, want %v with its root", after.NotAfter, root.NotAfter)
	}
	if err := Renew(dir, 1, now.AddDate(11, 0, 0), rand.Reader); err == nil {
		t.Error("got no error under a root that has ended")
	}
}

func TestRenewRefusesAnotherKey(t *testing.T) {
	dir, other := mustInit(t), mustInit(t)
	key, err := os.ReadFile(filepath.Join(other, RootKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, RootKey), key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Renew(dir, 1, now, rand.Reader); err == nil || !strings.Contains(err.Error(), "not the key of") {
		t.Errorf("got error %v, want one that says whose key it is not", err)
	}
}

func TestValidity(t *testing.T) {
	for _, v := range []Validity{{}, {10, 0}, {0, 1}, {51, 1}, {1, 2}} {
		if err := Init(t.TempDir(), domain, v, now, rand.Reader); err == nil {
			t.Errorf("%+v: got no error", v)
		}
	}
}
