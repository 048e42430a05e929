package evidence

import (
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/rootvouch/rootvouch/pins"
)

// Nonce is a verifier's challenge: 32 random bytes, used once. Its text form
// is lower-case hex.
type Nonce [32]byte

// NewNonce draws a nonce.
func NewNonce(rand io.Reader) (Nonce, error) {
	var n Nonce
	if _, err := io.ReadFull(rand, n[:]); err != nil {
		return Nonce{}, fmt.Errorf("drawing nonce: %v", err)
	}
	return n, nil
}

// String returns the nonce in hex.
func (n Nonce) String() string { return hex.EncodeToString(n[:]) }

// MarshalText returns the nonce in hex.
func (n Nonce) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText sets n from 64 lower-case hex digits.
func (n *Nonce) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(n) || hex.EncodeToString(b) != string(text) {
		return fmt.Errorf("parsing nonce: got %q, want %d lower-case hex digits", text, 2*len(n))
	}
	copy(n[:], b)
	return nil
}

// ParseNonce reads a nonce from lower-case hex.
func ParseNonce(s string) (Nonce, error) {
	var n Nonce
	err := n.UnmarshalText([]byte(s))
	return n, err
}

// The labels of what a report can be for. Each ends in a version, and no two
// purposes share one: evidence for one is never evidence for another.
const (
	labelNodeAttestation  = "rootvouch node attestation v1"
	labelKeyRelease       = "rootvouch key release v1"
	labelOwnerAttestation = "rootvouch owner attestation v1"
)

// NodeAttestation returns the REPORT_DATA with which a SPIRE agent answers the
// server's nonce.
//
// SPIRE's protocol shows neither plugin the agent's key, so this binds none:
// whoever gets a report in the launch can take the agent's identity.
func NodeAttestation(nonce Nonce) [64]byte {
	return bind(labelNodeAttestation, nonce[:])
}

// KeyRelease returns the REPORT_DATA with which a guest asks the KMS for the
// key of a disk. It binds the public key of the caller's SVID, as DER
// SubjectPublicKeyInfo, so that a report cannot serve another caller; and the
// ephemeral HPKE public key, to which alone the reply is sealed.
func KeyRelease(nonce Nonce, disk pins.UUID, svidSPKI, hpkePublicKey []byte) [64]byte {
	return bind(labelKeyRelease, nonce[:], disk[:], svidSPKI, hpkePublicKey)
}

// OwnerAttestation returns the REPORT_DATA with which a booted guest answers
// its owner. It binds the public key of the TLS connection that carries the
// answer, as DER SubjectPublicKeyInfo, and the digest of the boot log.
func OwnerAttestation(nonce Nonce, tlsSPKI []byte, bootLogDigest pins.Digest) [64]byte {
	return bind(labelOwnerAttestation, nonce[:], tlsSPKI, bootLogDigest[:])
}

// bind hashes a label and fields, each behind its length as 32 bits
// big-endian, so that no two lists of fields give the same bytes.
func bind(label string, fields ...[]byte) [64]byte {
	h := sha512.New()
	write := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	write([]byte(label))
	for _, f := range fields {
		write(f)
	}
	return [64]byte(h.Sum(nil))
}
