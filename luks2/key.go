package luks2

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"github.com/rootvouch/rootvouch/xts"
)

// VolumeKey opens the keyslot. The caller wipes the key when it is done with
// it. An error matches ErrWrongKey when the passphrase is not the right one.
//
// (As PBKDF2 has it, zero bytes at the end of a passphrase shorter than 64 bytes
// make no difference.)
//
// Everything secret made on the way is wiped, except for what crypto/hmac and
// crypto/sha256 keep of the passphrase in their own state.
func (c *Container) VolumeKey(passphrase []byte) ([]byte, error) {
	areaKey := deriveKey(passphrase, c.slot.salt[:], VolumeKeySize)
	defer clear(areaKey)
	cipher, err := xts.NewCipher(areaKey)
	if err != nil {
		return nil, fmt.Errorf("opening keyslot: %w", err)
	}
	defer cipher.Wipe()
	split := make([]byte, c.kind.areaUsed())
	defer clear(split)
	cipher.Decrypt(split, c.slot.area, 0, areaSector)
	key := merge(split, c.kind.keySize)
	got := deriveKey(key, c.digest.salt[:], digestSize)
	defer clear(got)
	if subtle.ConstantTimeCompare(got, c.digest.value[:]) != 1 {
		clear(key)
		return nil, ErrWrongKey
	}
	return key, nil
}

// deriveKey is PBKDF2-HMAC-SHA256 (RFC 8018, 5.2) with the profile's iterations.
// The standard library's takes the password as a string, which nobody can wipe.
func deriveKey(password, salt []byte, size int) []byte {
	mac := hmac.New(sha256.New, password)
	out := make([]byte, 0, (size+sha256.Size-1)/sha256.Size*sha256.Size)
	var u [sha256.Size]byte
	defer clear(u[:])
	for block := uint32(1); len(out) < size; block++ {
		mac.Reset()
		mac.Write(salt)
		mac.Write(binary.BigEndian.AppendUint32(nil, block))
		mac.Sum(u[:0])
		out = append(out, u[:]...)
		t := out[len(out)-len(u):]
		for range iterations - 1 {
			mac.Reset()
			mac.Write(u[:])
			mac.Sum(u[:0])
			subtle.XORBytes(t, t, u[:])
		}
	}
	clear(out[size:])
	return out[:size]
}

// merge undoes the anti-forensic split of a key of so many bytes (LUKS1 spec,
// 2.4.2).
func merge(split []byte, size int) []byte {
	key := make([]byte, size)
	for ; len(split) > size; split = split[size:] {
		subtle.XORBytes(key, key, split[:size])
		diffuse(key)
	}
	subtle.XORBytes(key, key, split)
	return key
}

// splitKey fills split, whose stripes but the last are random already, so that
// merge gives key.
func splitKey(split, key []byte) {
	last := split[len(split)-len(key):]
	clear(last)
	sum := merge(split, len(key))
	defer clear(sum)
	subtle.XORBytes(last, sum, key)
}

// diffuse hashes each block of key with its number (LUKS1 spec, 2.4.1, H1).
func diffuse(key []byte) {
	var buffer [4 + sha256.Size]byte
	defer clear(buffer[:])
	for n := 0; n*sha256.Size < len(key); n++ {
		block := key[n*sha256.Size:][:sha256.Size]
		binary.BigEndian.PutUint32(buffer[:], uint32(n))
		copy(buffer[4:], block)
		sum := sha256.Sum256(buffer[:])
		copy(block, sum[:])
		clear(sum[:])
	}
}
