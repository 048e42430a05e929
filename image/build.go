// Package image builds and checks rootvouch disks: a root filesystem, its
// dm-verity tree, and a LUKS2 container around both.
//
// docs/spec/image.md describes the disk's bytes. A build needs no privileges and no loop or
// device-mapper device. It reads, hashes, encrypts and writes each block once, on all cores.
//
// A build keeps in memory a few chunks of 512 KiB, 64 KiB of digests for each GiB of the
// disk, and 170 bytes for each file of a tree. So 256 MiB are enough for a million files.
// If the input is a finished filesystem, the number of its files does not matter.
package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/verity"
	"github.com/rootvouch/rootvouch/xts"
)

// Secrets are the random parts of a disk. Wipe them after use.
type Secrets struct {
	Key        [luks2.PassphraseSize]byte // opens the keyslot; the KMS keeps it
	VolumeKey  [luks2.VolumeKeySize]byte
	DiskUUID   pins.UUID
	VerityUUID pins.UUID
	Salt       [32]byte  // of the hash tree; not secret
	Header     io.Reader // randomness of the LUKS2 header: salts and stripes
}

// NewSecrets draws secrets from rand, which must be a cryptographic source. The order is fixed,
// so the same stream gives the same disk.
func NewSecrets(rand io.Reader) (*Secrets, error) {
	s := &Secrets{Header: rand}
	for _, field := range [][]byte{s.Key[:], s.VolumeKey[:], s.Salt[:]} {
		if _, err := io.ReadFull(rand, field); err != nil {
			s.Wipe()
			return nil, fmt.Errorf("drawing secrets: %w", err)
		}
	}
	var err error
	if s.DiskUUID, err = pins.NewUUID(rand); err == nil {
		s.VerityUUID, err = pins.NewUUID(rand)
	}
	if err != nil {
		s.Wipe()
		return nil, fmt.Errorf("drawing secrets: %w", err)
	}
	return s, nil
}

// Wipe erases the keys.
func (s *Secrets) Wipe() {
	clear(s.Key[:])
	clear(s.VolumeKey[:])
}

// Options are choices that do not change the disk's bytes, except for Size.
type Options struct {
	// Format of BuildFiles' disk; "" means Raw.
	Format Format

	// Size of the disk in bytes; 0 means the smallest possible size. The bytes
	// after the payload read as zeros.
	Size uint64

	// Workers is the number of goroutines that read, hash, encrypt and write. 0 means
	// GOMAXPROCS plus Waiting. GOMAXPROCS should then be as large. Otherwise a worker that
	// waits for the disk keeps a core idle until Go's scheduler notices (20 µs and more; 15 to
	// 25 % of the throughput).
	Workers int

	// Progress, if not nil, is called from several goroutines with the number of bytes of the
	// filesystem that are done, and their total.
	Progress func(done, total uint64)
}

// Waiting is how many reads or writes a disk should have in its queue. A fast disk needs many:
// 4 GiB to a virtual disk took 1.88 s with 2, 1.75 with 4, 1.59 with 14, 1.53 with 24 and 1.54
// with 40 (medians of 8). Each takes 512 KiB of memory.
const Waiting = 24

// Output receives a disk. Several goroutines write whole blocks at any offset, each block once.
// Blocks that are never written must read as zeros.
type Output interface {
	io.WriterAt
	Truncate(size int64) error
}

// Build writes a disk with the filesystem of source to out and returns its pins. If Build
// fails, the caller must discard out.
func Build(ctx context.Context, out Output, source Source, secrets *Secrets, options Options) (pins.Pins, error) {
	if options.Workers <= 0 {
		options.Workers = runtime.GOMAXPROCS(0) + Waiting
	}
	size := source.Size()
	if size <= 0 {
		return pins.Pins{}, errors.New("the filesystem is empty")
	}
	blocks := (uint64(size) + verity.BlockSize - 1) / verity.BlockSize
	params := verity.Profile(blocks, secrets.Salt[:])
	if err := params.Check(); err != nil {
		return pins.Pins{}, err
	}
	payload := treeOffset(params) + params.Geometry().Size
	whole := luks2.HeaderSize + payload
	if options.Size == 0 {
		options.Size = whole
	}
	if options.Size < whole || options.Size%verity.BlockSize != 0 {
		return pins.Pins{}, fmt.Errorf("size of the disk is %d bytes, want a multiple of %d and at least %d", options.Size, verity.BlockSize, whole)
	}
	header, err := luks2.Build(luks2.Params{
		UUID: secrets.DiskUUID, SequenceID: 1,
		VolumeKey: secrets.VolumeKey[:], Passphrase: secrets.Key[:], Random: secrets.Header,
	})
	if err != nil {
		return pins.Pins{}, err
	}
	if err := out.Truncate(int64(options.Size)); err != nil {
		return pins.Pins{}, fmt.Errorf("sizing the disk: %w", err)
	}
	if err := reserve(out, int64(whole)); err != nil {
		return pins.Pins{}, err
	}
	if _, err := out.WriteAt(header, 0); err != nil {
		return pins.Pins{}, fmt.Errorf("writing the LUKS2 header: %w", err)
	}
	root, err := sealPayload(ctx, out, source, secrets, params, options)
	if err != nil {
		return pins.Pins{}, err
	}
	p := pins.New(pins.Verity{
		RootHash: root, Salt: secrets.Salt[:], DataBlocks: blocks, HashOffset: blocks * verity.BlockSize,
		PayloadOffset: luks2.HeaderSize, PayloadSize: payload,
	}, pins.Header{DiskUUID: secrets.DiskUUID, HeaderSHA256: sha256.Sum256(header)}, source.Filesystem(), source.init)
	if err := p.Check(); err != nil {
		return pins.Pins{}, fmt.Errorf("checking the pins just made: %w", err)
	}
	return p, nil
}

// reserve allocates space for the first size bytes, if out supports that.
func reserve(out Output, size int64) error {
	if r, ok := out.(interface{ Reserve(size int64) error }); ok {
		return r.Reserve(size)
	}
	return nil
}

// sealPayload writes everything after the header and returns the root hash.
func sealPayload(ctx context.Context, out io.WriterAt, source Source, secrets *Secrets, params verity.Params, options Options) (pins.Digest, error) {
	cipher, err := xts.NewCipher(secrets.VolumeKey[:])
	if err != nil {
		return pins.Digest{}, err
	}
	defer cipher.Wipe()
	total := params.DataBlocks * verity.BlockSize
	var progress func(uint64)
	if options.Progress != nil {
		progress = func(done uint64) { options.Progress(done, total) }
	}
	s, err := newSealer(out, params, cipher, options.Workers, progress)
	if err != nil {
		return pins.Digest{}, err
	}
	defer s.buffers.close()
	next, produce := source.feed(s)
	if err := s.run(ctx, next, produce); err != nil {
		return pins.Digest{}, err
	}
	if got := s.done.Load(); got != total {
		return pins.Digest{}, fmt.Errorf("got %d bytes of filesystem, want %d", got, total)
	}
	root, err := s.finish(verity.Superblock{UUID: secrets.VerityUUID, DataBlocks: params.DataBlocks, Salt: params.Salt})
	if err != nil {
		return pins.Digest{}, err
	}
	return pins.Digest(root), nil
}
