package appraise

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/snp"
)

// chain is an endorsement key's certificate with its CA and its root.
type chain struct{ leaf, ca, root *x509.Certificate }

const minRSABits = 2048 // AMD's are 4096; an emulated chain's may be shorter

// buildChain finds the two certificates above leaf among the candidates, and
// verifies the chain: exactly leaf, intermediate and root, as AMD issues them. The
// root must be an anchor. RFC 5280 path building is not needed, because there is
// only one path.
func buildChain(leaf *x509.Certificate, candidates []*x509.Certificate, anchors Anchors, memo *Memo) (chain, error) {
	var roots, cas []*x509.Certificate
	for _, c := range candidates {
		switch {
		case anchors.has(c):
			roots = append(roots, c)
		case bytes.Equal(c.RawSubject, leaf.RawIssuer):
			cas = append(cas, c)
		}
	}
	if len(roots) == 0 {
		return chain{}, fmt.Errorf("%s is not among %s, want its certificate", anchors.what, describe(candidates))
	}
	if len(cas) == 0 {
		return chain{}, fmt.Errorf("issuer %q of %q is not among %s, want its certificate", leaf.Issuer.CommonName, leaf.Subject.CommonName, describe(candidates))
	}
	var firstErr error
	for _, ca := range cas {
		err := fmt.Errorf("%q was issued by %q, which is not %s", ca.Subject.CommonName, ca.Issuer.CommonName, anchors.what)
		for _, root := range roots {
			if !bytes.Equal(ca.RawIssuer, root.RawSubject) {
				continue
			}
			if err = verifyChain(chain{leaf, ca, root}, memo); err == nil {
				return chain{leaf, ca, root}, nil
			}
		}
		if firstErr == nil {
			firstErr = err
		}
	}
	return chain{}, firstErr
}

// verifyChain checks names, constraints, algorithms and signatures.
func verifyChain(c chain, memo *Memo) error {
	if err := checkCA(c.root, x509.KeyUsageCertSign|x509.KeyUsageCRLSign); err != nil {
		return err
	}
	if err := checkCA(c.ca, x509.KeyUsageCertSign); err != nil {
		return err
	}
	if err := checkLeaf(c.leaf); err != nil {
		return err
	}
	if err := checkIssued(c.ca, c.root, memo); err != nil {
		return err
	}
	return checkIssued(c.leaf, c.ca, memo)
}

func checkCA(c *x509.Certificate, usage x509.KeyUsage) error {
	name := c.Subject.CommonName
	key, ok := c.PublicKey.(*rsa.PublicKey)
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return fmt.Errorf("%q is not a CA", name)
	case c.KeyUsage&usage != usage:
		return fmt.Errorf("%q has key usage %#x, want %#x", name, int(c.KeyUsage), int(usage))
	case len(c.UnhandledCriticalExtensions) != 0:
		return fmt.Errorf("%q has critical extensions that are not known: %v", name, c.UnhandledCriticalExtensions)
	case !ok:
		return fmt.Errorf("%q has a %s key, want RSA", name, c.PublicKeyAlgorithm)
	case key.N.BitLen() < minRSABits:
		return fmt.Errorf("%q has an RSA key of %d bits, want at least %d", name, key.N.BitLen(), minRSABits)
	}
	return nil
}

func checkLeaf(c *x509.Certificate) error {
	name := c.Subject.CommonName
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	switch {
	case c.IsCA:
		return fmt.Errorf("%q is a CA, want an endorsement key", name)
	case c.Version != 3:
		return fmt.Errorf("%q has X.509 version %d, want 3", name, c.Version)
	case len(c.UnhandledCriticalExtensions) != 0:
		return fmt.Errorf("%q has critical extensions that are not known: %v", name, c.UnhandledCriticalExtensions)
	case !ok || key.Curve != elliptic.P384():
		return fmt.Errorf("%q has a %s key, want ECDSA on P-384", name, c.PublicKeyAlgorithm)
	}
	return nil
}

// checkIssued checks that parent's key signed c with RSASSA-PSS and SHA-384.
func checkIssued(c, parent *x509.Certificate, memo *Memo) error {
	name := c.Subject.CommonName
	if !bytes.Equal(c.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("%q was issued by %q, want %q", name, c.Issuer.CommonName, parent.Subject.CommonName)
	}
	if c.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return fmt.Errorf("%q is signed with %s, want %s", name, c.SignatureAlgorithm, x509.SHA384WithRSAPSS)
	}
	err := memo.check(c.RawTBSCertificate, c.Signature, parent, func() error {
		return parent.CheckSignature(x509.SHA384WithRSAPSS, c.RawTBSCertificate, c.Signature)
	})
	if err != nil {
		return fmt.Errorf("%q is not signed by %q: %v", name, parent.Subject.CommonName, err)
	}
	return nil
}

// names checks that all three certificates have the names of product's chain for
// that kind of key, and returns the names.
func (c chain) names(product snp.Product, kind snp.SigningKey) (string, error) {
	if product == "" {
		return "", errors.New("report and certificate agree on no product, so that no names are known")
	}
	middle := "SEV-" + string(product)
	if kind == snp.VLEK {
		middle = "SEV-VLEK-" + string(product)
	}
	var got []string
	var err error
	for _, n := range []struct {
		cert *x509.Certificate
		want string
	}{{c.leaf, "SEV-" + kind.String()}, {c.ca, middle}, {c.root, "ARK-" + string(product)}} {
		name := n.cert.Subject.CommonName
		got = append(got, name)
		if name != n.want && err == nil {
			err = fmt.Errorf("certificate is named %q, want %q for a %s of %s", name, n.want, kind, product)
		}
	}
	return strings.Join(got, ", "), err
}

// valid checks that now lies in the validity of all three.
func (c chain) valid(now time.Time) error {
	for _, cert := range []*x509.Certificate{c.leaf, c.ca, c.root} {
		if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
			return fmt.Errorf("%q is valid from %s to %s, want it valid at %s", cert.Subject.CommonName,
				stamp(cert.NotBefore), stamp(cert.NotAfter), stamp(now))
		}
	}
	return nil
}

// validity returns the period in which all three are valid.
func (c chain) validity() string {
	from, to := c.leaf.NotBefore, c.leaf.NotAfter
	for _, cert := range []*x509.Certificate{c.ca, c.root} {
		if cert.NotBefore.After(from) {
			from = cert.NotBefore
		}
		if cert.NotAfter.Before(to) {
			to = cert.NotAfter
		}
	}
	return stamp(from) + " to " + stamp(to)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// describe names certificates for an error.
func describe(certs []*x509.Certificate) string {
	if len(certs) == 0 {
		return "the certificates (there are none)"
	}
	const most = 6
	var names []string
	for i, c := range certs {
		if i == most {
			names = append(names, fmt.Sprintf("%d more", len(certs)-most))
			break
		}
		names = append(names, fmt.Sprintf("%q", c.Subject.CommonName))
	}
	return "the certificates " + strings.Join(names, ", ")
}

// errUnknownRevocation marks the errors that AcceptUnknownRevocation accepts.
var errUnknownRevocation = errors.New("revocation status is unknown")
