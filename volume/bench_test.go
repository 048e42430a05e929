package volume

import (
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/luks2"
)

// create makes a file of a volume's size, without anything in it.
func create(b *testing.B, size uint64) (*os.File, Layout) {
	b.Helper()
	l, err := LayoutOf(size)
	if err != nil {
		b.Fatal(err)
	}
	file, err := os.Create(filepath.Join(b.TempDir(), "volume"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { file.Close() })
	if err := file.Truncate(int64(l.Size)); err != nil {
		b.Fatal(err)
	}
	return file, l
}

// perGiB returns how many milliseconds of d there are for each GiB of data, if d is for so
// many bytes.
func perGiB(d time.Duration, bytes uint64) float64 {
	return d.Seconds() * 1000 / (float64(bytes) / (1 << 30))
}

// processors is the time that this process has had of all processors.
func processors(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkDigest is the cost of an opening, and of a close, but for the disk. Beside it, in
// turns, stands that of SHA-256 alone, over as many bytes that nobody reads. What a volume
// has once, 17 MiB of header and journal, counts as tags do.
func BenchmarkDigest(b *testing.B) {
	file, l := create(b, 16<<30)
	buf := make([]byte, RunSize)
	random := rand.NewChaCha8([32]byte{})
	for run := range l.Runs() {
		random.Read(buf)
		if _, err := file.WriteAt(buf, int64(l.tagsAt(run))); err != nil {
			b.Fatal(err)
		}
	}
	if err := file.Sync(); err != nil { // so that no write-back counts
		b.Fatal(err)
	}
	hashed := l.tagsAt(0) + l.TagsSize()
	b.SetBytes(int64(hashed))
	var digest, alone time.Duration
	for b.Loop() {
		start := processors(b)
		if _, err := Digest(b.Context(), file, l, none); err != nil {
			b.Fatal(err)
		}
		digest += processors(b) - start
		b.StopTimer()
		start = processors(b)
		for range hashed / RunSize {
			sha256.Sum256(buf)
		}
		alone += processors(b) - start
		b.StartTimer()
	}
	data := uint64(b.N) * hashed / TagSize * SectorSize
	b.ReportMetric(perGiB(b.Elapsed(), data), "ms/GiB")
	b.ReportMetric(perGiB(digest, data), "core-ms/GiB")
	b.ReportMetric(perGiB(alone, data), "sha256-core-ms/GiB")
}

// BenchmarkFormat is the cost of the first opening.
func BenchmarkFormat(b *testing.B) {
	file, l := create(b, 2<<30)
	key := make([]byte, luks2.AuthenticatedKeySize)
	b.SetBytes(int64(l.DataSize))
	start := processors(b)
	for b.Loop() {
		if err := Format(b.Context(), file, l, key, none); err != nil {
			b.Fatal(err)
		}
	}
	data := uint64(b.N) * l.DataSize
	b.ReportMetric(perGiB(b.Elapsed(), data), "ms/GiB")
	b.ReportMetric(perGiB(processors(b)-start, data), "core-ms/GiB")
}
