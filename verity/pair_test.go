package verity

import (
	"bytes"
	"crypto/sha256"
	"syscall"
	"testing"
	"time"
)

// TestPairs compares the hashes of a leaf with crypto/sha256, for every salt. On
// a processor with SHA-NI our own code makes them, two blocks at a time.
func TestPairs(t *testing.T) {
	for salt := 0; salt <= 256; salt++ {
		for _, size := range []int{512, 1024, 4096} {
			p := Profile(10, counter("salt", salt))
			p.DataBlockSize = size
			h, err := NewHasher(p)
			if err != nil {
				t.Fatal(err)
			}
			if h.pair == nil && salt == 0 {
				t.Log("no SHA-NI: the leaf is made with crypto/sha256, too")
			}
			data := counter("data", 5*size) // two pairs and one alone
			leaf := make([]byte, BlockSize)
			h.Leaf(leaf, data)
			for i := range 5 {
				want := sha256.Sum256(append(bytes.Clone(p.Salt), data[i*size:(i+1)*size]...))
				if !bytes.Equal(leaf[i*32:][:32], want[:]) {
					t.Fatalf("salt of %d, block %d of %d bytes: got %x, want %x", salt, i, size, leaf[i*32:][:32], want)
				}
			}
			if !bytes.Equal(leaf[5*32:], make([]byte, BlockSize-5*32)) {
				t.Fatal("the rest of the leaf is not zero")
			}
		}
	}
}

func FuzzPairs(f *testing.F) {
	f.Add([]byte("salt"), []byte("data"))
	f.Fuzz(func(t *testing.T, salt, seed []byte) {
		if len(salt) > 256 {
			return
		}
		p := Profile(2, salt)
		h, err := NewHasher(p)
		if err != nil {
			t.Fatal(err)
		}
		data := counter(string(seed), 2*BlockSize)
		leaf := make([]byte, BlockSize)
		h.Leaf(leaf, data)
		want := append(h.Digest(nil, data[:BlockSize]), h.Digest(nil, data[BlockSize:])...)
		if !bytes.Equal(leaf[:64], want) {
			t.Errorf("got %x, want %x", leaf[:64], want)
		}
	})
}

// BenchmarkLeaf reports, beside the time on the clock, bytes per second of
// processor time, with pairs and with crypto/sha256 alone.
func BenchmarkLeaf(b *testing.B) {
	for _, alone := range []bool{false, true} {
		name := "pairs"
		if alone {
			name = "crypto-sha256"
		}
		b.Run(name, func(b *testing.B) {
			h, err := NewHasher(Profile(128, make([]byte, 32)))
			if err != nil {
				b.Fatal(err)
			}
			if alone {
				h.pair = nil
			}
			data, leaf := make([]byte, 128*BlockSize), make([]byte, BlockSize)
			b.SetBytes(int64(len(data)))
			start := processorTime(b)
			for b.Loop() {
				h.Leaf(leaf, data)
			}
			took := processorTime(b) - start
			b.ReportMetric(float64(b.N)*float64(len(data))/1e6/took.Seconds(), "MB/cpu-s")
		})
	}
}

// processorTime returns the user and system time of this process.
func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
