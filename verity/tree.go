package verity

import (
	"errors"
	"fmt"
	"hash"
	"io"
)

// Hasher computes digests of blocks. It belongs to one goroutine.
type Hasher struct {
	p    Params
	hash hash.Hash
	size int
	slot int
	pair *pair // nil: one block at a time
}

// NewHasher returns a Hasher; an error is one of Params.Check.
func NewHasher(p Params) (*Hasher, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	h := p.newHash()
	return &Hasher{p: p, hash: h, size: h.Size(), slot: p.slot(), pair: newPair(p)}, nil
}

// Size returns the length of a digest in bytes.
func (h *Hasher) Size() int { return h.size }

// Digest appends the salted digest of one block to dst.
func (h *Hasher) Digest(dst, block []byte) []byte {
	h.hash.Reset()
	if h.p.HashType == 1 {
		h.hash.Write(h.p.Salt)
	}
	h.hash.Write(block)
	if h.p.HashType == 0 {
		h.hash.Write(h.p.Salt)
	}
	return h.hash.Sum(dst)
}

// Leaf fills leaf, one hash block, with the digests of the data blocks in data:
// at most LeafSpan bytes, whole blocks. The rest of leaf is zero.
func (h *Hasher) Leaf(leaf, data []byte) {
	if len(leaf) != h.p.HashBlockSize || len(data) > h.p.LeafSpan() || len(data)%h.p.DataBlockSize != 0 {
		panic(fmt.Sprintf("verity: internal error: leaf of %d bytes for %d bytes of data", len(leaf), len(data)))
	}
	clear(leaf)
	at := 0
	for n := h.p.DataBlockSize; h.pair != nil && len(data) >= 2*n; data = data[2*n:] {
		h.pair.sum(leaf[at:], leaf[at+h.slot:], data[:n], data[n:2*n])
		at += 2 * h.slot
	}
	for ; len(data) > 0; at += h.slot {
		h.Digest(leaf[at:at], data[:h.p.DataBlockSize])
		data = data[h.p.DataBlockSize:]
	}
}

// Tree collects the digests of level 0 and finishes the tree above them. The
// digests may come in any order and from several goroutines, each index once;
// 32 bytes are held for each LeafSpan of data (64 KiB for 1 GiB in our profile).
type Tree struct {
	p       Params
	digests []byte // of level 0's blocks in order; of the data block when there is only one
	size    int
}

// NewTree returns an empty tree; an error is one of Params.Check.
func NewTree(p Params) (*Tree, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	size := p.newHash().Size()
	leaves := uint64(1)
	if levels := p.Geometry().Levels; len(levels) > 0 {
		leaves = levels[0].Blocks
	}
	return &Tree{p: p, digests: make([]byte, leaves*uint64(size)), size: size}, nil
}

// Set records the digest of level 0's hash block number index (or, when the
// tree has no levels, of the only data block as index 0).
func (t *Tree) Set(index uint64, digest []byte) {
	if len(digest) != t.size {
		panic(fmt.Sprintf("verity: internal error: digest of %d bytes, want %d", len(digest), t.size))
	}
	copy(t.digests[index*uint64(t.size):][:t.size], digest)
}

// Finish builds the levels above level 0, hands each of their blocks to emit
// with its offset in bytes from the start of the tree, and returns the root
// hash. The block is only valid during the call.
func (t *Tree) Finish(emit func(offset uint64, block []byte) error) ([]byte, error) {
	hasher, err := NewHasher(t.p)
	if err != nil {
		return nil, err
	}
	block := make([]byte, t.p.HashBlockSize)
	below := t.digests
	levels := t.p.Geometry().Levels
	for i := 1; i < len(levels); i++ {
		above := make([]byte, 0, levels[i].Blocks*uint64(t.size))
		for n := range levels[i].Blocks {
			clear(block)
			for at := 0; at/hasher.slot < int(t.p.fanOut()) && len(below) > 0; at += hasher.slot {
				copy(block[at:], below[:t.size])
				below = below[t.size:]
			}
			above = hasher.Digest(above, block)
			if err := emit(levels[i].Offset+n*uint64(t.p.HashBlockSize), block); err != nil {
				return nil, err
			}
		}
		below = above
	}
	return below, nil
}

// Build reads exactly the data of p from data, writes the tree to tree (offset
// 0 is the tree's start; nil writes nothing) and returns the root hash. It is
// the plain, one-goroutine way; package image does the same on all cores.
func Build(p Params, data io.Reader, tree io.WriterAt) ([]byte, error) {
	hasher, err := NewHasher(p)
	if err != nil {
		return nil, err
	}
	t, err := NewTree(p)
	if err != nil {
		return nil, err
	}
	emit := func(offset uint64, block []byte) error {
		if tree == nil {
			return nil
		}
		_, err := tree.WriteAt(block, int64(offset))
		return err
	}
	span := make([]byte, p.LeafSpan())
	leaf := make([]byte, p.HashBlockSize)
	left := p.DataBlocks * uint64(p.DataBlockSize)
	levels := p.Geometry().Levels
	for index := uint64(0); left > 0; index++ {
		span = span[:min(uint64(cap(span)), left)]
		if _, err := io.ReadFull(data, span); err != nil {
			return nil, fmt.Errorf("reading data at byte %d: %w", index*uint64(cap(span)), noEOF(err))
		}
		left -= uint64(len(span))
		if len(levels) == 0 {
			t.Set(index, hasher.Digest(nil, span))
			continue
		}
		hasher.Leaf(leaf, span)
		t.Set(index, hasher.Digest(nil, leaf))
		if err := emit(levels[0].Offset+index*uint64(p.HashBlockSize), leaf); err != nil {
			return nil, fmt.Errorf("writing hash block %d of level 0: %w", index, err)
		}
	}
	return t.Finish(emit)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
