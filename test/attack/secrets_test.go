package attack

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	secret := make([]byte, 64)
	for i := range secret {
		secret[i] = byte(i*37 + 11)
	}
	all := []Secret{{"key", secret}, {"other", []byte(strings.Repeat("another secret, ", 4))}}
	registers := ""
	for at := 16; at < 32; at += 8 {
		registers += fmt.Sprintf("R%02d: %s ", at, word(secret[at:at+8]))
	}
	for form, text := range map[string]string{
		"as it is":       "x" + string(secret[16:32]) + "y",
		"in hexadecimal": "KEY=" + strings.ToUpper(hex.EncodeToString(secret)),
		"in registers":   "RSP: 0018:ffff " + registers,
	} {
		if got := Find([]byte(text), all); len(got) != 1 || got[0] != "key "+form {
			t.Errorf("%s: got %v", form, got)
		}
	}
	dump := ""
	for _, b := range secret {
		dump += fmt.Sprintf("%02x ", b)
	}
	if got := Find([]byte(dump), all); len(got) != 1 || got[0] != "key in hexadecimal" {
		t.Errorf("dump: got %v", got)
	}
	for shift := range 3 {
		for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			text := "t=" + e.EncodeToString(append(make([]byte, shift), secret...))
			if got := Find([]byte(text), all); len(got) != 1 || got[0] != "key in base64" {
				t.Errorf("base64 at %d: got %v", shift, got)
			}
		}
	}
	if got := Find([]byte(strings.Repeat("nothing of it ", 100)+string(secret[:15])), all); len(got) != 0 {
		t.Errorf("nothing: got %v", got)
	}
}
