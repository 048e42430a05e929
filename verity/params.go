// Package verity computes dm-verity hash trees.
//
// The format is that of the Linux kernel's dm-verity target
// (Documentation/admin-guide/device-mapper/verity.rst) with the superblock of
// veritysetup 2.x. After the superblock come the levels of the tree from the root
// down. Zero bytes pad each level to whole hash blocks.
//
// A Hasher accepts all parameters that veritysetup supports for SHA-256 and SHA-1. The
// package reads and writes only superblocks of one set of parameters (see Profile).
package verity

import (
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"hash"
	"math/bits"

	"github.com/rootvouch/rootvouch/pins"
)

// BlockSize is the size in bytes of data blocks and hash blocks in our profile.
const BlockSize = pins.BlockSize

// Algorithm is the kernel's name of a hash function.
type Algorithm string

// The algorithms of the published vectors; the profile has SHA256 only.
const (
	SHA256 Algorithm = "sha256"
	SHA1   Algorithm = "sha1"
)

// Params is everything that a root hash depends on besides the data.
type Params struct {
	Algorithm     Algorithm
	HashType      uint32 // 1: salt before the data, digests in slots of a power of two; 0: Chrome OS
	DataBlockSize int    // bytes, a power of two from 512
	HashBlockSize int    // bytes, a power of two from 512
	DataBlocks    uint64 // at least 1
	Salt          []byte // 0 to 256 bytes
}

// Profile is the one format of rootvouch disks: hash type 1, SHA-256, blocks of
// 4096 bytes.
func Profile(dataBlocks uint64, salt []byte) Params {
	return Params{
		Algorithm: SHA256, HashType: 1,
		DataBlockSize: BlockSize, HashBlockSize: BlockSize,
		DataBlocks: dataBlocks, Salt: salt,
	}
}

// maxDataBlocks keeps every offset in bytes far below 2^63.
const maxDataBlocks = 1 << 40

// Check reports whether a tree can be made with these parameters.
func (p Params) Check() error {
	if p.Algorithm != SHA256 && p.Algorithm != SHA1 {
		return fmt.Errorf("hash algorithm is %q, want sha256 or sha1", p.Algorithm)
	}
	if p.HashType > 1 {
		return fmt.Errorf("hash_type is %d, want 0 or 1", p.HashType)
	}
	for _, b := range []struct {
		name string
		size int
	}{{"data_block_size", p.DataBlockSize}, {"hash_block_size", p.HashBlockSize}} {
		if b.size < 512 || b.size > 1<<19 || bits.OnesCount(uint(b.size)) != 1 {
			return fmt.Errorf("%s is %d, want a power of two from 512 to 524288", b.name, b.size)
		}
	}
	if p.DataBlocks == 0 || p.DataBlocks > maxDataBlocks {
		return fmt.Errorf("data_blocks is %d, want 1 to %d", p.DataBlocks, uint64(maxDataBlocks))
	}
	if len(p.Salt) > pins.MaxSalt {
		return fmt.Errorf("salt has %d bytes, want at most %d", len(p.Salt), pins.MaxSalt)
	}
	return nil
}

func (p Params) newHash() hash.Hash {
	if p.Algorithm == SHA1 {
		return sha1.New()
	}
	return sha256.New()
}

// slot returns the bytes between two digests of a hash block. Hash type 1
// rounds it up to a power of two; type 0 packs them.
func (p Params) slot() int {
	size := p.newHash().Size()
	if p.HashType == 0 {
		return size
	}
	return 1 << bits.Len(uint(size-1))
}

// fanOut returns how many digests a hash block holds: a power of two.
func (p Params) fanOut() uint64 {
	return 1 << (bits.Len(uint(p.HashBlockSize/p.slot())) - 1)
}

// Level is one level of a tree.
type Level struct {
	Offset uint64 // bytes from the start of the tree
	Blocks uint64 // hash blocks
}

// Geometry says where a tree's levels lie. Level 0 holds the digests of data
// blocks; the last level is one block, whose digest is the root hash. A single
// data block has no levels: its own digest is the root hash.
type Geometry struct {
	Levels []Level
	Size   uint64 // bytes of the tree, without the superblock
}

// Geometry computes the levels of the tree; p must pass Check.
func (p Params) Geometry() Geometry {
	var g Geometry
	for blocks := p.DataBlocks; blocks > 1; {
		blocks = (blocks + p.fanOut() - 1) / p.fanOut()
		g.Levels = append(g.Levels, Level{Blocks: blocks})
	}
	for i := len(g.Levels) - 1; i >= 0; i-- {
		g.Levels[i].Offset = g.Size
		g.Size += g.Levels[i].Blocks * uint64(p.HashBlockSize)
	}
	return g
}

// LeafSpan returns the bytes of data that one hash block of level 0 covers.
func (p Params) LeafSpan() int { return int(p.fanOut()) * p.DataBlockSize }
