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
	if err := pins.DecodeHex(n[:], text); err != nil {
		return fmt.Errorf("parsing nonce: %v", err)
	}
	return nil
}

// ParseNonce reads a nonce from lower-case hex.
func ParseNonce(s string) (Nonce, error) {
	var n Nonce
	err := n.UnmarshalText([]byte(s))
	return n, err
}

// The labels of the purposes that a report can have. Each label ends in a version.
// No two purposes share a label, so evidence for one never serves another.
const (
	labelNodeAttestation  = "rootvouch node attestation v1"
	labelKeyRelease       = "rootvouch key release v1"
	labelOwnerAttestation = "rootvouch owner attestation v1"
)

// NodeAttestation returns the REPORT_DATA with which a SPIRE agent answers the
// server's nonce.
//
// SPIRE's protocol shows the agent's key to neither plugin, so the report binds no
// key: a process that gets a report in this launch can take the agent's identity.
func NodeAttestation(nonce Nonce) [64]byte {
	return bind(labelNodeAttestation, nonce[:])
}

// KeyRelease returns the REPORT_DATA with which a guest asks the KMS for the
// key of a disk. It binds two public keys: that of the caller's SVID, as DER
// SubjectPublicKeyInfo, so that the report cannot serve another caller; and the
// ephemeral HPKE key, to which the reply is sealed.
func KeyRelease(nonce Nonce, disk pins.UUID, svidSPKI, hpkePublicKey []byte) [64]byte {
	return bind(labelKeyRelease, nonce[:], disk[:], svidSPKI, hpkePublicKey)
}

// OwnerAttestation returns the REPORT_DATA with which a booted guest answers
// its owner. It binds the public key of the TLS connection that carries the
// answer, as DER SubjectPublicKeyInfo, and the digest of the boot log.
func OwnerAttestation(nonce Nonce, tlsSPKI []byte, bootLogDigest pins.Digest) [64]byte {
	return bind(labelOwnerAttestation, nonce[:], tlsSPKI, bootLogDigest[:])
}

// bind hashes a label and fields. The length of each, as 32 bits big-endian, goes
// before it, so that different lists of fields give different bytes.
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
