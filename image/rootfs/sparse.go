package rootfs

import (
	"iter"
	"slices"

	"github.com/rootvouch/rootvouch/image/erofs"
)

// maxChunks bounds the block map of a sparse file: holes of larger files are
// kept in larger chunks.
const maxChunks = 1 << 16

// chunkBits is the size of a sparse file's chunks, as BlockSize << bits bytes.
func chunkBits(size int64) int {
	bits := 0
	for chunks(size, bits) > maxChunks {
		bits++
	}
	return bits
}

// chunks is how many chunks a file of size bytes has.
func chunks(size int64, bits int) int64 {
	return (blocks(size) + 1<<bits - 1) >> bits
}

// withHoles returns content that has data only there: in order, possibly
// touching. What a chunk holds beside data is stored as zeros. Without a hole
// that is at least a chunk it returns c itself.
func withHoles(c content, size int64, data iter.Seq[extent]) content {
	chunk := int64(BlockSize) << chunkBits(size)
	s := &sparse{content: c}
	for e := range data {
		e = extent{e.start / chunk * chunk, min((e.end+chunk-1)/chunk*chunk, size)}
		if last := len(s.data) - 1; last >= 0 && e.start <= s.data[last].end {
			s.data[last].end = max(s.data[last].end, e.end)
		} else if e.start < e.end {
			s.data = append(s.data, e)
		}
	}
	if len(s.data) == 1 && s.data[0] == (extent{0, size}) {
		return c
	}
	s.data = slices.Clip(s.data)
	return s
}

// blocks is how many blocks of data the file has.
func (s *sparse) blocks(size int64) int64 {
	total := int64(0)
	for _, e := range s.data {
		total += blocks(e.end - e.start)
	}
	return total
}

// appendMap writes the block map of the file, whose data starts at block first.
func (s *sparse) appendMap(b []byte, size, first int64) []byte {
	chunk := int64(BlockSize) << chunkBits(size)
	at := int64(0)
	for _, e := range s.data {
		for ; at < e.start; at += chunk {
			b = erofs.AppendBlock(b, erofs.Hole)
		}
		for ; at < e.end; at += chunk {
			b = erofs.AppendBlock(b, uint32(first+(at-e.start)/BlockSize))
		}
		first += blocks(e.end - e.start)
	}
	for ; at < size; at += chunk {
		b = erofs.AppendBlock(b, erofs.Hole)
	}
	return b
}
