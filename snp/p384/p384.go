// Package p384 verifies ECDSA signatures on P-384 in a fifth of the time, for a key that signs often.
//
// A chip's endorsement key signs all of the chip's reports. With tables of the multiples of
// the key and of the curve's base point, each verification needs additions only. All values
// are public, so the code need not run in constant time. Tests compare each result with that
// of crypto/ecdsa (docs/adr/0015-comb-table.md).
package p384

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"math/big"
	"sync"

	"filippo.io/nistec"
)

// Size of a number on P-384, and of SHA-384, in bytes.
const Size = 48

// Bits of a scalar for each addition. Each bit more nearly doubles the table. A server holds a
// table for each chip, and one for the base point.
const (
	keyWindow  = 7
	baseWindow = 9
)

// Key is a public key with its table, some 610 KiB.
type Key struct{ multiples table }

// table has j·2^(window·i)·Q at [i][j-1], for a point Q and j up to 2^(window-1). The multiple by 0
// needs no entry, and that by -j is the negative of another.
type table struct {
	window int
	points [][]*nistec.P384Point
}

// New makes the table of a key, in a few milliseconds.
func New(pub *ecdsa.PublicKey) (*Key, error) {
	if pub.Curve != elliptic.P384() {
		return nil, fmt.Errorf("key is on %s, want P-384", pub.Curve.Params().Name)
	}
	data, err := pub.Bytes() // refuses a point that is not on the curve
	if err != nil {
		return nil, fmt.Errorf("key: %v", err)
	}
	base, err := nistec.NewP384Point().SetBytes(data)
	if err != nil {
		return nil, fmt.Errorf("key: %v", err)
	}
	if len(base.Bytes()) == 1 {
		return nil, errors.New("key is the point at infinity")
	}
	return &Key{newTable(base, keyWindow)}, nil
}

// generator returns the table of the curve's base point G. The first verification makes it.
var generator = sync.OnceValue(func() table { return newTable(nistec.NewP384Point().SetGenerator(), baseWindow) })

func newTable(base *nistec.P384Point, window int) table {
	t := table{window, make([][]*nistec.P384Point, 8*Size/window+1)} // with room for a carry
	for i := range t.points {
		sum := nistec.NewP384Point()
		for range 1 << (window - 1) {
			sum.Add(sum, base)
			t.points[i] = append(t.points[i], nistec.NewP384Point().Set(sum))
		}
		base = nistec.NewP384Point().Double(sum) // now 2^window times its former value
	}
	return t
}

// Verify reports whether (r, s) is the key's signature of a message with this
// SHA-384.
func (k *Key) Verify(digest [Size]byte, r, s *big.Int) bool {
	n := elliptic.P384().Params().N
	for _, v := range []*big.Int{r, s} {
		if v.Sign() <= 0 || v.Cmp(n) >= 0 {
			return false
		}
	}
	// FIPS 186-5, 6.4.2: R = u1·G + u2·Q, with u1 = e/s and u2 = r/s.
	w := new(big.Int).ModInverse(s, n)
	u1 := new(big.Int).SetBytes(digest[:])
	u1.Mul(u1, w).Mod(u1, n)
	u2 := new(big.Int).Mul(r, w)
	u2.Mod(u2, n)
	sum := nistec.NewP384Point() // infinity
	generator().add(sum, u1)
	k.multiples.add(sum, u2)
	x, err := sum.BytesX()
	if err != nil { // the point at infinity
		return false
	}
	v := new(big.Int).SetBytes(x)
	return v.Mod(v, n).Cmp(r) == 0
}

// add adds scalar·Q to sum. The scalar has at most 8·Size bits. It is written with digits from
// -2^(window-1)+1 to 2^(window-1), one for each addition.
func (t table) add(sum *nistec.P384Point, scalar *big.Int) {
	negative := nistec.NewP384Point()
	carry := 0
	for i, multiples := range t.points {
		j := carry
		for bit := range t.window {
			j += int(scalar.Bit(i*t.window+bit)) << bit
		}
		carry = 0
		if j > len(multiples) {
			j -= 1 << t.window
			carry = 1
		}
		switch {
		case j > 0:
			sum.Add(sum, multiples[j-1])
		case j < 0:
			sum.Add(sum, negative.Negate(multiples[-j-1]))
		}
	}
}
