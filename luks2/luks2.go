// Package luks2 writes and strictly reads LUKS2 headers of two profiles.
//
// The profile of a root disk only encrypts: dm-verity inside the container authenticates
// the contents. The profile of a volume, which a VM writes, also has an authentication tag
// for each sector. dm-integrity, below dm-crypt, stores the tags.
//
// The host can change a LUKS2 header. In other projects, forged headers that name a null
// cipher made guests mount an attacker's plaintext (CVE-2025-59054, CVE-2025-58356). So this
// package accepts only a header that it could have written itself, or that cryptsetup
// 2.6 writes for the same parameters. Such a header has one keyslot, one segment, one
// digest, fixed algorithms and sizes, no tokens and no requirements. Re-encoding its
// JSON gives back every byte.
//
// The format is "LUKS2 On-Disk Format Specification", version 1.1.1. The profiles are
// in docs/spec/image.md and docs/spec/volume.md. The header region has gaps between its
// parts. Nothing reads the bytes in the gaps, and this package does not check them. The
// header pin, a SHA-256 of the whole region, covers them.
package luks2

import (
	"errors"

	"github.com/rootvouch/rootvouch/pins"
)

// The profile, sizes and offsets in bytes.
const (
	// HeaderSize is the header region: everything before the payload.
	HeaderSize = 1 << 20

	// VolumeKeySize is the size of the AES-256-XTS key of a disk's payload.
	VolumeKeySize = 64

	// MACKeySize is the size of the HMAC-SHA256 key of a volume's tags, which
	// follows the AES-256-XTS key in its volume key.
	MACKeySize = 32

	// AuthenticatedKeySize is the size of a volume's volume key.
	AuthenticatedKeySize = VolumeKeySize + MACKeySize

	// Integrity is the kernel's name of what makes a volume's tags.
	Integrity = "hmac(sha256)"

	// PassphraseSize is the size of the key that opens the keyslot: random
	// bytes, which is why 1000 iterations of PBKDF2 are enough.
	PassphraseSize = 32

	// SectorSize is the unit of encryption.
	SectorSize = pins.BlockSize

	// Cipher is the kernel's name of the payload's and the keyslot's cipher.
	Cipher = "aes-xts-plain64"

	binarySize   = 4096  // LUKS2 spec, 2.1
	metadataSize = 16384 // binary header and JSON area; twice on disk
	jsonSize     = metadataSize - binarySize
	areaOffset   = 2 * metadataSize
	stripes      = 4000      // LUKS1 spec, 2.4: anti-forensic splitter
	keyslotsSize = 512 << 10 // room for a second keyslot, for cryptsetup luksAddKey on a copy
	areaSector   = 512       // keyslot areas are encrypted in sectors of 512 bytes, counted from 0
	iterations   = 1000      // PBKDF2, keyslot and digest: the least that cryptsetup 2.6.1 takes
	saltSize     = 32        // LUKS_SALTSIZE
	digestSize   = 32        // SHA-256
)

// ErrWrongKey says that the passphrase does not open the keyslot.
var ErrWrongKey = errors.New("wrong key: the keyslot's volume key does not match its digest")

// Container is a header that was checked.
type Container struct {
	UUID          pins.UUID
	SequenceID    uint64
	PayloadOffset uint64 // bytes from the start of the disk
	SectorSize    int    // bytes

	kind   kind
	slot   keyslotSecrets
	digest pbkdf2Digest
}

// keyslotSecrets is what opening the keyslot needs.
type keyslotSecrets struct {
	salt [saltSize]byte
	area []byte // the encrypted key material, kind.areaUsed bytes
}

// pbkdf2Digest recognises the volume key.
type pbkdf2Digest struct {
	salt  [saltSize]byte
	value [digestSize]byte
}
