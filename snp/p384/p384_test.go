package p384

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"testing"

	"filippo.io/nistec"
)

var n = elliptic.P384().Params().N

func newKey(t testing.TB) (*ecdsa.PrivateKey, *Key) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := New(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return private, k
}

// fixed returns the private key with the number d.
func fixed(t testing.TB, d int64) *ecdsa.PrivateKey {
	t.Helper()
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), big.NewInt(d).FillBytes(make([]byte, Size)))
	if err != nil {
		t.Fatal(err)
	}
	return private
}

// same compares a verdict with that of crypto/ecdsa.
func same(t testing.TB, pub *ecdsa.PublicKey, k *Key, digest [Size]byte, r, s *big.Int) bool {
	t.Helper()
	got, want := k.Verify(digest, r, s), ecdsa.Verify(pub, digest[:], r, s)
	if got != want {
		t.Errorf("digest %x, r %x, s %x: got %t, crypto/ecdsa says %t", digest, r, s, got, want)
	}
	return want
}

func add(v *big.Int, d int64) *big.Int { return new(big.Int).Add(v, big.NewInt(d)) }

// TestSame verifies true signatures, and each of them with changed numbers.
func TestSame(t *testing.T) {
	for range 5 {
		private, k := newKey(t)
		for i := range 20 {
			digest := sha512.Sum384([]byte{byte(i)})
			r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
			if err != nil {
				t.Fatal(err)
			}
			if !same(t, &private.PublicKey, k, digest, r, s) {
				t.Error("a true signature is refused")
			}
			same(t, &private.PublicKey, k, digest, r, new(big.Int).Sub(n, s)) // the other s
			for _, other := range []*big.Int{add(r, 1), new(big.Int), new(big.Int).Neg(r), add(r, 0).Add(r, n), n, add(n, -1)} {
				if same(t, &private.PublicKey, k, digest, other, s) || same(t, &private.PublicKey, k, digest, r, other) {
					t.Error("a changed signature is taken")
				}
			}
			digest[i] ^= 1
			if same(t, &private.PublicKey, k, digest, r, s) {
				t.Error("a changed digest is taken")
			}
		}
	}
}

// TestEdges uses keys and numbers for which the sum meets the same point, its
// negative, or infinity. Incomplete formulas fail there.
func TestEdges(t *testing.T) {
	small := []*big.Int{big.NewInt(1), big.NewInt(2), big.NewInt(16), add(n, -1), add(n, -16), new(big.Int).Lsh(big.NewInt(1), 383)}
	for _, d := range []int64{1, 2, 16} {
		private := fixed(t, d)
		k, err := New(&private.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range small {
			for _, s := range small {
				for _, e := range append(small, new(big.Int), n, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 384), big.NewInt(1)),
					new(big.Int).Mod(new(big.Int).Neg(new(big.Int).Mul(r, big.NewInt(d))), n), // R is infinity
					new(big.Int).Mod(new(big.Int).Mul(r, big.NewInt(d)), n)) {                 // both halves are one point
					var digest [Size]byte
					e.FillBytes(digest[:])
					same(t, &private.PublicKey, k, digest, r, s)
				}
			}
		}
	}
	// True signatures by these keys too.
	for _, d := range []int64{1, 2, 16} {
		private := fixed(t, d)
		k, err := New(&private.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha512.Sum384(nil)
		r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		if !same(t, &private.PublicKey, k, digest, r, s) {
			t.Errorf("key %d: a true signature is refused", d)
		}
	}
}

// TestTable: every entry is the right multiple, of the key and of the base point.
func TestTable(t *testing.T) {
	private := fixed(t, 1)
	k, err := New(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, table := range map[string]table{"the key": k.multiples, "the base point": generator()} {
		for i, multiples := range table.points {
			if len(multiples) != 1<<(table.window-1) {
				t.Fatalf("%s: window %d has %d entries", name, i, len(multiples))
			}
			for j, got := range multiples {
				v := new(big.Int).Lsh(big.NewInt(int64(j)+1), uint(table.window*i))
				v.Mod(v, n)
				want, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), v.FillBytes(make([]byte, Size)))
				if err != nil {
					t.Fatal(err)
				}
				data, err := want.PublicKey.Bytes()
				if err != nil {
					t.Fatal(err)
				}
				if got := got.Bytes(); string(got) != string(data) {
					t.Fatalf("%s: entry %d of window %d is %x, want %x", name, j, i, got, data)
				}
			}
		}
		if bits := table.window * len(table.points); bits <= 8*Size || bits > 8*Size+table.window {
			t.Errorf("%s: the windows have %d bits", name, bits)
		}
	}
}

// TestAdd compares the sum of the digits with the library's product. Some scalars carry from each
// digit to the next, and the greatest carries out of the last bit.
func TestAdd(t *testing.T) {
	_, k := newKey(t)
	for name, table := range map[string]table{"the key": k.multiples, "the base point": generator()} {
		max := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 8*Size), big.NewInt(1))
		scalars := []*big.Int{new(big.Int), n, add(n, -1), add(n, 1), max, add(max, -1)}
		for bit := range uint(8 * Size) {
			v := new(big.Int).Lsh(big.NewInt(1), bit)
			scalars = append(scalars, v, add(v, -1))
		}
		for _, digit := range []int64{1, 1<<(table.window-1) - 1, 1 << (table.window - 1), 1<<(table.window-1) + 1, 1<<table.window - 2, 1<<table.window - 1} {
			v := new(big.Int)
			for range table.points {
				v.Lsh(v, uint(table.window)).Add(v, big.NewInt(digit))
			}
			scalars = append(scalars, v.And(v, max))
		}
		for _, v := range scalars {
			got := nistec.NewP384Point()
			table.add(got, v)
			want, err := nistec.NewP384Point().ScalarMult(table.points[0][0], v.FillBytes(make([]byte, Size)))
			if err != nil {
				t.Fatal(err)
			}
			if got.Equal(want) != 1 {
				t.Errorf("%s: %x times it is %x, want %x", name, v, got.Bytes(), want.Bytes())
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(&other.PublicKey); err == nil {
		t.Error("took a key on P-256")
	}
}

// vectors is the form of the Wycheproof project's files.
type vectors struct {
	TestGroups []struct {
		PublicKey struct {
			Uncompressed string `json:"uncompressed"`
		} `json:"publicKey"`
		Tests []struct {
			ID      int    `json:"tcId"`
			Comment string `json:"comment"`
			Msg     string `json:"msg"`
			Sig     string `json:"sig"`
			Result  string `json:"result"`
		} `json:"tests"`
	} `json:"testGroups"`
}

// TestWycheproof runs the project's vectors of signatures with two numbers of 48
// bytes (testdata/ORIGIN.md).
func TestWycheproof(t *testing.T) {
	data, err := os.ReadFile("testdata/ecdsa_secp384r1_sha384_p1363_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var all vectors
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	done := map[string]int{}
	for _, group := range all.TestGroups {
		pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P384(), unhex(t, group.PublicKey.Uncompressed))
		if err != nil {
			t.Fatal(err)
		}
		k, err := New(pub)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range group.Tests {
			sig := unhex(t, v.Sig)
			valid := len(sig) == 2*Size
			if valid {
				valid = same(t, pub, k, sha512.Sum384(unhex(t, v.Msg)), new(big.Int).SetBytes(sig[:Size]), new(big.Int).SetBytes(sig[Size:]))
			}
			if valid != (v.Result == "valid") {
				t.Errorf("vector %d (%s): got %t, want %s", v.ID, v.Comment, valid, v.Result)
			}
			done[v.Result]++
		}
	}
	if done["valid"] < 50 || done["invalid"] < 50 {
		t.Errorf("vectors: %v, want more", done)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	data, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// FuzzVerify compares both implementations, with keys, signatures and changes that
// the input chooses.
func FuzzVerify(f *testing.F) {
	f.Add([]byte{1}, []byte("message"), []byte{}, []byte{}, byte(0))
	f.Add([]byte{2}, []byte{}, []byte{1}, []byte{2}, byte(1))
	f.Fuzz(func(t *testing.T, d, message, a, b []byte, what byte) {
		seed := sha512.Sum384(d)
		v := new(big.Int).SetBytes(seed[:])
		v.Mod(v, add(n, -1)).Add(v, big.NewInt(1))
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), v.FillBytes(make([]byte, Size)))
		if err != nil {
			t.Fatal(err)
		}
		k, err := New(&private.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha512.Sum384(message)
		r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		x, y := new(big.Int).SetBytes(a), new(big.Int).SetBytes(b)
		switch what % 4 {
		case 0:
			if !same(t, &private.PublicKey, k, digest, r, s) {
				t.Error("a true signature is refused")
			}
		case 1:
			r, s = x, y
		case 2:
			r, s = new(big.Int).Xor(r, x), new(big.Int).Xor(s, y)
		case 3:
			copy(digest[:], a)
		}
		same(t, &private.PublicKey, k, digest, r, s)
	})
}

func BenchmarkVerify(b *testing.B) {
	private, k := newKey(b)
	digest := sha512.Sum384(nil)
	r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	b.Run("table", func(b *testing.B) {
		for b.Loop() {
			k.Verify(digest, r, s)
		}
	})
	b.Run("crypto", func(b *testing.B) {
		for b.Loop() {
			ecdsa.Verify(&private.PublicKey, digest[:], r, s)
		}
	})
	b.Run("New", func(b *testing.B) {
		for b.Loop() {
			New(&private.PublicKey)
		}
	})
}
