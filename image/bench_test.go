package image

import (
	"context"
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/rootvouch/rootvouch/verity"
)

// nowhere is an Output that forgets, like a disk without a limit of its own.
type nowhere struct{}

func (nowhere) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (nowhere) Truncate(int64) error                   { return nil }

// BenchmarkBuild reads, hashes and encrypts the file ROOTVOUCH_BENCH_FILE, a
// finished filesystem: what a build does but for the disk's part.
func BenchmarkBuild(b *testing.B) {
	name := os.Getenv("ROOTVOUCH_BENCH_FILE")
	if name == "" {
		b.Skip("SKIPPED: no ROOTVOUCH_BENCH_FILE; see scripts/bench-image")
	}
	source, closeSource, err := Open(context.Background(), Input{Path: name})
	if err != nil {
		b.Fatal(err)
	}
	defer closeSource()
	b.SetBytes(source.Size())
	for b.Loop() {
		secrets := seeded(b, 1)
		if _, err := Build(context.Background(), nowhere{}, source, secrets, Options{Workers: runtime.GOMAXPROCS(0)}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTree computes the hash tree of the file ROOTVOUCH_BENCH_FILE on all
// cores and writes it to another: what veritysetup format does.
func BenchmarkTree(b *testing.B) {
	name := os.Getenv("ROOTVOUCH_BENCH_FILE")
	if name == "" {
		b.Skip("SKIPPED: no ROOTVOUCH_BENCH_FILE; see scripts/bench-image")
	}
	data, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer data.Close()
	info, err := data.Stat()
	if err != nil {
		b.Fatal(err)
	}
	out, err := os.Create(name + ".tree")
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	params := verity.Profile(uint64(info.Size())/verity.BlockSize, make([]byte, 32))
	b.SetBytes(info.Size())
	for b.Loop() {
		tree, err := verity.NewTree(params)
		if err != nil {
			b.Fatal(err)
		}
		leaves := params.Geometry().Levels[0].Offset
		var next atomic.Int64
		group, _ := errgroup.WithContext(context.Background())
		for range runtime.GOMAXPROCS(0) {
			group.Go(func() error {
				hasher, err := verity.NewHasher(params)
				if err != nil {
					return err
				}
				span, leaf := make([]byte, chunkSize), make([]byte, verity.BlockSize)
				for {
					index := next.Add(1) - 1
					at := index * chunkSize
					if at >= info.Size() {
						return nil
					}
					span = span[:min(chunkSize, info.Size()-at)]
					if _, err := data.ReadAt(span, at); err != nil {
						return err
					}
					hasher.Leaf(leaf, span)
					tree.Set(uint64(index), hasher.Digest(nil, leaf))
					if _, err := out.WriteAt(leaf, int64(leaves)+index*verity.BlockSize); err != nil {
						return err
					}
				}
			})
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
		if _, err := tree.Finish(func(offset uint64, block []byte) error {
			_, err := out.WriteAt(block, int64(offset))
			return err
		}); err != nil {
			b.Fatal(err)
		}
	}
}
