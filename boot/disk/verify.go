package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/rootvouch/rootvouch/dm"
	"github.com/rootvouch/rootvouch/pins"
	"golang.org/x/sys/unix"
)

// readSize is the size of one read in bytes, large enough for dm-verity and
// dm-crypt to split it over all cores.
const readSize = 1 << 20

// ReadAll reads every block through dm-verity. Then it makes the kernel panic on
// every later read of a corrupt block. It returns a line that says how fast it
// read. Several readers call progress, with bytes.
func (c *Checked) ReadAll(ctx context.Context, progress func(done, size uint64)) (string, error) {
	kernelLog, err := openKernelLog()
	if err != nil {
		return "", err
	}
	defer kernelLog.Close()
	start := time.Now()
	readers := runtime.NumCPU()
	if err := readAll(ctx, c.Path(), c.pins.HashOffset, readers, progress); err != nil {
		return "", c.explain(err, kernelLog)
	}
	if status, err := c.device.Status(); err != nil || dm.VerityCorrupted(status) {
		return "", fmt.Errorf("checking dm-verity after reading every block: status is %q (%v), want V", status, err)
	}
	rate := float64(c.pins.HashOffset) / (1 << 20) / max(time.Since(start).Seconds(), 1e-3)
	if err := c.device.Replace(verityTable(c.crypt, c.pins, dm.Panic).Target()); err != nil {
		return "", err
	}
	return fmt.Sprintf("every block matches, %d blocks, %.0f MiB/s with %d readers; corruption panics from now on",
		c.pins.DataBlocks, rate, readers), nil
}

// explain adds to a read error whether dm-verity or the disk failed, and which
// block the kernel named.
func (c *Checked) explain(err error, kernelLog *os.File) error {
	status, statusErr := c.device.Status()
	if statusErr != nil || !dm.VerityCorrupted(status) {
		return err
	}
	if block := corruptBlock(kernelLog); block != "" {
		return fmt.Errorf("%w: %s is corrupt: it does not match the root hash", err, block)
	}
	return fmt.Errorf("%w: a block is corrupt: it does not match the root hash", err)
}

// readAll reads size bytes of the device at path, with several readers that bypass
// the page cache. size is a multiple of the block size.
func readAll(ctx context.Context, path string, size uint64, readers int, progress func(done, size uint64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Uint64 // bytes: start of the next read; read so far
	ended := make(chan struct{})
	for range readers {
		go func() {
			defer func() {
				if r := recover(); r != nil { // its step reports it
					cancel(fmt.Errorf("panic: %v", r))
				}
				ended <- struct{}{}
			}()
			if err := readSome(ctx, path, size, &next, func(n int) { progress(done.Add(uint64(n)), size) }); err != nil {
				cancel(err)
			}
		}()
	}
	for range readers {
		<-ended
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if got := done.Load(); got != size {
		return fmt.Errorf("reading every block: got %d bytes, want %d", got, size)
	}
	return nil
}

// readSome reads the pieces that no other reader took.
func readSome(ctx context.Context, path string, size uint64, next *atomic.Uint64, progress func(n int)) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("reading every block: %w", err)
	}
	defer unix.Close(fd)
	buf, err := unix.Mmap(-1, 0, readSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil { // O_DIRECT wants a page-aligned buffer
		return fmt.Errorf("reading every block: making a buffer: %w", err)
	}
	defer unix.Munmap(buf)
	for ctx.Err() == nil {
		offset := next.Add(readSize) - readSize
		if offset >= size {
			return nil
		}
		piece := buf[:min(readSize, size-offset)]
		if err := readPiece(fd, piece, offset); err != nil {
			return err
		}
		progress(len(piece))
	}
	return nil // the context has the reason
}

// readPiece reads a piece at once. If that fails, readPiece reads block by block, and
// names the first block that cannot be read.
func readPiece(fd int, piece []byte, offset uint64) error {
	whole := pread(fd, piece, offset)
	if whole == nil {
		return nil
	}
	for at := 0; at < len(piece); at += pins.BlockSize {
		if err := pread(fd, piece[at:][:pins.BlockSize], offset+uint64(at)); err != nil {
			return fmt.Errorf("reading data block %d: %w", (offset+uint64(at))/pins.BlockSize, err)
		}
	}
	return fmt.Errorf("reading data blocks from %d: %w", offset/pins.BlockSize, whole)
}

func pread(fd int, b []byte, offset uint64) error {
	for {
		n, err := unix.Pread(fd, b, int64(offset))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n != len(b):
			return fmt.Errorf("got %d bytes, want %d", n, len(b))
		}
		return nil
	}
}

// openKernelLog opens the kernel's log at its end.
func openKernelLog() (*os.File, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening kernel log: %w", err)
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("opening kernel log: %w", err)
	}
	return os.NewFile(uintptr(fd), "/dev/kmsg"), nil
}

// verityCorruption is what dm-verity logs (drivers/md/dm-verity-target.c,
// verity_handle_err): "metadata" are blocks of the tree, counted from the start
// of the device that holds it.
var verityCorruption = regexp.MustCompile(`device-mapper: verity: [0-9:]+: (data|metadata) block ([0-9]+) is corrupted`)

// corruptBlock returns the first block that dm-verity logged since the kernel
// log was opened, such as "data block 17", or "". Every read gives one record
// (Linux, Documentation/ABI/testing/dev-kmsg).
func corruptBlock(kernelLog *os.File) string {
	record := make([]byte, 8<<10)
	for range 1000 { // records
		n, err := unix.Read(int(kernelLog.Fd()), record)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EPIPE) { // EPIPE: the oldest ones are gone
			continue
		}
		if err != nil || n <= 0 {
			return ""
		}
		if found := verityCorruption.FindSubmatch(bytes.SplitN(record[:n], []byte{'\n'}, 2)[0]); found != nil {
			return fmt.Sprintf("%s block %s", found[1], found[2])
		}
	}
	return ""
}
