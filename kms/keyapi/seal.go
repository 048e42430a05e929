package keyapi

import (
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/pins"
)

// The HPKE suite (RFC 9180, section 7): DHKEM(X25519, HKDF-SHA256) 0x0020,
// HKDF-SHA256 0x0001, AES-256-GCM 0x0002; mode base, one message, no AAD.
func kem() hpke.KEM   { return hpke.DHKEM(ecdh.X25519()) }
func kdf() hpke.KDF   { return hpke.HKDFSHA256() }
func aead() hpke.AEAD { return hpke.AES256GCM() }

const sealLabel = "rootvouch key release reply v1"

// sealInfo is HPKE's info: the label, then the fields. Each field follows its size in bytes as
// a big-endian uint32. So a reply opens only in the exchange that it answers.
func sealInfo(nonce evidence.Nonce, disk pins.UUID) []byte {
	var info []byte
	for _, field := range [][]byte{[]byte(sealLabel), nonce[:], disk[:]} {
		info = binary.BigEndian.AppendUint32(info, uint32(len(field)))
		info = append(info, field...)
	}
	return info
}

// Recipient is the guest's ephemeral HPKE key pair, one per request. crypto/hpke holds the
// private key, so it cannot be wiped. It ends with the process.
type Recipient struct{ private hpke.PrivateKey }

// NewRecipient makes a key pair. crypto/hpke takes its randomness from the kernel, and a caller
// cannot replace that source.
func NewRecipient() (*Recipient, error) {
	private, err := kem().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("making an HPKE key pair: %v", err)
	}
	return &Recipient{private}, nil
}

// PublicKey returns the public key, which the evidence binds.
func (r *Recipient) PublicKey() PublicKey {
	return PublicKey(r.private.PublicKey().Bytes())
}

// Open opens the sealed part of the ReleaseReply to the request with this nonce and disk. It
// refuses a reply whose header pin names another disk. The caller wipes the result.
func (r *Recipient) Open(nonce evidence.Nonce, disk pins.UUID, sealed []byte) (*Released, error) {
	plain, err := hpke.Open(r.private, kdf(), aead(), sealInfo(nonce, disk), sealed)
	if err != nil {
		return nil, errors.New("opening the sealed key: it is not sealed to this request")
	}
	defer clear(plain)
	released, err := ParseReleased(plain)
	if err != nil {
		return nil, fmt.Errorf("opening the sealed key: %w", err)
	}
	if got := released.Header.DiskUUID; got != disk {
		released.Wipe()
		return nil, fmt.Errorf("opening the sealed key: header pin is for disk %s, want %s", got, disk)
	}
	return released, nil
}

// Seal seals released to the public key of the request with this nonce and disk. The result is
// HPKE's encapsulated key (32 bytes), then its ciphertext.
func Seal(to PublicKey, nonce evidence.Nonce, disk pins.UUID, released *Released) ([]byte, error) {
	public, err := kem().NewPublicKey(to[:])
	if err != nil {
		return nil, fmt.Errorf("sealing the key: parsing HPKE public key %s: %v", to, err)
	}
	if got := released.Header.DiskUUID; got != disk {
		return nil, fmt.Errorf("sealing the key: header pin is for disk %s, want %s", got, disk)
	}
	plain, err := released.Marshal()
	if err != nil {
		return nil, fmt.Errorf("sealing the key: %w", err)
	}
	defer clear(plain)
	sealed, err := hpke.Seal(public, kdf(), aead(), sealInfo(nonce, disk), plain)
	if err != nil {
		return nil, fmt.Errorf("sealing the key: %v", err)
	}
	return sealed, nil
}
