package volume

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
)

const (
	headerLabel = "rootvouch volume header v1"
	seedSize    = 32 // AES-256-CTR makes the salts and the stripes
)

// Header makes the LUKS2 header of a volume: a pure function of its key and its UUID,
// so that an owner who has the key can put a lost header back. The key is the
// passphrase of the keyslot too, which is what the key server keeps and cryptsetup
// takes.
func Header(key [luks2.PassphraseSize]byte, uuid pins.UUID) ([]byte, error) {
	defer clear(key[:])
	secrets, err := hkdf.Key(sha256.New, key[:], uuid[:], headerLabel, luks2.AuthenticatedKeySize+seedSize)
	if err != nil {
		return nil, fmt.Errorf("deriving the volume key: %v", err)
	}
	defer clear(secrets)
	volumeKey, seed := secrets[:luks2.AuthenticatedKeySize], secrets[luks2.AuthenticatedKeySize:]
	block, err := aes.NewCipher(seed)
	if err != nil {
		return nil, fmt.Errorf("deriving the header: %v", err)
	}
	return luks2.Build(luks2.Params{
		UUID: uuid, SequenceID: 1, VolumeKey: volumeKey, Passphrase: key[:],
		Random: keyStream{cipher.NewCTR(block, make([]byte, aes.BlockSize))}, Authenticated: true,
	})
}

// keyStream reads the key stream of a cipher.
type keyStream struct{ cipher.Stream }

func (s keyStream) Read(b []byte) (int, error) {
	clear(b)
	s.XORKeyStream(b, b)
	return len(b), nil
}
