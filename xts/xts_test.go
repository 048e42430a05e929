package xts

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	reference "golang.org/x/crypto/xts"
)

func random(seed byte, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// each runs a test with every implementation that this machine has.
func each(t *testing.T, key []byte, test func(t *testing.T, impl implementation)) {
	for name, make := range implementations() {
		t.Run(name, func(t *testing.T) {
			impl, err := make(key)
			if err != nil {
				t.Fatal(err)
			}
			test(t, impl)
		})
	}
}

// oracle encrypts sector by sector with x/crypto.
func oracle(t testing.TB, key, src []byte, sector uint64, sectorSize int) []byte {
	t.Helper()
	c, err := reference.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, len(src))
	for at := 0; at < len(src); at += sectorSize {
		c.Encrypt(dst[at:], src[at:at+sectorSize], sector+uint64(at/SectorUnit))
	}
	return dst
}

// TestIEEE1619 checks vector 10 of IEEE Std 1619-2018, annex B: AES-256, data
// unit 0xff, 512 bytes 00 01 .. ff twice. Ends of the published ciphertext.
func TestIEEE1619(t *testing.T) {
	key, err := hex.DecodeString("2718281828459045235360287471352662497757247093699959574966967627" +
		"3141592653589793238462643383279502884197169399375105820974944592")
	if err != nil {
		t.Fatal(err)
	}
	src := make([]byte, 512)
	for i := range src {
		src[i] = byte(i)
	}
	for sector, want := range map[uint64][2]string{
		0xff:         {"1c3b3a102f770386e4836c99e370cf9b", "64b04fdb70b9a2c7c1a6a5ec4a"},
		0xffff:       {"77a31251618a15e6b92d1d66dffe7b50", ""},
		0xffffff:     {"e387aaa58ba483afa7e8eb469778317e", ""},
		0xffffffff:   {"bf53d2dade78e822a4d949a9bc6766b0", ""},
		0xffffffffff: {"64497e5a831e4a932c09be3e5393376d", ""},
	} {
		t.Run(fmt.Sprintf("%#x", sector), func(t *testing.T) {
			each(t, key, func(t *testing.T, impl implementation) {
				dst := make([]byte, 512)
				impl.encrypt(dst, src, sector, 512)
				if got := hex.EncodeToString(dst); !strings.HasPrefix(got, want[0]) {
					t.Errorf("got %s, want %s...", got[:32], want[0])
				}
				impl.decrypt(dst, dst, sector, 512)
				if !bytes.Equal(dst, src) {
					t.Error("decrypting does not give the plaintext")
				}
			})
		})
	}
}

// TestAgainstXCrypto compares sizes, batches and tweaks that carry.
func TestAgainstXCrypto(t *testing.T) {
	for seed, sectorSize := range []int{512, 1024, 1536, 4096, 8192} {
		key := random(byte(seed), 64)
		each(t, key, func(t *testing.T, impl implementation) {
			for _, sectors := range []int{1, 2, 15, 16, 17, 33} {
				for _, first := range []uint64{0, 1, 1<<32 - 3, 1<<64 - 8*16, 0x123456789abcdef} {
					src := random(byte(sectors), sectors*sectorSize)
					want := oracle(t, key, src, first, sectorSize)
					got := make([]byte, len(src))
					impl.encrypt(got, src, first, sectorSize)
					if !bytes.Equal(got, want) {
						t.Fatalf("%d sectors of %d from %d: ciphertext differs", sectors, sectorSize, first)
					}
					impl.decrypt(got, got, first, sectorSize)
					if !bytes.Equal(got, src) {
						t.Fatalf("%d sectors of %d from %d: plaintext differs", sectors, sectorSize, first)
					}
				}
			}
		})
	}
}

// TestStaysInBounds: nothing behind the data is touched, at any alignment.
func TestStaysInBounds(t *testing.T) {
	key := random(9, 64)
	each(t, key, func(t *testing.T, impl implementation) {
		for offset := range 65 {
			buffer := bytes.Repeat([]byte{0xaa}, 4096+200)
			src := random(1, 4096)
			copy(buffer[offset:], src)
			impl.encrypt(buffer[offset:], buffer[offset:offset+4096], 7, 4096)
			if !bytes.Equal(buffer[offset:offset+4096], oracle(t, key, src, 7, 4096)) {
				t.Fatalf("offset %d: ciphertext differs", offset)
			}
			if rest := len(buffer) - 4096; bytes.Count(buffer[:offset], []byte{0xaa})+bytes.Count(buffer[offset+4096:], []byte{0xaa}) != rest {
				t.Fatalf("offset %d: wrote beyond the data", offset)
			}
		}
	})
}

func TestNewCipherRefuses(t *testing.T) {
	for _, key := range [][]byte{nil, random(1, 16), random(1, 48), random(1, 65), make([]byte, 64), append(random(2, 16), random(2, 16)...)} {
		if _, err := NewCipher(key); err == nil {
			t.Errorf("key of %d bytes: got no error", len(key))
		}
	}
	if _, err := NewCipher(random(1, 32)); err != nil {
		t.Errorf("AES-128-XTS: %v", err)
	}
}

func TestAES128(t *testing.T) {
	key := random(4, 32)
	c, err := NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	src := random(5, 1024)
	dst := make([]byte, 1024)
	c.Encrypt(dst, src, 3, 512)
	if !bytes.Equal(dst, oracle(t, key, src, 3, 512)) {
		t.Error("ciphertext differs")
	}
}

func TestPanicsOnMisuse(t *testing.T) {
	c, err := NewCipher(random(1, 64))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []func(){
		func() { c.Encrypt(make([]byte, 511), make([]byte, 512), 0, 512) },
		func() { c.Encrypt(make([]byte, 600), make([]byte, 600), 0, 512) },
		func() { c.Encrypt(make([]byte, 512), make([]byte, 512), 0, 0) },
		func() { c.Decrypt(make([]byte, 512), make([]byte, 512), 0, 16) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("got no panic")
				}
			}()
			f()
		}()
	}
	c.Encrypt(nil, nil, 0, 512) // nothing to do is fine
}

func TestWipe(t *testing.T) {
	for name, make := range implementations() {
		if name == "generic" {
			continue
		}
		impl, err := make(random(1, 64))
		if err != nil {
			t.Fatal(err)
		}
		before := fmt.Sprintf("%v", impl)
		impl.wipe()
		if after := fmt.Sprintf("%v", impl); after == before || strings.Trim(after[:100], "&{[ 0]}") != "" {
			t.Errorf("%s: something is left of the key: %.100s", name, after)
		}
	}
}

// FuzzAgainstXCrypto compares every implementation with the oracle.
func FuzzAgainstXCrypto(f *testing.F) {
	f.Add(random(1, 64), random(2, 4096), uint64(0), uint8(8))
	f.Add(random(3, 64), random(4, 3*512), uint64(1)<<63, uint8(1))
	f.Fuzz(func(t *testing.T, key, data []byte, sector uint64, units uint8) {
		if len(key) != 64 || bytes.Equal(key[:32], key[32:]) {
			return
		}
		sectorSize := (int(units%32) + 1) * SectorUnit
		src := bytes.Repeat([]byte{0}, (len(data)+sectorSize-1)/sectorSize*sectorSize)
		copy(src, data)
		want := oracle(t, key, src, sector, sectorSize)
		for name, make_ := range implementations() {
			impl, err := make_(key)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(src))
			impl.encrypt(got, src, sector, sectorSize)
			if !bytes.Equal(got, want) {
				t.Errorf("%s: ciphertext differs", name)
			}
			impl.decrypt(got, got, sector, sectorSize)
			if !bytes.Equal(got, src) {
				t.Errorf("%s: plaintext differs", name)
			}
		}
	})
}

// BenchmarkEncrypt and BenchmarkDecrypt report, beside the time on the clock,
// bytes per second of processor time: the figure that other work on the machine
// does not change.
func BenchmarkEncrypt(b *testing.B) { benchmark(b, implementation.encrypt) }
func BenchmarkDecrypt(b *testing.B) { benchmark(b, implementation.decrypt) }

func benchmark(b *testing.B, work func(impl implementation, dst, src []byte, sector uint64, sectorSize int)) {
	for name, make_ := range implementations() {
		b.Run(name, func(b *testing.B) {
			impl, err := make_(random(1, 64))
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, 64<<10)
			b.SetBytes(int64(len(data)))
			start := processorTime(b)
			for b.Loop() {
				work(impl, data, data, 0, 4096)
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
