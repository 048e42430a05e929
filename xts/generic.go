package xts

import (
	"crypto/aes"

	"golang.org/x/crypto/xts"
)

// generic is golang.org/x/crypto/xts: the fallback where there is no assembly,
// and the oracle of its tests.
type generic struct{ cipher *xts.Cipher }

func newGeneric(key []byte) (implementation, error) {
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return nil, err
	}
	return generic{c}, nil
}

func (g generic) encrypt(dst, src []byte, sector uint64, sectorSize int) {
	for ; len(src) > 0; sector += uint64(sectorSize / SectorUnit) {
		g.cipher.Encrypt(dst[:sectorSize], src[:sectorSize], sector)
		dst, src = dst[sectorSize:], src[sectorSize:]
	}
}

func (g generic) decrypt(dst, src []byte, sector uint64, sectorSize int) {
	for ; len(src) > 0; sector += uint64(sectorSize / SectorUnit) {
		g.cipher.Decrypt(dst[:sectorSize], src[:sectorSize], sector)
		dst, src = dst[sectorSize:], src[sectorSize:]
	}
}

func (g generic) wipe() {}
