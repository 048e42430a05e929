package image

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
)

// MinSeed is the least size of a seed in bytes, because a seed determines every key.
const MinSeed = 32

// SeedReader returns randomness derived from a secret: the key stream of AES-256-CTR under
// HKDF-SHA256(seed). The same seed gives the same disk, key included. So protect the seed like
// the key.
func SeedReader(seed []byte) (io.Reader, error) {
	if len(seed) < MinSeed {
		return nil, fmt.Errorf("seed has %d bytes, want at least %d", len(seed), MinSeed)
	}
	key, err := hkdf.Key(sha256.New, seed, nil, "rootvouch image seed v1", 32)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return keyStream{cipher.NewCTR(block, make([]byte, aes.BlockSize))}, nil
}

type keyStream struct{ stream cipher.Stream }

func (k keyStream) Read(b []byte) (int, error) {
	clear(b)
	k.stream.XORKeyStream(b, b)
	return len(b), nil
}
