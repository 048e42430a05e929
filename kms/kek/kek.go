// Package kek seals small secrets under the key server's key-encryption key.
//
// A key-encryption key protects no one from a thief who has it together with the store: the
// thief then has every disk's key. Keep the two on different media, or give the key as a
// systemd credential, which systemd encrypts at rest.
package kek

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Size is the size in bytes of a key-encryption key.
const Size = 32

// nonceSize and tagSize are AES-GCM's (NIST SP 800-38D), in bytes.
const (
	nonceSize = 12
	tagSize   = 16
)

// Overhead is the difference in bytes between a sealed secret and the secret.
const Overhead = nonceSize + tagSize

// ErrWrongKey says that a sealed secret does not open: the key-encryption key or the associated
// data differ, or bytes were changed.
var ErrWrongKey = errors.New("sealed under another key-encryption key, or changed")

// KEK is a key-encryption key: AES-256-GCM with random nonces, good for 2^32
// seals (SP 800-38D, section 8.3); each `keys put`, enable and disable is one.
type KEK struct{ aead cipher.AEAD }

// New makes a KEK of Size bytes, which the caller wipes afterwards.
func New(key []byte) (*KEK, error) {
	if len(key) != Size {
		return nil, fmt.Errorf("key-encryption key has %d bytes, want %d", len(key), Size)
	}
	if isZero(key) {
		return nil, errors.New("key-encryption key is all zero")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("making AES-256: %v", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("making AES-256-GCM: %v", err)
	}
	return &KEK{aead}, nil
}

// Seal seals secret with the associated data about. Only Open with an equal about opens it.
func (k *KEK) Seal(rand io.Reader, secret []byte, about AAD) ([]byte, error) {
	sealed := make([]byte, nonceSize, nonceSize+len(secret)+tagSize)
	if _, err := io.ReadFull(rand, sealed); err != nil {
		return nil, fmt.Errorf("reading randomness for a seal: %v", err)
	}
	return k.aead.Seal(sealed, sealed, secret, about), nil
}

// Open opens what Seal made. The error is ErrWrongKey. The caller wipes the
// result.
func (k *KEK) Open(sealed []byte, about AAD) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, ErrWrongKey
	}
	secret, err := k.aead.Open(nil, sealed[:nonceSize], sealed[nonceSize:], about)
	if err != nil {
		return nil, ErrWrongKey
	}
	return secret, nil
}

// AAD is the associated data of a seal. It says what the secret is for.
type AAD []byte

// About makes associated data from a label with a version, and fields. Each field follows its
// size in bytes as a big-endian uint32.
func About(label string, fields ...[]byte) AAD {
	var aad AAD
	for _, field := range append([][]byte{[]byte(label)}, fields...) {
		aad = binary.BigEndian.AppendUint32(aad, uint32(len(field)))
		aad = append(aad, field...)
	}
	return aad
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
