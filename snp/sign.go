package snp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
)

// signatureSize is the size in bytes of the two components of a signature. The rest
// of a report's 512 bytes for the signature is zero.
const signatureSize = 2 * 72

// Signature is an ECDSA P-384 signature as the AMD-SP writes it: each
// component little-endian and padded with zeros to 72 bytes (56860, chapter 10,
// table 141, "Format for an ECDSA P-384 with SHA-384 Signature").
type Signature struct {
	R, S [72]byte
}

// ErrSignature is returned by [Report.Verify] if the key did not sign the report.
var ErrSignature = errors.New("signature does not verify")

// check refuses components that are not in the range 1 to n-1.
func (s Signature) check() error {
	for _, c := range []struct {
		name string
		le   [72]byte
	}{{"R", s.R}, {"S", s.S}} {
		v := fromLittleEndian(c.le)
		if v.Sign() == 0 || v.Cmp(elliptic.P384().Params().N) >= 0 {
			return fmt.Errorf("signature component %s is %#x, want 1 to n-1 of P-384", c.name, v)
		}
	}
	return nil
}

// Sign signs r with key, a P-384 key, and keeps the signature in r. It is for the
// software AMD-SP, and for tests.
func (r *Report) Sign(rand io.Reader, key *ecdsa.PrivateKey) error {
	if key.Curve != elliptic.P384() {
		return fmt.Errorf("signing report: key is on %s, want P-384", key.Curve.Params().Name)
	}
	r.SignatureAlgo = signatureECDSAP384
	digest := sha512.Sum384(r.Marshal()[:signedSize])
	sigR, sigS, err := ecdsa.Sign(rand, key, digest[:])
	if err != nil {
		return fmt.Errorf("signing report: %v", err)
	}
	r.Signature = Signature{R: toLittleEndian(sigR), S: toLittleEndian(sigS)}
	return nil
}

// Verify returns nil if pub, a P-384 key, signed r. Otherwise the error matches
// [ErrSignature]. ECDSA signatures are malleable: two reports that differ only in S
// can both verify. So do not tell reports apart by the bytes of their signatures.
func (r *Report) Verify(pub *ecdsa.PublicKey) error {
	return r.VerifyBy(pub, func(digest [sha512.Size384]byte, sigR, sigS *big.Int) bool {
		return ecdsa.Verify(pub, digest[:], sigR, sigS)
	})
}

// VerifyBy is Verify with another implementation of the signature check, which gets
// the SHA-384 of the signed bytes. verify must return the same result as
// crypto/ecdsa for pub.
func (r *Report) VerifyBy(pub *ecdsa.PublicKey, verify func(digest [sha512.Size384]byte, sigR, sigS *big.Int) bool) error {
	if pub.Curve != elliptic.P384() {
		return fmt.Errorf("verifying report: key is on %s, want P-384", pub.Curve.Params().Name)
	}
	if err := r.Signature.check(); err != nil {
		return fmt.Errorf("verifying report: %v: %w", err, ErrSignature)
	}
	digest := sha512.Sum384(r.Marshal()[:signedSize])
	if !verify(digest, fromLittleEndian(r.Signature.R), fromLittleEndian(r.Signature.S)) {
		return fmt.Errorf("verifying report: %w", ErrSignature)
	}
	return nil
}

func fromLittleEndian(le [72]byte) *big.Int {
	slices.Reverse(le[:])
	return new(big.Int).SetBytes(le[:])
}

func toLittleEndian(v *big.Int) (le [72]byte) {
	v.FillBytes(le[:])
	slices.Reverse(le[:])
	return le
}
