package volume

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/luks2"
)

// benchSize is that of the volume of the benchmarks: what every volume has once, 17 MiB of
// header and journal, hardly counts then.
const benchSize = 16 << 30

// sparse is a volume in a file, and its volume key.
func sparse(b *testing.B) (*os.File, Layout, []byte) {
	b.Helper()
	l, err := LayoutOf(benchSize)
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
	key := make([]byte, luks2.AuthenticatedKeySize)
	if err := Format(b.Context(), file, l, key, none); err != nil {
		b.Fatal(err)
	}
	return file, l, key
}

// perGiB reports the time for each GiB of data, and the time of processors since start.
func perGiB(b *testing.B, l Layout, start time.Duration) {
	report := func(d time.Duration, unit string) {
		b.ReportMetric(d.Seconds()*1000/float64(b.N)/(float64(l.DataSize)/(1<<30)), unit)
	}
	report(b.Elapsed(), "ms/GiB")
	report(processors(b)-start, "core-ms/GiB")
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

// BenchmarkDigest is the cost of an opening, and of a close, but for the disk.
func BenchmarkDigest(b *testing.B) {
	file, l, _ := sparse(b)
	b.SetBytes(int64(l.TagsSize()))
	start := processors(b)
	for b.Loop() {
		if _, err := Digest(b.Context(), file, l, none); err != nil {
			b.Fatal(err)
		}
	}
	perGiB(b, l, start)
}

// BenchmarkFormat is the cost of the first opening.
func BenchmarkFormat(b *testing.B) {
	file, l, key := sparse(b)
	b.SetBytes(int64(l.DataSize))
	start := processors(b)
	for b.Loop() {
		if err := Format(b.Context(), file, l, key, none); err != nil {
			b.Fatal(err)
		}
	}
	perGiB(b, l, start)
}
