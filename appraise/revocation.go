package appraise

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"
)

// checkRevocation looks for the chain in the CRLs that its root signed. It
// returns the list that decided, in words. The error matches
// errUnknownRevocation when there is no list that can say, and does not when a
// certificate is revoked.
//
// AMD issues one CRL for each product, signed by its ARK. By RFC 5280 such a
// list speaks only of what the ARK issued; here a serial number in it counts
// against every certificate of the chain, since there is no other list that
// could name the leaf.
//
// BUG: AMD serves the lists of VCEK and VLEK of one product at two addresses,
// and nothing inside a list says which it is. A stale one of the first kind is
// not noticed beside a fresh one of the second with a higher number: replace
// both at once.
func checkRevocation(c chain, crls []*x509.RevocationList, now time.Time, memo *Memo) (string, error) {
	var newest *x509.RevocationList
	for _, crl := range crls {
		if !bytes.Equal(crl.RawIssuer, c.root.RawSubject) || checkCRL(crl, c.root, memo) != nil {
			continue
		}
		if err := c.revokedBy(crl); err != nil {
			return "", err
		}
		if newest == nil || crl.Number.Cmp(newest.Number) > 0 {
			newest = crl
		}
	}
	if newest == nil {
		return "", fmt.Errorf("none of %d CRLs is signed by %q, want a fresh one: %w", len(crls), c.root.Subject.CommonName, errUnknownRevocation)
	}
	what := fmt.Sprintf("CRL %s of %s, good until %s", newest.Number, stamp(newest.ThisUpdate), stamp(newest.NextUpdate))
	switch {
	case now.Before(newest.ThisUpdate):
		return "", fmt.Errorf("%s: it is from the future at %s: %w", what, stamp(now), errUnknownRevocation)
	case !now.Before(newest.NextUpdate):
		return "", fmt.Errorf("%s: it is stale at %s: %w", what, stamp(now), errUnknownRevocation)
	}
	return what, nil
}

// checkCRL verifies form and signature of a list.
func checkCRL(crl *x509.RevocationList, root *x509.Certificate, memo *Memo) error {
	if crl.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return fmt.Errorf("CRL is signed with %s, want %s", crl.SignatureAlgorithm, x509.SHA384WithRSAPSS)
	}
	if crl.Number == nil || crl.NextUpdate.IsZero() {
		return fmt.Errorf("CRL has no number or no next update, want both")
	}
	for _, e := range crl.Extensions {
		if e.Critical { // a delta list, or one of a part: neither can say "not revoked"
			return fmt.Errorf("CRL has critical extension %s, want none", e.Id)
		}
	}
	return memo.check(crl.RawTBSRevocationList, crl.Signature, root, func() error { return crl.CheckSignatureFrom(root) })
}

// revokedBy returns an error when the list names a certificate of the chain.
func (c chain) revokedBy(crl *x509.RevocationList) error {
	for _, entry := range crl.RevokedCertificateEntries {
		for _, cert := range []*x509.Certificate{c.leaf, c.ca, c.root} {
			if sameSerial(entry.SerialNumber, cert.SerialNumber) {
				return fmt.Errorf("%q with serial number %#x was revoked at %s by CRL %s", cert.Subject.CommonName,
					cert.SerialNumber, stamp(entry.RevocationTime), crl.Number)
			}
		}
	}
	return nil
}

func sameSerial(a, b *big.Int) bool { return a != nil && b != nil && a.Cmp(b) == 0 }
