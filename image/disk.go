package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/rootvouch/rootvouch/internal/filekind"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/verity"
	"github.com/rootvouch/rootvouch/xts"
)

// ErrMismatch says that a disk is not the disk of its pins. Errors of Check, Verify
// and Extract match it if the disk is at fault. Errors in reading the disk do not
// match it.
var ErrMismatch = errors.New("the disk does not match its pins")

// Disk is a disk whose header was read once and checked. The header is never read
// again.
type Disk struct {
	Header    pins.Header
	Container *luks2.Container
	Size      int64 // bytes

	disk io.ReaderAt
}

// OpenDisk reads the header region of a disk of size bytes. It refuses the headers
// that PID 1 refuses, by the same code. Pass a file that may be a qcow2 through
// Contents first.
func OpenDisk(disk io.ReaderAt, size int64) (*Disk, error) {
	header := make([]byte, luks2.HeaderSize)
	if n, err := disk.ReadAt(header, 0); n < len(header) {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the disk has %d bytes, want more than %d", n, len(header))
		}
		return nil, fmt.Errorf("reading LUKS2 header: %w", err)
	}
	if isQCOW2(header) {
		return nil, errors.New("it is a qcow2, want a raw disk (qemu-img convert -f qcow2 -O raw)")
	}
	container, err := luks2.Parse(header)
	if err != nil {
		return nil, err
	}
	return &Disk{
		Header:    pins.Header{DiskUUID: container.UUID, HeaderSHA256: sha256.Sum256(header)},
		Container: container, Size: size, disk: disk,
	}, nil
}

// Check compares the parts that are visible without the key with the pins.
func (d *Disk) Check(p pins.Pins) error {
	if err := p.Check(); err != nil {
		return fmt.Errorf("checking pins: %w", err)
	}
	params := verity.Profile(p.DataBlocks, p.Salt)
	size := treeOffset(params) + params.Geometry().Size
	switch {
	case p.DiskUUID != d.Header.DiskUUID:
		return fmt.Errorf("%w: disk UUID is %s, want %s", ErrMismatch, d.Header.DiskUUID, p.DiskUUID)
	case p.HeaderSHA256 != d.Header.HeaderSHA256:
		return fmt.Errorf("%w: LUKS2 header has SHA-256 %s, want %s", ErrMismatch, d.Header.HeaderSHA256, p.HeaderSHA256)
	case p.PayloadOffset != d.Container.PayloadOffset:
		return fmt.Errorf("%w: payload starts at byte %d, want %d", ErrMismatch, d.Container.PayloadOffset, p.PayloadOffset)
	case p.PayloadSize != size:
		return fmt.Errorf("%w: payload_size is %d, want %d for %d data blocks", ErrMismatch, p.PayloadSize, size, p.DataBlocks)
	case uint64(d.Size) < p.PayloadOffset+p.PayloadSize:
		return fmt.Errorf("%w: the disk has %d bytes, want at least %d", ErrMismatch, d.Size, p.PayloadOffset+p.PayloadSize)
	}
	return nil
}

// Verify checks every block of the disk against the pins: header, superblock, data, hash tree
// and root hash, with all cores. If extract is not nil, Verify writes the decrypted filesystem
// to it. The filesystem is good only if Verify returns no error.
func (d *Disk) Verify(ctx context.Context, key []byte, p pins.Pins, extract io.WriterAt, options Options) error {
	if err := d.Check(p); err != nil {
		return err
	}
	if options.Workers <= 0 {
		options.Workers = runtime.GOMAXPROCS(0) + Waiting
	}
	volumeKey, err := d.Container.VolumeKey(key)
	if err != nil {
		return err
	}
	defer clear(volumeKey)
	cipher, err := xts.NewCipher(volumeKey)
	if err != nil {
		return err
	}
	defer cipher.Wipe()
	c := checker{
		payload: io.NewSectionReader(d.disk, int64(p.PayloadOffset), int64(p.PayloadSize)),
		params:  verity.Profile(p.DataBlocks, p.Salt), cipher: cipher, extract: extract,
	}
	if err := c.superblock(p); err != nil {
		return err
	}
	if options.Progress != nil {
		c.progress = func(done uint64) { options.Progress(done, p.HashOffset) }
	}
	root, err := c.run(ctx, options.Workers)
	if err != nil {
		return err
	}
	if pins.Digest(root) != p.RootHash {
		return fmt.Errorf("%w: verity root hash is %x, want %s", ErrMismatch, root, p.RootHash)
	}
	return nil
}

// Filesystem returns the kind of the decrypted filesystem and the superblock of the hash tree.
// It verifies neither.
func (d *Disk) Filesystem(key []byte, p pins.Pins) (pins.Filesystem, verity.Superblock, error) {
	volumeKey, err := d.Container.VolumeKey(key)
	if err != nil {
		return "", verity.Superblock{}, err
	}
	defer clear(volumeKey)
	cipher, err := xts.NewCipher(volumeKey)
	if err != nil {
		return "", verity.Superblock{}, err
	}
	defer cipher.Wipe()
	c := checker{payload: io.NewSectionReader(d.disk, int64(p.PayloadOffset), int64(p.PayloadSize)), cipher: cipher}
	head := make([]byte, verity.BlockSize)
	if err := c.read(head, 0); err != nil {
		return "", verity.Superblock{}, err
	}
	filesystem := map[filekind.Kind]pins.Filesystem{filekind.EROFS: pins.EROFS, filekind.Squashfs: pins.SquashFS, filekind.Ext: pins.Ext4}[filekind.Of(head)]
	if err := c.read(head, p.HashOffset); err != nil {
		return "", verity.Superblock{}, err
	}
	superblock, err := verity.ParseSuperblock(head[:verity.SuperblockSize])
	return filesystem, superblock, err
}

// superblock compares the superblock on the disk with the pins.
func (c *checker) superblock(p pins.Pins) error {
	block := make([]byte, verity.BlockSize)
	if err := c.read(block, p.HashOffset); err != nil {
		return err
	}
	sb, err := verity.ParseSuperblock(block[:verity.SuperblockSize])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	if sb.DataBlocks != p.DataBlocks || !bytes.Equal(sb.Salt, p.Salt) {
		return fmt.Errorf("%w: dm-verity superblock has %d data blocks and salt %x, want %d and %s", ErrMismatch, sb.DataBlocks, sb.Salt, p.DataBlocks, p.Salt)
	}
	if !bytes.Equal(block[verity.SuperblockSize:], make([]byte, verity.BlockSize-verity.SuperblockSize)) {
		return fmt.Errorf("%w: the block of the dm-verity superblock is not filled up with zeros", ErrMismatch)
	}
	return nil
}
