package dm

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Crypt is a dm-crypt target over one segment of a disk (Linux,
// Documentation/admin-guide/device-mapper/dm-crypt.rst).
type Crypt struct {
	Device     string // "major:minor" of the disk
	Cipher     string // as LUKS2 names it: "aes-xts-plain64"
	Key        string // description of a logon key in the keyring; see WithLogonKey
	KeySize    int    // bytes
	Offset     uint64 // bytes from the start of the disk, a multiple of SectorSize
	Size       uint64 // bytes, a multiple of SectorSize
	SectorSize int    // bytes that are encrypted as one unit
	// TagSize is that of the tags which Cipher makes and the device below keeps, in
	// bytes: an authenticated cipher, and a device that is written. 0 is neither.
	TagSize int
}

// Target returns the table: the IV counts 512-byte sectors from the start of
// the segment, as LUKS2 has it.
func (c Crypt) Target() Target {
	options := fmt.Sprintf("1 sector_size:%d", c.SectorSize)
	if c.TagSize > 0 {
		options = fmt.Sprintf("2 integrity:%d:aead sector_size:%d", c.TagSize, c.SectorSize)
	}
	return Target{
		Length: c.Size / SectorSize,
		Type:   "crypt",
		Params: fmt.Sprintf("%s :%d:logon:%s 0 %s %d %s",
			c.Cipher, c.KeySize, c.Key, c.Device, c.Offset/SectorSize, options),
		Writable: c.TagSize > 0,
	}
}

// Integrity is a dm-integrity target that keeps a dm-crypt target's tags, with a
// journal (Linux, Documentation/admin-guide/device-mapper/dm-integrity.rst). The
// kernel takes the layout from the superblock on the device, so the caller must compare
// the superblock before it loads this target.
type Integrity struct {
	Device     string // "major:minor" of the disk
	Offset     uint64 // bytes from the start of the disk, a multiple of SectorSize
	Size       uint64 // bytes that it offers, a multiple of SectorSize
	SectorSize int    // bytes that have one tag
	TagSize    int    // bytes
}

// Target returns the table. Data and tag of a sector become durable together, by way of
// the journal: without it a crash leaves sectors that cannot be read.
func (i Integrity) Target() Target {
	return Target{
		Length:   i.Size / SectorSize,
		Type:     "integrity",
		Params:   fmt.Sprintf("%s %d %d J 1 block_size:%d", i.Device, i.Offset/SectorSize, i.TagSize, i.SectorSize),
		Writable: true,
	}
}

// OnCorruption says what dm-verity does when a block does not match its digest.
type OnCorruption int

// The zero value is neither, so that a table names its choice.
const (
	ReadError OnCorruption = iota + 1 // the read fails with EIO, and somebody looks at the error
	Panic                             // the kernel panics, on a read that fails as well: corrupted data has no reader
)

// Verity is a dm-verity target whose data and tree lie on one device (Linux,
// Documentation/admin-guide/device-mapper/verity.rst): hash type 1, SHA-256.
type Verity struct {
	Device       string // "major:minor"
	BlockSize    int    // bytes, of data and of hash blocks
	DataBlocks   uint64 // blocks
	TreeBlock    uint64 // block at which the tree starts, after the superblock
	RootHash     []byte
	Salt         []byte
	OnCorruption OnCorruption
}

// Target returns the table.
func (v Verity) Target() Target {
	salt := "-"
	if len(v.Salt) > 0 {
		salt = hex.EncodeToString(v.Salt)
	}
	params := fmt.Sprintf("1 %s %s %d %d %d %d sha256 %x %s",
		v.Device, v.Device, v.BlockSize, v.BlockSize, v.DataBlocks, v.TreeBlock, v.RootHash, salt)
	switch v.OnCorruption {
	case ReadError:
	case Panic:
		// Linux has panic_on_error since 6.12; an older kernel refuses the table.
		// Errors in a read-ahead, or at shutdown, cause no panic.
		params += " 2 panic_on_corruption panic_on_error"
	default:
		panic(fmt.Sprintf("dm: internal error: OnCorruption is %d", v.OnCorruption))
	}
	return Target{
		Length: v.DataBlocks * uint64(v.BlockSize/SectorSize),
		Type:   "verity",
		Params: params,
	}
}

// VerityCorrupted reports whether a status line of dm-verity says that a block
// did not match its digest ("C"), and not that all did so far ("V").
func VerityCorrupted(status string) bool { return !strings.HasPrefix(status, "V") }
