package pins

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func TestDecodeHex(t *testing.T) {
	dst := make([]byte, 3)
	if err := DecodeHex(dst, "00af9e"); err != nil || !bytes.Equal(dst, []byte{0, 0xaf, 0x9e}) {
		t.Errorf("got %x, %v", dst, err)
	}
	if err := DecodeHex(dst, []byte("0102ff")); err != nil || !bytes.Equal(dst, []byte{1, 2, 0xff}) {
		t.Errorf("got %x, %v", dst, err)
	}
	for text, want := range map[string]string{
		"": "got 0 characters, want 6 lower-case hex digits", "01020": "got 5", "01020304": "got 8",
		"0102FF": `got 'F' at position 4, want a lower-case hex digit`, "0x0102": `got 'x'`, "01 02f": `got ' '`, "01020g": `got 'g'`, "é0102": `got 'Ã'`,
	} {
		if err := DecodeHex(dst, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want %s", text, err, want)
		}
		if !bytes.Equal(dst, []byte{1, 2, 0xff}) {
			t.Errorf("%q changed the value to %x", text, dst)
		}
	}
}

// What decodes is written back as the same text.
func FuzzDecodeHex(f *testing.F) {
	f.Add("00af9e")
	f.Fuzz(func(t *testing.T, text string) {
		dst := make([]byte, len(text)/2)
		if DecodeHex(dst, text) == nil && hex.EncodeToString(dst) != text {
			t.Errorf("%q decodes to %x", text, dst)
		}
	})
}
