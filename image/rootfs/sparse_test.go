package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
)

type noContent struct{}

func (noContent) Open(string, Stored) (io.ReadCloser, error) { return nil, errors.New("no content") }

// TestBlockMap checks chunk by chunk which have blocks.
func TestBlockMap(t *testing.T) {
	const hole = 1<<32 - 1
	for _, c := range []struct {
		size int64
		data []Extent
		want []uint32 // nil: not sparse
	}{
		{3 * BlockSize, []Extent{{0, 3 * BlockSize}}, nil},
		{3 * BlockSize, []Extent{{0, 1}, {BlockSize, 2*BlockSize + 1}}, nil},
		{3*BlockSize + 1, []Extent{{BlockSize + 5, BlockSize + 6}}, []uint32{hole, 7, hole, hole}},
		{3*BlockSize + 1, []Extent{{0, 1}, {3 * BlockSize, 3*BlockSize + 1}}, []uint32{7, hole, hole, 8}},
		{3 * BlockSize, nil, []uint32{hole, hole, hole}},
	} {
		t.Run(fmt.Sprint(c.size, c.data), func(t *testing.T) {
			got := WithHoles(noContent{}, c.size, slices.Values(c.data))
			s, ok := got.(*sparse)
			if !ok || c.want == nil {
				if ok != (c.want != nil) {
					t.Errorf("sparse: %v, want %v", ok, c.want != nil)
				}
				return
			}
			var want []byte
			for _, b := range c.want {
				want = append(want, byte(b), byte(b>>8), byte(b>>16), byte(b>>24))
			}
			if got := s.appendMap(nil, c.size, 7); !bytes.Equal(got, want) {
				t.Errorf("got map %x, want %x", got, want)
			}
		})
	}
	for size, want := range map[int64]int{1: 0, maxChunks * BlockSize: 0, maxChunks*BlockSize + 1: 1, 1 << 40: 12} {
		if got := chunkBits(size); got != want {
			t.Errorf("%d bytes: chunks of 2^%d blocks, want 2^%d", size, got, want)
		}
	}
}
