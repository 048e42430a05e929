package appraise

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// checkRevocation looks for the chain's certificates in the CRLs that its root
// signed. It returns a text that names the list that decided. If no list can
// decide, the error matches errUnknownRevocation. If a certificate is revoked, the
// error does not match it.
//
// AMD issues one CRL for each product, signed by its ARK. By RFC 5280 such a
// list covers only certificates that the ARK issued. Here a serial number in it
// counts against every certificate of the chain, because no other list could name
// the leaf.
//
// BUG: AMD serves the lists of VCEK and VLEK of one product at two addresses, and a
// list does not say which of the two it is. If a stale list of VCEKs lies beside a
// fresh list of VLEKs with a higher number, checkRevocation does not notice the
// stale one. Replace both at once.
func checkRevocation(c chain, crls []*x509.RevocationList, now time.Time, memo *Memo) (string, error) {
	var newest, future *x509.RevocationList
	var unfit []error // why lists with this root's name do not count
	for _, crl := range crls {
		if !bytes.Equal(crl.RawIssuer, c.root.RawSubject) {
			continue
		}
		if err := verifyCRL(crl, c.root, memo); err != nil {
			unfit = append(unfit, fmt.Errorf("CRL %s of %s: %w", crl.Number, stamp(crl.ThisUpdate), err))
			continue
		}
		// Any list that the root signed can say "revoked". Only a complete, fresh one
		// can say "not revoked".
		if err := c.revokedBy(crl); err != nil {
			return "", err
		}
		if err := checkCRL(crl); err != nil {
			unfit = append(unfit, err)
			continue
		}
		if now.Before(crl.ThisUpdate) {
			future = crl
			continue
		}
		if newest == nil || crl.Number.Cmp(newest.Number) > 0 {
			newest = crl
		}
	}
	switch root := c.root.Subject.CommonName; {
	case newest != nil:
	case future != nil:
		return "", fmt.Errorf("CRL %s of %s is from the future at %s: %w", future.Number, stamp(future.ThisUpdate), stamp(now), errUnknownRevocation)
	case len(unfit) > 0:
		return "", fmt.Errorf("no CRL of %q can be used: %w: %w", root, errors.Join(unfit...), errUnknownRevocation)
	case len(crls) > 0:
		return "", fmt.Errorf("none of %d CRLs is of %q, want a fresh one: %w", len(crls), root, errUnknownRevocation)
	default:
		return "", fmt.Errorf("there is no CRL, want a fresh one of %q: %w", root, errUnknownRevocation)
	}
	what := fmt.Sprintf("CRL %s of %s, good until %s", newest.Number, stamp(newest.ThisUpdate), stamp(newest.NextUpdate))
	if now.After(newest.NextUpdate) {
		return "", fmt.Errorf("%s: it is stale at %s: %w", what, stamp(now), errUnknownRevocation)
	}
	return what, nil
}

// verifyCRL verifies the signature of a list.
func verifyCRL(crl *x509.RevocationList, root *x509.Certificate, memo *Memo) error {
	if crl.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return fmt.Errorf("CRL is signed with %s, want %s", crl.SignatureAlgorithm, x509.SHA384WithRSAPSS)
	}
	return memo.check(crl.RawTBSRevocationList, crl.Signature, root, func() error { return crl.CheckSignatureFrom(root) })
}

// Extensions by which a list says that it does not cover all certificates (RFC
// 5280, sections 5.2.4 and 5.2.5).
var (
	deltaCRLIndicator        = asn1.ObjectIdentifier{2, 5, 29, 27}
	issuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
)

// checkCRL verifies the form of a list that may say "not revoked".
func checkCRL(crl *x509.RevocationList) error {
	if crl.Number == nil || crl.NextUpdate.IsZero() {
		return fmt.Errorf("CRL has no number or no next update, want both")
	}
	for _, e := range crl.Extensions {
		if e.Critical || e.Id.Equal(deltaCRLIndicator) || e.Id.Equal(issuingDistributionPoint) {
			return fmt.Errorf("CRL has extension %s, want none that is critical or makes it one of a part", e.Id)
		}
	}
	return nil
}

// revokedBy returns an error if the list names a certificate of the chain.
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
