// Package p384 verifies ECDSA signatures on P-384 in less than a third of the time, for a key that
// signs often.
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

const (
	window  = 4 // bits of a scalar for each addition
	windows = 8 * Size / window
	entries = 1<<window - 1 // multiples of a window; the multiple by 0 needs no entry
)

// Key is a public key with its table, some 300 KiB.
type Key struct {
	// table has j·2^(window·i)·Q at [i][j-1], for the key's point Q.
	table [windows][entries]*nistec.P384Point
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
	return table(base), nil
}

// generator returns the table of the curve's base point G. The first verification makes it.
var generator = sync.OnceValue(func() *Key { return table(nistec.NewP384Point().SetGenerator()) })

func table(base *nistec.P384Point) *Key {
	k := new(Key)
	for i := range windows {
		sum := nistec.NewP384Point()
		for j := range entries {
			sum.Add(sum, base)
			k.table[i][j] = nistec.NewP384Point().Set(sum)
		}
		base = nistec.NewP384Point().Add(sum, base) // now 2^window times its former value
	}
	return k
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
	generator().add(sum, u1.FillBytes(make([]byte, Size)))
	k.add(sum, u2.FillBytes(make([]byte, Size)))
	x, err := sum.BytesX()
	if err != nil { // the point at infinity
		return false
	}
	v := new(big.Int).SetBytes(x)
	return v.Mod(v, n).Cmp(r) == 0
}

// add adds scalar·Q to sum.
func (k *Key) add(sum *nistec.P384Point, scalar []byte) {
	for i, b := range scalar { // big-endian
		high := 2 * (Size - 1 - i)
		if j := b >> window; j != 0 {
			sum.Add(sum, k.table[high+1][j-1])
		}
		if j := b & (1<<window - 1); j != 0 {
			sum.Add(sum, k.table[high][j-1])
		}
	}
}
