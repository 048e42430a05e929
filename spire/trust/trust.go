// Package trust makes the long-lived trust root of a SPIFFE trust domain and the
// intermediate CA that a SPIRE server works under.
//
// A stock SPIRE server signs itself a new CA every day, so the measurement of a VM
// cannot contain that CA. It contains a root above it, which is made once. The root's
// key is needed again only to renew the intermediate:
//
//	root.crt, root.key            10 years   the key offline
//	└─ upstream.crt, upstream.key  1 year    on the SPIRE server, UpstreamAuthority "disk"
//	   └─ SPIRE's own CA           1 day     in SPIRE's database
//	      └─ SVIDs                 1 hour
package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/internal/durable"
)

// The files of a trust root's directory.
const (
	RootCert     = "root.crt"     // public: goes into boot.json and to every verifier
	RootKey      = "root.key"     // goes offline
	UpstreamCert = "upstream.crt" // cert_file_path of UpstreamAuthority "disk"
	UpstreamKey  = "upstream.key" // key_file_path of UpstreamAuthority "disk"
)

const (
	// backdate lets machines with slow clocks accept a new certificate.
	backdate = time.Hour

	maxFile = 64 << 10 // bytes

	blockCertificate = "CERTIFICATE"
	blockKey         = "PRIVATE KEY"
)

// Validity is the lifetime of certificates, from now on.
type Validity struct {
	RootYears     int // 1 to 50
	UpstreamYears int // 1 to RootYears
}

func (v Validity) check() error {
	if v.RootYears < 1 || v.RootYears > 50 {
		return fmt.Errorf("root's lifetime is %d years, want 1 to 50", v.RootYears)
	}
	if v.UpstreamYears < 1 || v.UpstreamYears > v.RootYears {
		return fmt.Errorf("intermediate's lifetime is %d years, want 1 to the root's %d", v.UpstreamYears, v.RootYears)
	}
	return nil
}

// Init makes a root and a first intermediate in dir. If dir does not exist, Init
// makes it. Keys get mode 0600. Init refuses to replace a file, with an error that
// matches os.ErrExist, so that no second root is made by accident.
func Init(dir string, td spiffeid.TrustDomain, v Validity, now time.Time, rand io.Reader) error {
	if td.IsZero() {
		return errors.New("making a trust root: no trust domain")
	}
	if err := v.check(); err != nil {
		return fmt.Errorf("making a trust root: %w", err)
	}
	_, missing := os.Lstat(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making a trust root: %w", err)
	}
	if missing != nil {
		defer os.Remove(dir) // Remove fails unless dir is still empty
	}
	for _, name := range []string{RootCert, RootKey, UpstreamCert, UpstreamKey} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return &os.PathError{Op: "create", Path: filepath.Join(dir, name), Err: os.ErrExist}
		}
	}
	root, err := newCA(rand, td, "root", now, v.RootYears, nil)
	if err != nil {
		return fmt.Errorf("making a trust root: %w", err)
	}
	upstream, err := newCA(rand, td, "upstream", now, v.UpstreamYears, root)
	if err != nil {
		return fmt.Errorf("making an intermediate CA: %w", err)
	}
	// Keys come first, because a certificate without its key is useless.
	var files durable.Set
	defer files.Abort()
	for _, f := range []struct {
		name string
		data []byte
		perm os.FileMode
	}{
		{RootKey, root.keyPEM, 0o600}, {UpstreamKey, upstream.keyPEM, 0o600},
		{UpstreamCert, upstream.certPEM(), 0o644}, {RootCert, root.certPEM(), 0o644},
	} {
		if err := files.AddFile(filepath.Join(dir, f.name), f.data, f.perm); err != nil {
			return fmt.Errorf("making a trust root: %w", err)
		}
	}
	return files.Commit()
}

// Renew makes a new intermediate in dir, under the existing root, and replaces the old one. A
// SPIRE server uses it when it next makes a CA. While only one of the two files is replaced,
// they do not match, and SPIRE keeps its present CA.
func Renew(dir string, years int, now time.Time, rand io.Reader) error {
	root, td, err := load(dir)
	if err != nil {
		return fmt.Errorf("reading the trust root: %w", err)
	}
	if err := (Validity{RootYears: 50, UpstreamYears: years}).check(); err != nil {
		return fmt.Errorf("making an intermediate CA: %w", err)
	}
	upstream, err := newCA(rand, td, "upstream", now, years, root)
	if err != nil {
		return fmt.Errorf("making an intermediate CA: %w", err)
	}
	// Both files are complete before the first is replaced, so a full disk leaves the old pair.
	files := durable.Set{Replace: true}
	defer files.Abort()
	if err := files.AddFile(filepath.Join(dir, UpstreamKey), upstream.keyPEM, 0o600); err != nil {
		return fmt.Errorf("making an intermediate CA: %w", err)
	}
	if err := files.AddFile(filepath.Join(dir, UpstreamCert), upstream.certPEM(), 0o644); err != nil {
		return fmt.Errorf("making an intermediate CA: %w", err)
	}
	return files.Commit()
}

// ca is a certificate with its key.
type ca struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	keyPEM []byte // PKCS #8
}

func (c *ca) certPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: c.cert.Raw})
}

// newCA makes an ECDSA P-256 key and its certificate, signed by parent or by itself. Every TLS
// handshake of the trust domain verifies both. With P-384 each verification would take a
// millisecond, ten in an emulated VM.
//
// The form is that of a SPIFFE signing certificate (X509-SVID, sections 3 and 4): the trust
// domain's ID as its only URI, keyCertSign and cRLSign, no extendedKeyUsage. An intermediate
// never outlives its parent.
func newCA(rand io.Reader, td spiffeid.TrustDomain, name string, now time.Time, years int, parent *ca) (*ca, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, err
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(rand, serial); err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and of one length
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{Organization: []string{td.Name()}, CommonName: "rootvouch SPIFFE " + name},
		URIs:                  []*url.URL{td.ID().URL()},
		NotBefore:             now.Add(-backdate).UTC(),
		NotAfter:              now.AddDate(years, 0, 0).UTC(),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	signer, issuer := key, template
	if parent != nil {
		signer, issuer = parent.key, parent.cert
		template.MaxPathLen = 1 // SPIRE's own CA, and no CA below it
		if template.NotAfter.After(parent.cert.NotAfter) {
			template.NotAfter = parent.cert.NotAfter
		}
		if !template.NotAfter.After(now) {
			return nil, fmt.Errorf("its issuer's certificate ended %s", parent.cert.NotAfter.Format(time.RFC3339))
		}
	}
	der, err := x509.CreateCertificate(rand, template, issuer, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &ca{cert, key, pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: pkcs8})}, nil
}

// load reads the root of dir and its trust domain.
func load(dir string) (*ca, spiffeid.TrustDomain, error) {
	der, err := readPEM(filepath.Join(dir, RootCert), blockCertificate)
	if err != nil {
		return nil, spiffeid.TrustDomain{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, spiffeid.TrustDomain{}, fmt.Errorf("parsing %s: %w", RootCert, err)
	}
	if len(cert.URIs) != 1 {
		return nil, spiffeid.TrustDomain{}, fmt.Errorf("%s names %d URIs, want only the trust domain", RootCert, len(cert.URIs))
	}
	td, err := spiffeid.TrustDomainFromURI(cert.URIs[0])
	if err != nil {
		return nil, spiffeid.TrustDomain{}, fmt.Errorf("parsing %s: %w", RootCert, err)
	}
	der, err = readPEM(filepath.Join(dir, RootKey), blockKey)
	if err != nil {
		return nil, spiffeid.TrustDomain{}, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, spiffeid.TrustDomain{}, fmt.Errorf("parsing %s: %v", RootKey, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, spiffeid.TrustDomain{}, fmt.Errorf("%s is not the key of %s", RootKey, RootCert)
	}
	return &ca{cert: cert, key: key}, td, nil
}

// readPEM reads a file with exactly one block.
func readPEM(path, kind string) ([]byte, error) {
	data, err := bounded.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("parsing %s: want one PEM block %q and nothing else", path, kind)
	}
	return block.Bytes, nil
}

// End is the end of a certificate's validity.
type End struct {
	Name string // the file's name
	End  time.Time
}

// Ends returns the ends of the intermediate and the root of a directory.
func Ends(dir string) ([]End, error) {
	var all []End
	for _, name := range []string{UpstreamCert, RootCert} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("reading trust root: %w", err)
		}
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("reading trust root: %s has no PEM", filepath.Join(dir, name))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading trust root: %s: %w", filepath.Join(dir, name), err)
		}
		all = append(all, End{name, c.NotAfter})
	}
	return all, nil
}
