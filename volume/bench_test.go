package volume

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rootvouch/rootvouch/luks2"
)

// benchSize is that of the volume of the benchmarks: what is there for all of them, such as
// the header, does not count then.
const benchSize = 4 << 30

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

// perGiB reports the time for each GiB of data.
func perGiB(b *testing.B, l Layout) {
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N)/(float64(l.DataSize)/(1<<30)), "ms/GiB")
}

// BenchmarkDigest is the cost of an opening, and of a close, but for the disk.
func BenchmarkDigest(b *testing.B) {
	file, l, _ := sparse(b)
	b.SetBytes(int64(l.TagsSize()))
	for b.Loop() {
		if _, err := Digest(b.Context(), file, l, none); err != nil {
			b.Fatal(err)
		}
	}
	perGiB(b, l)
}

// BenchmarkFormat is the cost of the first opening.
func BenchmarkFormat(b *testing.B) {
	file, l, key := sparse(b)
	b.SetBytes(int64(l.DataSize))
	for b.Loop() {
		if err := Format(b.Context(), file, l, key, none); err != nil {
			b.Fatal(err)
		}
	}
	perGiB(b, l)
}
