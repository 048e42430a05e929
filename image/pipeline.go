package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/verity"
	"github.com/rootvouch/rootvouch/xts"
)

// chunkSize is the unit of work in bytes. It is the data that one hash block of level 0 covers,
// so that a chunk and its hash block are finished together.
const chunkSize = 128 * verity.BlockSize

// chunk is a piece of the filesystem on its way to the disk. Its buffer belongs
// to the goroutine that holds the chunk.
type chunk struct {
	index uint64
	data  []byte // whole blocks; chunkSize bytes, except for the last chunk
}

// sealer hashes, encrypts and writes chunks, on all cores, in one pass over the data: nothing
// is read back.
type sealer struct {
	out     io.WriterAt                               // the disk
	bulk    func(b []byte, offset int64) (int, error) // writes chunks to it
	params  verity.Params
	cipher  *xts.Cipher
	tree    *verity.Tree
	leaves  uint64 // bytes from the payload's start to level 0
	workers int

	progress func(done uint64) // may be nil; called by several goroutines
	done     atomic.Uint64     // bytes of data

	buffers buffers // the maker of the sealer closes them after run has returned

	mu   sync.Mutex          // guards the fields below
	runs map[uint64]*leafRun // :: number of a run -> its progress
}

func newSealer(out io.WriterAt, params verity.Params, cipher *xts.Cipher, workers int, progress func(uint64)) (*sealer, error) {
	tree, err := verity.NewTree(params)
	if err != nil {
		return nil, err
	}
	if params.LeafSpan() != chunkSize {
		panic("image: internal error: chunks are not the leaves' spans")
	}
	s := &sealer{out: out, bulk: bulk(out), params: params, cipher: cipher, tree: tree, workers: workers, progress: progress, runs: map[uint64]*leafRun{}}
	s.leaves = treeOffset(params)
	if levels := params.Geometry().Levels; len(levels) > 0 {
		s.leaves += levels[0].Offset
	}
	return s, nil
}

// bulk returns the best way to write chunks to out.
func bulk(out io.WriterAt) func(b []byte, offset int64) (int, error) {
	if direct, ok := out.(interface {
		WriteBulkAt(b []byte, offset int64) (int, error)
	}); ok {
		return direct.WriteBulkAt
	}
	return out.WriteAt
}

// treeOffset returns the bytes from the payload's start to the hash tree: the
// data, then a block for the superblock.
func treeOffset(p verity.Params) uint64 { return (p.DataBlocks + 1) * verity.BlockSize }

// feed returns the next chunk, and io.EOF after the last. Several goroutines call it.
type feed func(ctx context.Context) (chunk, error)

// run seals every chunk of next. If produce is not nil, it runs beside the workers, and must
// stop when ctx ends.
func (s *sealer) run(ctx context.Context, next feed, produce func(ctx context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	if produce != nil {
		group.Go(func() error { return produce(ctx) })
	}
	for range s.workers {
		group.Go(func() error {
			hasher, err := verity.NewHasher(s.params)
			if err != nil {
				return err
			}
			for {
				c, err := next(ctx)
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if err := s.seal(hasher, c); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// seal hashes a chunk, encrypts it in place and writes it with its hash block.
func (s *sealer) seal(hasher *verity.Hasher, c chunk) error {
	size := len(c.data)
	if s.params.DataBlocks == 1 {
		s.tree.Set(0, hasher.Digest(nil, c.data))
	} else {
		run, leaf := s.leafRun(c.index)
		hasher.Leaf(leaf, c.data)
		s.tree.Set(c.index, hasher.Digest(nil, leaf))
		if err := s.leafDone(run, c.index/runLeaves); err != nil {
			return err
		}
	}
	if err := s.write(s.bulk, c.data, c.index*chunkSize); err != nil {
		return err
	}
	s.buffers.put(c.data)
	done := s.done.Add(uint64(size))
	if s.progress != nil {
		s.progress(done)
	}
	return nil
}

// runLeaves is how many hash blocks of level 0 are written at once. A single block would wait
// for all writes of chunks.
const runLeaves = chunkSize / verity.BlockSize

// leafRun is a run of hash blocks. Chunks come nearly in order, so two or three runs are open
// at a time.
type leafRun struct {
	blocks  []byte
	missing int
}

// leafRun returns the run of a chunk's hash block, and the block's place in it.
func (s *sealer) leafRun(index uint64) (*leafRun, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	number := index / runLeaves
	run := s.runs[number]
	if run == nil {
		all := (s.params.DataBlocks*verity.BlockSize + chunkSize - 1) / chunkSize
		count := int(min(runLeaves, all-number*runLeaves))
		run = &leafRun{s.buffers.get()[:count*verity.BlockSize], count}
		s.runs[number] = run
	}
	return run, run.blocks[index%runLeaves*verity.BlockSize:][:verity.BlockSize]
}

// leafDone writes the run when it is complete.
func (s *sealer) leafDone(run *leafRun, number uint64) error {
	s.mu.Lock()
	run.missing--
	complete := run.missing == 0
	if complete {
		delete(s.runs, number)
	}
	s.mu.Unlock()
	if !complete {
		return nil
	}
	if err := s.write(s.bulk, run.blocks, s.leaves+number*chunkSize); err != nil {
		return err
	}
	s.buffers.put(run.blocks)
	return nil
}

// write encrypts whole blocks in place and writes them at an offset in the
// payload.
func (s *sealer) write(to func([]byte, int64) (int, error), b []byte, offset uint64) error {
	s.cipher.Encrypt(b, b, offset/xts.SectorUnit, verity.BlockSize)
	if _, err := to(b, luks2.HeaderSize+int64(offset)); err != nil {
		return fmt.Errorf("writing payload at byte %d: %w", offset, err)
	}
	return nil
}

// finish writes the upper levels and the superblock, and returns the root hash.
func (s *sealer) finish(superblock verity.Superblock) ([]byte, error) {
	sb, err := superblock.Marshal()
	if err != nil {
		return nil, err
	}
	block := make([]byte, verity.BlockSize)
	copy(block, sb)
	if err := s.write(s.out.WriteAt, block, s.params.DataBlocks*verity.BlockSize); err != nil {
		return nil, err
	}
	return s.tree.Finish(func(offset uint64, b []byte) error {
		// b is already hashed, so it may be encrypted in place.
		return s.write(s.out.WriteAt, b, treeOffset(s.params)+offset)
	})
}

// readChunks feeds from a file of size bytes, and pads the last block with zeros. The goroutine
// that asks for a chunk reads it. So the chunk is hashed and encrypted while it is in that
// processor's cache.
func (s *sealer) readChunks(r io.ReaderAt, size int64) feed {
	var next atomic.Int64
	return func(ctx context.Context) (chunk, error) {
		index := next.Add(1) - 1
		at := index * chunkSize
		if at >= size {
			return chunk{}, io.EOF
		}
		if err := ctx.Err(); err != nil {
			return chunk{}, err
		}
		b := s.buffers.get()
		n := int(min(chunkSize, size-at))
		if got, err := r.ReadAt(b[:n], at); got < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return chunk{}, fmt.Errorf("reading filesystem at byte %d: %w", at+int64(got), err)
		}
		whole := (n + verity.BlockSize - 1) / verity.BlockSize * verity.BlockSize
		clear(b[n:whole])
		return chunk{uint64(index), b[:whole]}, nil
	}
}

// receive feeds from a channel that its producer closes.
func receive(chunks <-chan chunk) feed {
	return func(ctx context.Context) (chunk, error) {
		select {
		case c, ok := <-chunks:
			if !ok {
				return chunk{}, io.EOF
			}
			return c, nil
		case <-ctx.Done():
			return chunk{}, ctx.Err()
		}
	}
}

func send(ctx context.Context, chunks chan<- chunk, c chunk) error {
	select {
	case chunks <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// chunker is an io.Writer that cuts its input into chunks.
type chunker struct {
	ctx    context.Context
	chunks chan<- chunk
	sealer *sealer

	index   uint64 // of current
	current []byte // its bytes so far
}

func (c *chunker) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		n := copy(c.room(), b)
		b, written = b[n:], written+n
		if err := c.take(n); err != nil {
			return written, err
		}
	}
	return written, nil
}

// ReadFrom reads directly into chunks, without another buffer.
func (c *chunker) ReadFrom(r io.Reader) (int64, error) {
	read := int64(0)
	for {
		n, err := r.Read(c.room())
		read += int64(n)
		if sendErr := c.take(n); sendErr != nil {
			return read, sendErr
		}
		if errors.Is(err, io.EOF) {
			return read, nil
		}
		if err != nil {
			return read, err
		}
	}
}

// room is the free rest of the current chunk.
func (c *chunker) room() []byte {
	if c.current == nil {
		c.current = c.sealer.buffers.get()[:0]
	}
	return c.current[len(c.current):chunkSize]
}

// take adds n bytes that were read into room, and passes on a full chunk.
func (c *chunker) take(n int) error {
	c.current = c.current[:len(c.current)+n]
	if len(c.current) < chunkSize {
		return nil
	}
	return c.send()
}

func (c *chunker) send() error {
	whole := chunk{c.index, c.current}
	c.index, c.current = c.index+1, nil
	return send(c.ctx, c.chunks, whole)
}

// flush sends the last chunk.
func (c *chunker) flush() error {
	if len(c.current)%verity.BlockSize != 0 {
		return fmt.Errorf("filesystem of %d bytes, want whole blocks of %d", c.index*chunkSize+uint64(len(c.current)), verity.BlockSize)
	}
	if len(c.current) == 0 {
		return nil
	}
	return c.send()
}
