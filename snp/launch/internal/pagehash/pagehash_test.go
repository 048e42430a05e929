package pagehash

import (
	"crypto/sha512"
	"math/rand/v2"
	"testing"
)

// image makes pages of random bytes, runs of equal ones among them.
func image(seed uint64, pages int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, pages*PageSize)
	for i := 0; i < pages; {
		run, fill := 1+r.IntN(12), r.IntN(4)
		for ; run > 0 && i < pages; run, i = run-1, i+1 {
			p := page(data, i)
			for j := range p {
				switch fill {
				case 0: // zeros
				case 1:
					p[j] = 0xff
				default:
					p[j] = byte(r.Uint32())
				}
			}
		}
	}
	return data
}

func check(t *testing.T, data []byte) {
	t.Helper()
	sums := Sums(data)
	if len(sums) != len(data)/PageSize {
		t.Fatalf("got %d sums, want %d", len(sums), len(data)/PageSize)
	}
	for i, got := range sums {
		if want := sha512.Sum384(page(data, i)[:]); got != want {
			t.Fatalf("page %d of %d: got %x, want %x", i, len(sums), got, want)
		}
	}
}

// TestSums compares with the standard library, with and without the lanes.
func TestSums(t *testing.T) {
	defer func(has bool) { hasLanes = has }(hasLanes)
	for _, hasLanes = range []bool{false, hasLanes} {
		for pages := range 80 {
			check(t, image(uint64(pages), pages))
		}
		for seed := range uint64(4) {
			check(t, image(seed, 1024))
		}
	}
}

func BenchmarkSums(b *testing.B) {
	data := image(0, 1024)
	rand.NewChaCha8([32]byte{}).Read(data)
	for _, c := range []struct {
		name  string
		lanes bool
	}{{"lanes", true}, {"standard", false}} {
		b.Run(c.name, func(b *testing.B) {
			if c.lanes && !hasLanes {
				b.Skip("no AVX-512")
			}
			defer func(has bool) { hasLanes = has }(hasLanes)
			hasLanes = c.lanes
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				Sums(data)
			}
		})
	}
}
