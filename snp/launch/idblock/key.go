package idblock

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/rootvouch/rootvouch/snp"
)

// Sizes in bytes of a public key and a signature (56860, chapter 10, tables 142,
// "Format for an ECDSA P-384 Public Key", and 141, "Format for an ECDSA P-384
// with SHA-384 Signature"), the curve (table 140) and the algorithm (table 139).
//
//	key:       0x000  4 CURVE, 2 for P-384    signature: 0x000  72 R
//	           0x004 72 QX                               0x048  72 S
//	           0x04c 72 QY                               0x090 368 zero
//	           0x094 880 zero
//
// Numbers are little-endian and padded with zeros.
const (
	keySize       = 0x404
	signatureSize = 0x200
	numberSize    = 72
	coordinate    = 48 // bytes of a coordinate on P-384
	curveP384     = 2
	algorithm     = 1 // ECDSA P-384 with SHA-384
)

// ErrSignature is returned by [Parse] when a signature does not verify.
var ErrSignature = errors.New("signature does not verify")

// ParsePrivateKey reads a P-384 private key from PEM, SEC 1 or PKCS #8.
func ParsePrivateKey(data []byte) (*ecdsa.PrivateKey, error) {
	var block *pem.Block
	for rest := data; ; {
		// OpenSSL writes the parameters of the curve in a block before the key.
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("parsing private key: no PEM block with a private key")
		}
		if block.Type != "EC PARAMETERS" {
			break
		}
	}
	if block.Headers["DEK-Info"] != "" {
		return nil, errors.New("parsing private key: it is encrypted, want an unencrypted private key")
	}
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("parsing private key: PEM block is %q, want an unencrypted private key", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("parsing private key: %v", err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("parsing private key: got a %T, want an ECDSA key on P-384", key)
	}
	if ec.Curve != elliptic.P384() {
		return nil, fmt.Errorf("parsing private key: got a key on %s, want P-384", ec.Params().Name)
	}
	return ec, nil
}

// KeyDigest returns the digest of a P-384 public key as reports have it in
// ID_KEY_DIGEST and AUTHOR_KEY_DIGEST.
func KeyDigest(pub *ecdsa.PublicKey) (snp.KeyDigest, error) {
	key, err := marshalKey(pub)
	return sha512.Sum384(key), err
}

func marshalKey(pub *ecdsa.PublicKey) ([]byte, error) {
	if pub.Curve != elliptic.P384() {
		return nil, fmt.Errorf("encoding public key: it is on %s, want P-384", pub.Curve.Params().Name)
	}
	point, err := pub.Bytes() // 0x04, X, Y (SEC 1, section 2.3.3)
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %v", err)
	}
	out := make([]byte, keySize)
	binary.LittleEndian.PutUint32(out, curveP384)
	putNumber(out[4:], point[1:1+coordinate])
	putNumber(out[4+numberSize:], point[1+coordinate:])
	return out, nil
}

func parseKey(data []byte) (*ecdsa.PublicKey, error) {
	if curve := binary.LittleEndian.Uint32(data); curve != curveP384 {
		return nil, fmt.Errorf("CURVE is %d, want %d (P-384)", curve, curveP384)
	}
	if i := nonZero(data[4+2*numberSize : keySize]); i >= 0 {
		return nil, fmt.Errorf("reserved byte %#x of the key is not zero", 4+2*numberSize+i)
	}
	point := []byte{4}
	for _, c := range []struct {
		name   string
		offset int
	}{{"QX", 4}, {"QY", 4 + numberSize}} {
		v := number(data[c.offset:])
		if v.BitLen() > 8*coordinate {
			return nil, fmt.Errorf("%s has %d bits, want at most %d", c.name, v.BitLen(), 8*coordinate)
		}
		point = append(point, v.FillBytes(make([]byte, coordinate))...)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P384(), point)
	if err != nil {
		return nil, fmt.Errorf("QX, QY are no point: %v", err)
	}
	return pub, nil
}

// sign signs data. The signature is deterministic (RFC 6979), so that the same
// inputs make the same ID authentication information.
func sign(key *ecdsa.PrivateKey, data []byte) ([]byte, error) {
	digest := sha512.Sum384(data)
	der, err := key.Sign(nil, digest[:], crypto.SHA384)
	if err != nil {
		return nil, err
	}
	var s struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &s); err != nil || len(rest) != 0 {
		panic("idblock: internal error: crypto/ecdsa made a signature that is not DER")
	}
	out := make([]byte, signatureSize)
	putNumber(out, s.R.Bytes())
	putNumber(out[numberSize:], s.S.Bytes())
	return out, nil
}

// verify checks the signature of data. Errors about it match ErrSignature.
func verify(pub *ecdsa.PublicKey, data, signature []byte) error {
	if i := nonZero(signature[2*numberSize : signatureSize]); i >= 0 {
		return fmt.Errorf("reserved byte %#x of the signature is not zero: %w", 2*numberSize+i, ErrSignature)
	}
	digest := sha512.Sum384(data)
	if !ecdsa.Verify(pub, digest[:], number(signature), number(signature[numberSize:])) {
		return ErrSignature
	}
	return nil
}

// putNumber writes a big-endian number little-endian into numberSize bytes.
func putNumber(to, bigEndian []byte) {
	for i, b := range bigEndian {
		to[len(bigEndian)-1-i] = b
	}
}

func number(littleEndian []byte) *big.Int {
	b := bytes.Clone(littleEndian[:numberSize])
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

// nonZero returns the index of the first byte that is not zero, or -1.
func nonZero(b []byte) int {
	return slices.IndexFunc(b, func(c byte) bool { return c != 0 })
}
