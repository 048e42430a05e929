package lzma_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	xz "github.com/ulikunitz/xz/lzma"

	"github.com/rootvouch/rootvouch/snp/firmware/lzma"
)

// compress is another encoder.
func compress(t testing.TB, content []byte, lc, lp, pb int) []byte {
	t.Helper()
	var out bytes.Buffer
	c := xz.WriterConfig{Properties: &xz.Properties{LC: lc, LP: lp, PB: pb}, SizeInHeader: true, Size: int64(len(content)), DictCap: 1 << 16}
	w, err := c.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// decompress is another decoder.
func decompress(t testing.TB, data []byte) []byte {
	t.Helper()
	r, err := xz.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// words is text that has matches of all lengths and distances.
func words(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b []byte
	for len(b) < n {
		switch r.IntN(5) {
		case 0:
			for range r.IntN(20) {
				b = append(b, byte(r.Uint32()))
			}
		case 1:
			b = append(b, bytes.Repeat([]byte{byte(r.IntN(4))}, r.IntN(600))...)
		case 2:
			b = append(b, "the same words again and again "[r.IntN(10):]...)
		default:
			if len(b) > 0 {
				at := r.IntN(len(b))
				b = append(b, b[at:min(len(b), at+r.IntN(300))]...)
			}
		}
	}
	return b[:n]
}

func TestSameBytesAgain(t *testing.T) {
	for _, p := range [][3]int{{3, 0, 2}, {0, 0, 0}, {8, 0, 4}, {1, 3, 1}, {0, 4, 4}} {
		for _, n := range []int{1, 2, 1000, 300000} {
			content := words(uint64(n), n)
			data := compress(t, content, p[0], p[1], p[2])
			s, used, err := lzma.Decode(data, n)
			if err != nil {
				t.Fatalf("%v, %d bytes: %v", p, n, err)
			}
			if used != len(data) || !bytes.Equal(s.Content, content) {
				t.Errorf("%v, %d bytes: other content, or %d of %d bytes used", p, n, used, len(data))
			}
			if !bytes.Equal(s.Encode(), data) {
				t.Errorf("%v, %d bytes: the same operations give another stream", p, n)
			}
		}
	}
}

func TestChange(t *testing.T) {
	content := words(7, 200000)
	data := compress(t, content, 3, 0, 2)
	s, _, err := lzma.Decode(data, len(content))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 1, 5000, 100000, len(content) - 16} {
		other := bytes.Clone(content)
		copy(other[at:], make([]byte, 16))
		changed := s.With(other).Encode()
		if got := decompress(t, changed); !bytes.Equal(got, other) {
			t.Errorf("16 bytes at %d: another decoder gets other content", at)
		}
		back, used, err := lzma.Decode(changed, len(content))
		if err != nil || used != len(changed) || !bytes.Equal(back.Content, other) {
			t.Errorf("16 bytes at %d: %v, %d of %d bytes used", at, err, used, len(changed))
		}
		if grown := len(changed) - len(data); grown > 100*64 {
			t.Errorf("16 bytes at %d: the stream has %d bytes more", at, grown)
		}
	}
	if !bytes.Equal(content, s.Content) {
		t.Error("With changed its argument")
	}
	reversed := bytes.Clone(content)
	for i := range reversed {
		reversed[i] ^= byte(i >> 3)
	}
	if got := decompress(t, s.With(reversed).Encode()); !bytes.Equal(got, reversed) {
		t.Error("when all changes, another decoder gets other content")
	}
}

func TestDecodeRefuses(t *testing.T) {
	content := words(3, 5000)
	good := compress(t, content, 3, 0, 2)
	change := func(at int, b byte) []byte {
		data := bytes.Clone(good)
		data[at] = b
		return data
	}
	for _, row := range []struct {
		name, want string
		data       []byte
	}{
		{"empty", "got 0 bytes", nil},
		{"header only", "ends after 0 of 5000", good[:13]},
		{"cut", "ends after", good[:len(good)/2]},
		{"one byte short", "e", good[:len(good)-1]},
		{"properties", "properties are 0xe1", change(0, 225)},
		{"too long", "want at most 5000", change(6, 0x20)},
		{"longer than the stream", "ends after", append(append(bytes.Clone(good[:5]), 0x88, 0x13, 0, 0, 0, 0, 0, 0), good[13:len(good)-40]...)},
		{"shorter than the stream", "a copy of", change(5, 0x80)},
		{"first byte", "range coder starts", change(13, 1)},
		{"flipped", "", change(60, good[60]^1)},
	} {
		if _, _, err := lzma.Decode(row.data, len(content)); (err == nil && row.want != "") || (err != nil && !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: got %v, want an error with %q", row.name, err, row.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(compress(f, words(1, 3000), 3, 0, 2))
	f.Add(compress(f, []byte("x"), 0, 0, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, used, err := lzma.Decode(data, 1<<16)
		if err != nil {
			return
		}
		again := s.Encode()
		back, n, err := lzma.Decode(again, 1<<16)
		if err != nil || n != len(again) || !bytes.Equal(back.Content, s.Content) {
			t.Fatalf("operations of %d bytes do not come back: %v", used, err)
		}
	})
}
