// Package emuchain makes throw-away ARK → ASK → VCEK chains with AMD's
// extensions, and their CRL.
//
// A chain has the form of AMD's own: RSA roots that sign with PSS and SHA-384, an
// ECDSA P-384 endorsement key, AMD's names and OIDs. A verifier of AMD's chains can
// judge it if the verifier is given the root. Every name in the chain carries the
// serialNumber attribute [Mark]. The chain proves nothing, because its state holds
// every private key. Emulated: NOT CONFIDENTIAL.
package emuchain

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/rootvouch/rootvouch/internal/emulated"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// Mark is an attribute in every name of an emulated chain. AMD's names lack this
// attribute.
const Mark = emulated.Warning

const (
	rootValidity = 25 * 365 * 24 * time.Hour // as AMD's ARK and ASK
	leafValidity = 7 * 365 * 24 * time.Hour  // as AMD's VCEK

	// DefaultRSABits is the size of AMD's ARK and ASK keys. Two such keys take
	// seconds to make, so tests use 2048 bits.
	DefaultRSABits = 4096
)

// Options are the values in a chain's certificates. Product, ChipID and NotBefore
// are required.
type Options struct {
	Product   snp.Product
	ChipID    snp.ChipID // on Turin only the first 8 bytes, the rest zero
	TCB       snp.TCB    // of the VCEK
	NotBefore time.Time  // of all three certificates
	RSABits   int        // of ARK and ASK; 0 means DefaultRSABits, at least 2048
}

// Chain is an emulated chain with its keys. Its methods do not change it.
type Chain struct {
	ARK, ASK, VCEK *x509.Certificate
	VCEKKey        *ecdsa.PrivateKey

	arkKey, askKey *rsa.PrivateKey
}

// New makes keys and certificates of a chain.
func New(rand io.Reader, o Options) (*Chain, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("making emulated chain: %v", err)
	}
	bits := o.RSABits
	if bits == 0 {
		bits = DefaultRSABits
	}
	c := &Chain{}
	var err error
	if c.arkKey, err = rsa.GenerateKey(rand, bits); err != nil {
		return nil, fmt.Errorf("making ARK: %v", err)
	}
	if c.askKey, err = rsa.GenerateKey(rand, bits); err != nil {
		return nil, fmt.Errorf("making ASK: %v", err)
	}
	if c.ARK, err = signCA(rand, o, "ARK-", c.arkKey, nil, c.arkKey); err != nil {
		return nil, fmt.Errorf("making ARK: %v", err)
	}
	if c.ASK, err = signCA(rand, o, "SEV-", c.askKey, c.ARK, c.arkKey); err != nil {
		return nil, fmt.Errorf("making ASK: %v", err)
	}
	if c.VCEKKey, err = ecdsa.GenerateKey(elliptic.P384(), rand); err != nil {
		return nil, fmt.Errorf("making VCEK: %v", err)
	}
	ext := snp.KeyExtensions{ProductName: string(o.Product), TCB: o.TCB, HWID: hwid(o.Product, o.ChipID)}
	if c.VCEK, err = c.IssueLeaf(rand, &c.VCEKKey.PublicKey, ext, o.NotBefore); err != nil {
		return nil, fmt.Errorf("making VCEK: %v", err)
	}
	return c, nil
}

func (o Options) check() error {
	switch {
	case !o.Product.Known():
		return fmt.Errorf("product is %q, want one of %q", o.Product, snp.Products())
	case o.ChipID == snp.ChipID{}:
		return fmt.Errorf("chip ID is all zero")
	case o.Product == snp.Turin && snp.ChipID(append(o.ChipID[:8:8], make([]byte, 56)...)) != o.ChipID:
		return fmt.Errorf("chip ID has more than 8 bytes, want 8 on %s", snp.Turin)
	case o.NotBefore.IsZero():
		return fmt.Errorf("NotBefore is not set")
	case o.RSABits != 0 && o.RSABits < 2048:
		return fmt.Errorf("RSA keys of %d bits, want at least 2048", o.RSABits)
	}
	return nil
}

func hwid(p snp.Product, id snp.ChipID) []byte {
	if p == snp.Turin {
		return id[:8]
	}
	return id[:]
}

// IssueLeaf issues a certificate with AMD's extensions from the chain's ASK,
// for pub: the VCEK, or another one that a test needs.
func (c *Chain) IssueLeaf(rand io.Reader, pub *ecdsa.PublicKey, ext snp.KeyExtensions, notBefore time.Time) (*x509.Certificate, error) {
	product, err := ext.Product()
	if err != nil {
		return nil, err
	}
	ext.StructVersion = 0
	if product == snp.Turin {
		ext.StructVersion = 1
	}
	extensions, err := ext.Build()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial(rand)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
		SerialNumber:       serial,
		Subject:            name("SEV-" + ext.Kind().String()),
		NotBefore:          notBefore,
		NotAfter:           notBefore.Add(leafValidity),
		ExtraExtensions:    extensions,
	}
	return create(rand, template, c.ASK, pub, c.askKey)
}

// signCA issues the certificate of an ARK (parent is nil) or ASK.
func signCA(rand io.Reader, o Options, prefix string, key *rsa.PrivateKey, parent *x509.Certificate, signer *rsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := newSerial(rand)
	if err != nil {
		return nil, err
	}
	// RFC 5280, section 4.2.1.2, method 1: an identifier, not a protection.
	id := sha1.Sum(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	template := &x509.Certificate{
		SignatureAlgorithm:    x509.SHA384WithRSAPSS,
		SerialNumber:          serial,
		Subject:               name(prefix + string(o.Product)),
		NotBefore:             o.NotBefore,
		NotAfter:              o.NotBefore.Add(rootValidity),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		SubjectKeyId:          id[:],
	}
	if parent == nil {
		template.KeyUsage |= x509.KeyUsageCRLSign
		parent = template
	} else {
		template.MaxPathLenZero = true
	}
	return create(rand, template, parent, &key.PublicKey, signer)
}

func create(rand io.Reader, template, parent *x509.Certificate, pub any, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand, template, parent, pub, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// CRL issues a revocation list from the chain's ARK, with the serial numbers
// of the certificates that it revokes as of thisUpdate.
func (c *Chain) CRL(rand io.Reader, number int64, thisUpdate, nextUpdate time.Time, revoked ...*big.Int) ([]byte, error) {
	template := &x509.RevocationList{
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
		Number:             big.NewInt(number),
		ThisUpdate:         thisUpdate,
		NextUpdate:         nextUpdate,
	}
	for _, serial := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: serial, RevocationTime: thisUpdate})
	}
	crl, err := x509.CreateRevocationList(rand, template, c.ARK, c.arkKey)
	if err != nil {
		return nil, fmt.Errorf("making CRL: %v", err)
	}
	return crl, nil
}

// ARKDigest returns the SHA-256 of the ARK's DER, by which reference values
// name an emulated root of trust.
func (c *Chain) ARKDigest() pins.Digest { return sha256.Sum256(c.ARK.Raw) }

// Certificates returns the chain as evidence carries it: the DER of VCEK, ASK
// and ARK.
func (c *Chain) Certificates() [][]byte {
	return [][]byte{c.VCEK.Raw, c.ASK.Raw, c.ARK.Raw}
}

// name returns one of AMD's names, with Mark.
func name(common string) pkix.Name {
	return pkix.Name{
		OrganizationalUnit: []string{"Engineering"},
		Country:            []string{"US"},
		Locality:           []string{"Santa Clara"},
		Province:           []string{"CA"},
		Organization:       []string{"Advanced Micro Devices"},
		SerialNumber:       Mark,
		CommonName:         common,
	}
}

// newSerial draws a positive serial number of 64 bits.
func newSerial(rand io.Reader) (*big.Int, error) {
	b := make([]byte, 8)
	if _, err := io.ReadFull(rand, b); err != nil {
		return nil, fmt.Errorf("drawing serial number: %v", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}
