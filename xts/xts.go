// Package xts encrypts the sectors of a disk with AES-XTS (IEEE Std 1619-2018),
// at the speed of the machine.
//
// The tweak of a sector is its number in units of 512 bytes, little-endian. Linux
// dm-crypt calls this plain64. A sector is one XTS data unit of whole 16-byte blocks,
// so the package has no ciphertext stealing.
//
// XTS hides the data from an observer of one state of a disk. It does not
// authenticate. On a rootvouch disk dm-verity above it does.
package xts

import (
	"errors"
	"fmt"
)

const (
	blockSize = 16

	// SectorUnit is the unit in bytes in which sectors are numbered. It does not
	// depend on the sector size (dm-crypt without iv_large_sectors).
	SectorUnit = 512

	maxSector = 1 << 20 // IEEE 1619 limits a data unit to 2^20 blocks; we to 2^20 bytes
)

// Cipher is an expanded key. It may be used by several goroutines at once.
type Cipher struct{ impl implementation }

// implementation works on whole sectors; dst is at least as long as src.
type implementation interface {
	encrypt(dst, src []byte, sector uint64, sectorSize int)
	decrypt(dst, src []byte, sector uint64, sectorSize int)
	wipe()
}

// NewCipher expands a key of 32 bytes (AES-128-XTS) or 64 bytes (AES-256-XTS).
// As IEEE 1619-2018 annex and FIPS 140 demand, its halves must differ. The key
// is not kept; Wipe erases what was made of it.
func NewCipher(key []byte) (*Cipher, error) {
	if len(key) != 32 && len(key) != 64 {
		return nil, fmt.Errorf("AES-XTS key has %d bytes, want 32 or 64", len(key))
	}
	var differ byte
	for i := range len(key) / 2 {
		differ |= key[i] ^ key[len(key)/2+i]
	}
	if differ == 0 {
		return nil, errors.New("the two halves of the AES-XTS key are equal")
	}
	impl, err := newImplementation(key)
	if err != nil {
		return nil, err
	}
	return &Cipher{impl}, nil
}

// Encrypt encrypts consecutive sectors of sectorSize bytes from src to dst. The
// first one's number is sector, in units of 512 bytes. dst may be src; other
// overlaps are not allowed. len(src) must be a multiple of sectorSize, and
// sectorSize one of 512.
func (c *Cipher) Encrypt(dst, src []byte, sector uint64, sectorSize int) {
	check(dst, src, sectorSize)
	c.impl.encrypt(dst, src, sector, sectorSize)
}

// Decrypt is the inverse of Encrypt.
func (c *Cipher) Decrypt(dst, src []byte, sector uint64, sectorSize int) {
	check(dst, src, sectorSize)
	c.impl.decrypt(dst, src, sector, sectorSize)
}

// Wipe erases the expanded key, where it is ours to erase; the cipher must not
// be used afterwards. (The generic code's key lives in crypto/aes, out of reach.)
func (c *Cipher) Wipe() { c.impl.wipe() }

func check(dst, src []byte, sectorSize int) {
	switch {
	case sectorSize < SectorUnit || sectorSize > maxSector || sectorSize%SectorUnit != 0:
		panic(fmt.Sprintf("xts: internal error: sector of %d bytes", sectorSize))
	case len(src)%sectorSize != 0:
		panic(fmt.Sprintf("xts: internal error: %d bytes are not whole sectors of %d", len(src), sectorSize))
	case len(dst) < len(src):
		panic(fmt.Sprintf("xts: internal error: %d bytes into %d", len(src), len(dst)))
	}
}
