package volume

import (
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

// Format writes what a volume without any data has behind its header: superblock,
// journal, and a tag for every sector. The tags are those of ciphertext that is all
// zero, so the data itself need not be written: a device that reads as zeros there
// reads, decrypted, as noise, and one that does not gives an error until the sector is
// written. volumeKey is the LUKS2 container's.
//
// The superblock comes last, and one that is there goes first: a format that stopped
// half-way left none. Several goroutines call progress, with bytes of tags.
func Format(ctx context.Context, w io.WriterAt, l Layout, volumeKey []byte, progress func(done, size uint64)) error {
	if len(volumeKey) != luks2.AuthenticatedKeySize {
		return fmt.Errorf("formatting: volume key has %d bytes, want %d", len(volumeKey), luks2.AuthenticatedKeySize)
	}
	if _, err := w.WriteAt(make([]byte, SuperblockSize), Offset); err != nil {
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
	if _, err := w.WriteAt(l.Superblock(), Offset); err != nil {
		return fmt.Errorf("formatting: writing the superblock: %w", err)
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
