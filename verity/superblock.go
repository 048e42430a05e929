package verity

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/rootvouch/rootvouch/pins"
)

// SuperblockSize is the size in bytes of struct verity_sb (cryptsetup 2.x,
// lib/verity/verity.c); on disk it fills the first hash block with zeros.
const SuperblockSize = 512

// Superblock is the superblock of our profile: format version 1, hash type 1,
// SHA-256, blocks of 4096 bytes. It describes; it is not covered by the root
// hash, and PID 1 takes every parameter from its measured pins instead.
type Superblock struct {
	UUID       pins.UUID
	DataBlocks uint64
	Salt       []byte
}

// Offsets of struct verity_sb, in bytes.
const (
	atMagic         = 0x00 // "verity", two zero bytes
	atVersion       = 0x08 // u32: 1
	atHashType      = 0x0c // u32
	atUUID          = 0x10 // 16 bytes
	atAlgorithm     = 0x20 // 32 bytes, zero-padded
	atDataBlockSize = 0x40 // u32, bytes
	atHashBlockSize = 0x44 // u32, bytes
	atDataBlocks    = 0x48 // u64
	atSaltSize      = 0x50 // u16, bytes
	atPad1          = 0x52 // 6 bytes, zero
	atSalt          = 0x58 // 256 bytes, zero-padded
	atPad2          = 0x158
)

// Params returns the tree's parameters.
func (s Superblock) Params() Params { return Profile(s.DataBlocks, s.Salt) }

// Marshal writes the superblock's 512 bytes; an error is one of Params.Check.
func (s Superblock) Marshal() ([]byte, error) {
	if err := s.Params().Check(); err != nil {
		return nil, err
	}
	b := make([]byte, SuperblockSize)
	copy(b[atMagic:], "verity")
	binary.LittleEndian.PutUint32(b[atVersion:], 1)
	binary.LittleEndian.PutUint32(b[atHashType:], 1)
	copy(b[atUUID:], s.UUID[:])
	copy(b[atAlgorithm:], SHA256)
	binary.LittleEndian.PutUint32(b[atDataBlockSize:], BlockSize)
	binary.LittleEndian.PutUint32(b[atHashBlockSize:], BlockSize)
	binary.LittleEndian.PutUint64(b[atDataBlocks:], s.DataBlocks)
	binary.LittleEndian.PutUint16(b[atSaltSize:], uint16(len(s.Salt)))
	copy(b[atSalt:], s.Salt)
	return b, nil
}

// ParseSuperblock reads a superblock of our profile from exactly 512 bytes.
// Everything outside the profile is an error, as is every padding byte that is
// not zero: what parses marshals to the same bytes.
func ParseSuperblock(b []byte) (Superblock, error) {
	s, err := parseSuperblock(b)
	if err != nil {
		return Superblock{}, fmt.Errorf("parsing dm-verity superblock: %w", err)
	}
	return s, nil
}

func parseSuperblock(b []byte) (Superblock, error) {
	if len(b) != SuperblockSize {
		return Superblock{}, fmt.Errorf("got %d bytes, want %d", len(b), SuperblockSize)
	}
	if magic := b[atMagic:atVersion]; !bytes.Equal(magic, []byte("verity\x00\x00")) {
		return Superblock{}, fmt.Errorf("magic is %q, want %q", magic, "verity\x00\x00")
	}
	for _, f := range []struct {
		name   string
		offset int
		want   uint32
	}{
		{"version", atVersion, 1},
		{"hash_type", atHashType, 1},
		{"data_block_size", atDataBlockSize, BlockSize},
		{"hash_block_size", atHashBlockSize, BlockSize},
	} {
		if got := binary.LittleEndian.Uint32(b[f.offset:]); got != f.want {
			return Superblock{}, fmt.Errorf("%s is %d, want %d", f.name, got, f.want)
		}
	}
	algorithm := make([]byte, atDataBlockSize-atAlgorithm)
	copy(algorithm, SHA256)
	if got := b[atAlgorithm:atDataBlockSize]; !bytes.Equal(got, algorithm) {
		return Superblock{}, fmt.Errorf("algorithm is %q, want %q", bytes.TrimRight(got, "\x00"), SHA256)
	}
	size := int(binary.LittleEndian.Uint16(b[atSaltSize:]))
	if size > pins.MaxSalt {
		return Superblock{}, fmt.Errorf("salt_size is %d, want at most %d", size, pins.MaxSalt)
	}
	for _, f := range []struct {
		name       string
		start, end int
	}{
		{"padding after salt_size", atPad1, atSalt},
		{"padding after the salt", atSalt + size, atPad2},
		{"padding at the end", atPad2, SuperblockSize},
	} {
		if i := bytes.IndexFunc(b[f.start:f.end], func(r rune) bool { return r != 0 }); i >= 0 {
			return Superblock{}, fmt.Errorf("%s: byte %#x is not zero", f.name, f.start+i)
		}
	}
	s := Superblock{
		UUID:       pins.UUID(b[atUUID:atAlgorithm]),
		DataBlocks: binary.LittleEndian.Uint64(b[atDataBlocks:]),
		Salt:       bytes.Clone(b[atSalt : atSalt+size]),
	}
	return s, s.Params().Check()
}
