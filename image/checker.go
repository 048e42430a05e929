package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/rootvouch/rootvouch/verity"
	"github.com/rootvouch/rootvouch/xts"
)

// checker decrypts a payload, recomputes its hash tree and compares the tree with the stored
// one.
type checker struct {
	payload  io.ReaderAt
	params   verity.Params
	cipher   *xts.Cipher
	extract  io.WriterAt       // receives the filesystem; may be nil
	progress func(done uint64) // may be nil; called by several goroutines

	next atomic.Uint64 // the next free chunk
	done atomic.Uint64 // bytes of data
}

// read reads and decrypts whole blocks.
func (c *checker) read(b []byte, offset uint64) error {
	if n, err := c.payload.ReadAt(b, int64(offset)); n < len(b) {
		return fmt.Errorf("reading payload at byte %d: %w", offset, err)
	}
	c.cipher.Decrypt(b, b, offset/xts.SectorUnit, verity.BlockSize)
	return nil
}

// run returns the root hash of the data if all stored hash blocks are right.
func (c *checker) run(ctx context.Context, workers int) ([]byte, error) {
	tree, err := verity.NewTree(c.params)
	if err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error { return c.work(ctx, tree) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	stored := make([]byte, verity.BlockSize)
	return tree.Finish(func(offset uint64, block []byte) error {
		if err := c.read(stored, treeOffset(c.params)+offset); err != nil {
			return err
		}
		if !bytes.Equal(stored, block) {
			return fmt.Errorf("%w: hash block at byte %d of the payload is wrong", ErrMismatch, treeOffset(c.params)+offset)
		}
		return nil
	})
}

// work checks chunks until none is left.
func (c *checker) work(ctx context.Context, tree *verity.Tree) error {
	hasher, err := verity.NewHasher(c.params)
	if err != nil {
		return err
	}
	size := c.params.DataBlocks * verity.BlockSize
	data, leaf, stored := make([]byte, chunkSize), make([]byte, verity.BlockSize), make([]byte, verity.BlockSize)
	for {
		index := c.next.Add(1) - 1
		if index*chunkSize >= size {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		data = data[:min(chunkSize, size-index*chunkSize)]
		if err := c.read(data, index*chunkSize); err != nil {
			return err
		}
		if c.extract != nil {
			if _, err := c.extract.WriteAt(data, int64(index*chunkSize)); err != nil {
				return fmt.Errorf("writing the filesystem: %w", err)
			}
		}
		if c.params.DataBlocks == 1 {
			tree.Set(0, hasher.Digest(nil, data))
		} else {
			hasher.Leaf(leaf, data)
			if err := c.compare(leaf, stored, index); err != nil {
				return err
			}
			tree.Set(index, hasher.Digest(nil, leaf))
		}
		if done := c.done.Add(uint64(len(data))); c.progress != nil {
			c.progress(done)
		}
	}
}

// compare reads the stored hash block of a chunk and names the first data block with a
// different digest.
func (c *checker) compare(leaf, stored []byte, index uint64) error {
	at := treeOffset(c.params) + c.params.Geometry().Levels[0].Offset + index*verity.BlockSize
	if err := c.read(stored, at); err != nil {
		return err
	}
	if bytes.Equal(leaf, stored) {
		return nil
	}
	slot := len(leaf) * verity.BlockSize / chunkSize // bytes between digests
	for i := 0; i < len(leaf); i += slot {
		if !bytes.Equal(leaf[i:i+slot], stored[i:i+slot]) {
			block := index*chunkSize/verity.BlockSize + uint64(i/slot)
			return fmt.Errorf("%w: data block %d (byte %d of the payload) or its digest (byte %d) is wrong", ErrMismatch, block, block*verity.BlockSize, at+uint64(i))
		}
	}
	panic("image: internal error: equal blocks that differ")
}
