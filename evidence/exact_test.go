package evidence

import (
	"bytes"
	"slices"
	"testing"
)

// TestExact: what Encode writes is read without a JSON decoder.
func TestExact(t *testing.T) {
	for _, e := range []Evidence{
		{Report: []byte{1}},
		{Report: []byte{1, 2}, Certificates: [][]byte{{3}}},
		{Report: bytes.Repeat([]byte{0xfb}, 1184), Certificates: [][]byte{{3, 4}, bytes.Repeat([]byte{0xff}, 1500), {5}}},
	} {
		data, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		w, ok := exact(data)
		if !ok || !bytes.Equal(w.Report, e.Report) || !slices.EqualFunc(w.Certificates, e.Certificates, func(a base64ed, b []byte) bool { return bytes.Equal(a, b) }) {
			t.Errorf("got %x, %t, want %x", w, ok, e)
		}
		for _, bad := range [][]byte{data[:len(data)-1], append(bytes.Clone(data), ' '), bytes.Replace(data, []byte(`,"`), []byte(`, "`), 1)} {
			if w, ok := exact(bad); ok {
				t.Errorf("%q: got %x", bad, w)
			}
		}
	}
}
