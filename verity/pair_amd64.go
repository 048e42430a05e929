//go:build amd64 && !purego

package verity

import (
	"crypto/sha256"
	"encoding/binary"
)

// pair computes the SHA-256 of two equally long blocks at once.
//
// One SHA-256 stream waits for the latency of SHA256RNDS2 most of the time; two
// interleaved streams fill it. On Zen 4 a pair takes little more than one
// (BenchmarkLeaf). Nothing here is secret, so nothing has to be constant-time,
// though it is.
type pair struct {
	start [8]uint32 // state after the whole 64-byte blocks of the salt
	tail  []byte    // rest of the salt
	total uint64    // bytes hashed: salt and block
	a, b  [2 * sha256.BlockSize]byte
}

// newPair returns nil when the machine or the parameters call for crypto/sha256.
func newPair(p Params) *pair {
	if p.Algorithm != SHA256 || p.HashType != 1 || !hasSHA() {
		return nil
	}
	state := [2][8]uint32{initial, initial}
	whole := len(p.Salt) / sha256.BlockSize
	if whole > 0 {
		blocks2(&state, &p.Salt[0], &p.Salt[0], whole)
	}
	return &pair{start: state[0], tail: p.Salt[whole*sha256.BlockSize:], total: uint64(len(p.Salt))}
}

// initial is H(0) of FIPS 180-4, 5.3.3.
var initial = [8]uint32{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}

// sum writes the salted digests of the blocks a and b, of one length that is a
// multiple of 64, to da and db.
func (p *pair) sum(da, db, a, b []byte) {
	state := [2][8]uint32{p.start, p.start}
	size := p.total + uint64(len(a))
	if n := len(p.tail); n > 0 {
		copy(p.a[:], p.tail)
		copy(p.b[:], p.tail)
		used := copy(p.a[n:sha256.BlockSize], a)
		copy(p.b[n:sha256.BlockSize], b)
		blocks2(&state, &p.a[0], &p.b[0], 1)
		a, b = a[used:], b[used:]
	}
	whole := len(a) / sha256.BlockSize
	blocks2(&state, &a[0], &b[0], whole)
	a, b = a[whole*sha256.BlockSize:], b[whole*sha256.BlockSize:]
	blocks := 1
	if len(a)+9 > sha256.BlockSize {
		blocks = 2
	}
	pad(p.a[:blocks*sha256.BlockSize], a, size)
	pad(p.b[:blocks*sha256.BlockSize], b, size)
	blocks2(&state, &p.a[0], &p.b[0], blocks)
	for i := range 8 {
		binary.BigEndian.PutUint32(da[4*i:], state[0][i])
		binary.BigEndian.PutUint32(db[4*i:], state[1][i])
	}
}

// pad fills the last block or blocks (FIPS 180-4, 5.1.1).
func pad(last, rest []byte, size uint64) {
	n := copy(last, rest)
	last[n] = 0x80
	clear(last[n+1:])
	binary.BigEndian.PutUint64(last[len(last)-8:], size*8)
}

// hasSHA tells whether the processor has SHA-NI, SSSE3 and SSE4.1.
func hasSHA() bool

// blocks2 hashes n blocks of 64 bytes from a and from b; n is at least 1.
//
//go:noescape
func blocks2(state *[2][8]uint32, a, b *byte, n int)
