// Package pagehash computes the SHA-384 of many pages, which is most of the work
// for an SNP launch digest.
package pagehash

import (
	"bytes"
	"crypto/sha512"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// PageSize is the size of a page in bytes.
const PageSize = 4096

// Sums returns the SHA-384 of each page of image, whose size is a multiple of
// PageSize. It works on all cores. If one core panics, Sums panics. The caller's
// setting of debug.SetPanicOnFault holds on all cores.
func Sums(image []byte) [][sha512.Size384]byte {
	// Each worker takes the next part. Parts differ in their cost in an unknown
	// way, because most of a firmware is one long run of equal pages.
	const part = 64
	sums := make([][sha512.Size384]byte, len(image)/PageSize)
	var next atomic.Int64
	onFault := debug.SetPanicOnFault(false)
	debug.SetPanicOnFault(onFault)
	var wg sync.WaitGroup
	var failed atomic.Value
	for range min(runtime.GOMAXPROCS(0), (len(sums)+part-1)/part) {
		wg.Go(func() {
			debug.SetPanicOnFault(onFault)
			defer func() {
				if p := recover(); p != nil {
					failed.CompareAndSwap(nil, failure{p})
				}
			}()
			for {
				first := int(next.Add(part)) - part
				if first >= len(sums) {
					return
				}
				end := min(first+part, len(sums))
				sumPart(sums[first:end], image[first*PageSize:end*PageSize])
			}
		})
	}
	wg.Wait()
	if f, ok := failed.Load().(failure); ok {
		panic(f.panic)
	}
	return sums
}

// failure is the panic value of one of several goroutines.
type failure struct{ panic any }

// lanes is the number of pages that sum8 hashes at once.
const lanes = 8

// sumPart hashes pages on one core, eight at a time. It does not hash a page that
// equals the one before.
func sumPart(sums [][sha512.Size384]byte, image []byte) {
	var pending [lanes]int
	n := 0
	for i := range sums {
		if i > 0 && bytes.Equal(page(image, i)[:], page(image, i-1)[:]) {
			continue
		}
		pending[n] = i
		if n++; n == lanes {
			sumPages(sums, image, pending[:])
			n = 0
		}
	}
	sumPages(sums, image, pending[:n])
	for i := 1; i < len(sums); i++ {
		if sums[i] == ([sha512.Size384]byte{}) { // equals the page before
			sums[i] = sums[i-1]
		}
	}
}

// sumPages hashes up to eight pages.
func sumPages(sums [][sha512.Size384]byte, image []byte, pages []int) {
	if !hasLanes || len(pages) < 3 {
		for _, i := range pages {
			sums[i] = sha512.Sum384(page(image, i)[:])
		}
		return
	}
	var out [lanes]*[sha512.Size384]byte
	var in [lanes]*[PageSize]byte
	for lane := range lanes {
		i := pages[min(lane, len(pages)-1)] // the last page fills the unused lanes
		out[lane], in[lane] = &sums[i], page(image, i)
	}
	sum8(&out, &in)
}

func page(image []byte, i int) *[PageSize]byte {
	return (*[PageSize]byte)(image[i*PageSize:])
}
