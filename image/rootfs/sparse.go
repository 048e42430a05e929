package rootfs

import (
	"iter"
	"slices"

	"github.com/rootvouch/rootvouch/image/erofs"
)

// maxChunks bounds the block map of a sparse file. A larger file gets larger chunks.
const maxChunks = 1 << 16

// chunkBits is the size of a sparse file's chunks, as BlockSize << bits bytes.
func chunkBits(size int64) int {
	bits := 0
	for chunks(size, bits) > maxChunks {
		bits++
	}
	return bits
}

// chunks returns how many chunks a file of size bytes has.
func chunks(size int64, bits int) int64 {
	return (blocks(size) + 1<<bits - 1) >> bits
}

// WithHoles returns c as the content of a file that has data only in the given
// extents. The extents are in order and may touch. The rest of a chunk that has data
// is stored as zeros. If no hole is as large as a chunk, WithHoles returns c itself.
func WithHoles(c Content, size int64, data iter.Seq[Extent]) Content {
	chunk := int64(BlockSize) << chunkBits(size)
	s := &sparse{Content: c}
	for e := range data {
		e = Extent{e.Start / chunk * chunk, min((e.End+chunk-1)/chunk*chunk, size)}
		if last := len(s.data) - 1; last >= 0 && e.Start <= s.data[last].End {
			s.data[last].End = max(s.data[last].End, e.End)
		} else if e.Start < e.End {
			s.data = append(s.data, e)
		}
	}
	if len(s.data) == 1 && s.data[0] == (Extent{0, size}) {
		return c
	}
	s.data = slices.Clip(s.data)
	return s
}

// blocks returns how many blocks of data the file has.
func (s *sparse) blocks() int64 {
	total := int64(0)
	for _, e := range s.data {
		total += blocks(e.End - e.Start)
	}
	return total
}

// appendMap writes the block map of the file. first is the first block of its data.
func (s *sparse) appendMap(b []byte, size, first int64) []byte {
	chunk := int64(BlockSize) << chunkBits(size)
	at := int64(0)
	for _, e := range s.data {
		for ; at < e.Start; at += chunk {
			b = erofs.AppendBlock(b, erofs.Hole)
		}
		for ; at < e.End; at += chunk {
			b = erofs.AppendBlock(b, uint32(first+(at-e.Start)/BlockSize))
		}
		first += blocks(e.End - e.Start)
	}
	for ; at < size; at += chunk {
		b = erofs.AppendBlock(b, erofs.Hole)
	}
	return b
}
