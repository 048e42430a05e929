// Package pins holds the values that say which disk is the right one: the
// dm-verity root hash with its parameters, and the digest of the LUKS2 header.
package pins

import (
	"fmt"

	"github.com/rootvouch/rootvouch/internal/strictjson"
)

const (
	// BlockSize is the size in bytes of a data block, a hash block and an
	// encrypted sector; a disk image has no other.
	BlockSize = 4096

	// MaxSalt is the largest dm-verity salt in bytes (Linux,
	// Documentation/admin-guide/device-mapper/verity.rst; the superblock has
	// 256 bytes for it).
	MaxSalt = 256

	// MaxPayloadOffset bounds the LUKS2 header region in bytes, so that nobody
	// can make a reader hold an absurd one in memory.
	MaxPayloadOffset = 16 << 20

	version = 1
)

// Verity pins the contents of a root disk. These values are always measured:
// they reach a VM in its boot configuration and in no other way.
type Verity struct {
	RootHash      Digest   `json:"verity_root_hash"`
	Salt          HexBytes `json:"verity_salt"`    // 0 to MaxSalt bytes
	DataBlocks    uint64   `json:"data_blocks"`    // blocks of the root filesystem
	HashOffset    uint64   `json:"hash_offset"`    // bytes, payload start to dm-verity superblock
	PayloadOffset uint64   `json:"payload_offset"` // bytes, disk start to LUKS2 segment
	PayloadSize   uint64   `json:"payload_size"`   // bytes: root filesystem, superblock and tree
}

// Check reports whether the values can belong together.
func (v Verity) Check() error {
	switch {
	case v.RootHash == Digest{}:
		return fmt.Errorf("verity_root_hash is all zero")
	case len(v.Salt) > MaxSalt:
		return fmt.Errorf("verity_salt has %d bytes, want at most %d", len(v.Salt), MaxSalt)
	case v.DataBlocks == 0 || v.DataBlocks > 1<<50/BlockSize:
		return fmt.Errorf("data_blocks is %d, want 1 to %d", v.DataBlocks, uint64(1<<50/BlockSize))
	case v.HashOffset != v.DataBlocks*BlockSize:
		return fmt.Errorf("hash_offset is %d, want %d: the tree follows the data", v.HashOffset, v.DataBlocks*BlockSize)
	case v.PayloadOffset == 0 || v.PayloadOffset%BlockSize != 0 || v.PayloadOffset > MaxPayloadOffset:
		return fmt.Errorf("payload_offset is %d, want a multiple of %d up to %d", v.PayloadOffset, BlockSize, MaxPayloadOffset)
	case v.PayloadSize%BlockSize != 0 || v.PayloadSize <= v.HashOffset || v.PayloadSize > 1<<51:
		return fmt.Errorf("payload_size is %d, want a multiple of %d above hash_offset %d", v.PayloadSize, BlockSize, v.HashOffset)
	}
	return nil
}

// Header pins the LUKS2 header of a root disk. It may change when the disk is
// rekeyed, so it may come with the key instead of the boot configuration.
type Header struct {
	DiskUUID     UUID   `json:"disk_uuid"`
	HeaderSHA256 Digest `json:"luks2_header_sha256"` // over the disk from byte 0 to the payload offset
}

// Check reports whether both values are set.
func (h Header) Check() error {
	switch {
	case h.DiskUUID == UUID{}:
		return fmt.Errorf("disk_uuid is all zero")
	case h.HeaderSHA256 == Digest{}:
		return fmt.Errorf("luks2_header_sha256 is all zero")
	}
	return nil
}

// Filesystem is the kernel's name of a root filesystem that PID 1 can mount.
type Filesystem string

// The root filesystems of a disk image.
const (
	EROFS    Filesystem = "erofs"
	Ext4     Filesystem = "ext4"
	SquashFS Filesystem = "squashfs"
)

// UnmarshalText accepts the names above and nothing else.
func (f *Filesystem) UnmarshalText(text []byte) error {
	switch name := Filesystem(text); name {
	case EROFS, Ext4, SquashFS:
		*f = name
		return nil
	}
	return fmt.Errorf("filesystem is %q, want erofs, ext4 or squashfs", text)
}

// Init says what the builder of a disk saw of the program that PID 1 hands over to.
type Init string

// What there is to see.
const (
	InitOK     Init = "ok"     // a VM's kernel can execute /sbin/init
	InitBad    Init = "bad"    // it cannot, or there is none: no VM boots from the disk
	InitUnseen Init = "unseen" // the filesystem was not looked into
)

// UnmarshalText accepts the names above and nothing else.
func (i *Init) UnmarshalText(text []byte) error {
	switch name := Init(text); name {
	case InitOK, InitBad, InitUnseen:
		*i = name
		return nil
	}
	return fmt.Errorf("init is %q, want ok, bad or unseen", text)
}

// CheckBoots refuses a disk that no VM can boot from. Who starts one asks it first,
// as later a key would have been released for nothing.
func (i Init) CheckBoots() error {
	if err := new(Init).UnmarshalText([]byte(i)); err != nil {
		return err
	}
	if i == InitBad {
		return fmt.Errorf("init is %q: the root has no /sbin/init that a VM can execute, want another root", i)
	}
	return nil
}

// Pins is everything that image building tells about one disk: pins.json.
type Pins struct {
	Version int `json:"version"`
	Verity
	Header
	Filesystem Filesystem `json:"filesystem"`
	Init       Init       `json:"init"`
}

// New joins the pins of one disk.
func New(v Verity, h Header, fs Filesystem, init Init) Pins {
	return Pins{Version: version, Verity: v, Header: h, Filesystem: fs, Init: init}
}

// Check reports whether p is complete and its values can belong together.
func (p Pins) Check() error {
	if p.Version != version {
		return fmt.Errorf("version is %d, want %d", p.Version, version)
	}
	if err := p.Verity.Check(); err != nil {
		return err
	}
	if err := p.Header.Check(); err != nil {
		return err
	}
	if err := new(Filesystem).UnmarshalText([]byte(p.Filesystem)); err != nil {
		return err
	}
	return new(Init).UnmarshalText([]byte(p.Init))
}

// Decode reads and checks pins.json.
func Decode(data []byte) (Pins, error) {
	var p Pins
	if err := strictjson.Unmarshal(data, &p); err != nil {
		return Pins{}, fmt.Errorf("decoding pins: %w", err)
	}
	if err := p.Check(); err != nil {
		return Pins{}, fmt.Errorf("checking pins: %w", err)
	}
	return p, nil
}

// Encode writes pins.json, indented, with a newline at its end.
func (p Pins) Encode() []byte {
	data, err := strictjson.MarshalIndent(p)
	if err != nil {
		panic("pins: internal error: " + err.Error())
	}
	return data
}
