package volume

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/rootvouch/rootvouch/luks2"
)

// Disk is the device or file of a volume.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes durable what was written.
	Sync() error
}

// Format writes what a volume without any data has behind its header: superblock,
// journal, a tag for every sector, and zeros where the disk has other data. The tags are
// those of ciphertext that is all zero. Each sector can be read from then on, and what it
// reads, decrypted, is noise. A sparse file stays sparse: zeros are not written over
// zeros. volumeKey is the LUKS2 container's.
//
// The superblock comes last, when all else is durable, and one that is there goes first: a
// format that stopped half-way left none, even on a host that lost its power. The caller
// makes the superblock durable. Several goroutines call progress, with bytes of tags.
func Format(ctx context.Context, w Disk, l Layout, volumeKey []byte, progress func(done, size uint64)) error {
	if len(volumeKey) != luks2.AuthenticatedKeySize {
		return fmt.Errorf("formatting: volume key has %d bytes, want %d", len(volumeKey), luks2.AuthenticatedKeySize)
	}
	if _, err := w.WriteAt(make([]byte, SuperblockSize), Offset); err != nil {
		return fmt.Errorf("formatting: taking the superblock away: %w", err)
	}
	if err := w.Sync(); err != nil {
		return fmt.Errorf("formatting: taking the superblock away: %w", err)
	}
	section := make([]byte, sectionSize)
	for i := range l.sections {
		emptySection(section, i)
		if _, err := w.WriteAt(section, int64(Offset+SuperblockSize+i*sectionSize)); err != nil {
			return fmt.Errorf("formatting: writing the journal: %w", err)
		}
	}
	var done atomic.Uint64
	err := each(ctx, l.Runs(), func(run uint64, buf []byte) error {
		if err := zero(ctx, w, l.dataAt(run), l.dataIn(run), buf); err != nil {
			return fmt.Errorf("formatting: %w", err)
		}
		clear(buf)
		l.emptyTags(buf, run, volumeKey[luks2.VolumeKeySize:])
		if _, err := w.WriteAt(buf, int64(l.tagsAt(run))); err != nil {
			return fmt.Errorf("formatting: writing tags: %w", err)
		}
		progress(done.Add(RunSize), l.TagsSize())
		return nil
	})
	if err != nil {
		return err
	}
	if err := w.Sync(); err != nil {
		return fmt.Errorf("formatting: making it durable: %w", err)
	}
	if _, err := w.WriteAt(l.Superblock(), Offset); err != nil {
		return fmt.Errorf("formatting: writing the superblock: %w", err)
	}
	return nil
}

// zeros are what the data of a run is compared with, a piece at a time.
var zeros [RunSize]byte

// zero makes size bytes at an offset zero. buf is where it reads them.
func zero(ctx context.Context, w Disk, at, size uint64, buf []byte) error {
	for end := at + size; at < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(uint64(len(buf)), end-at)]
		if _, err := w.ReadAt(b, int64(at)); err != nil {
			return fmt.Errorf("reading what the disk had: %w", err)
		}
		if zeros := zeros[:len(b)]; !bytes.Equal(b, zeros) {
			if _, err := w.WriteAt(zeros, int64(at)); err != nil {
				return fmt.Errorf("writing zeros over what the disk had: %w", err)
			}
		}
		at += uint64(len(b))
	}
	return nil
}

// emptyTags writes a run of tags of ciphertext that is all zero. What dm-crypt
// authenticates is the sector's number, the IV and the ciphertext (Linux 6.12,
// drivers/md/dm-crypt.c, crypt_convert_block_aead); with plain64 the IV is the
// number again. It counts 512-byte sectors.
func (l Layout) emptyTags(buf []byte, run uint64, macKey []byte) {
	var data [8 + 16 + SectorSize]byte
	mac := hmac.New(sha256.New, macKey)
	for i := range l.tagsIn(run) {
		number := (run*areaSize + i*SectorSize) / legacySector
		binary.LittleEndian.PutUint64(data[:], number)
		binary.LittleEndian.PutUint64(data[8:], number)
		mac.Reset()
		mac.Write(data[:])
		mac.Sum(buf[:i*TagSize])
	}
}

// each calls do for every run, on all cores, with a buffer of RunSize, and returns the
// first error.
func each(ctx context.Context, runs uint64, do func(run uint64, buf []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Uint64
	var all sync.WaitGroup
	for range min(runs, uint64(runtime.GOMAXPROCS(0))) {
		all.Go(func() {
			defer func() {
				if r := recover(); r != nil { // for its caller to report: a goroutine's own panic ends the process
					cancel(fmt.Errorf("panic: %v", r))
				}
			}()
			buf := make([]byte, RunSize)
			for run := next.Add(1) - 1; run < runs && ctx.Err() == nil; run = next.Add(1) - 1 {
				if err := do(run, buf); err != nil {
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}
