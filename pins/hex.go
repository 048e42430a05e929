package pins

import (
	"encoding/hex"
	"fmt"
)

// DecodeHex fills dst from exactly 2*len(dst) digits: lower-case hex, so that one
// value has one text. If text is anything else, dst keeps what it holds.
func DecodeHex[T string | []byte](dst []byte, text T) error {
	if len(text) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("got %d characters, want %d lower-case hex digits", len(text), hex.EncodedLen(len(dst)))
	}
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("got %q at position %d, want a lower-case hex digit", c, i)
		}
	}
	_, err := hex.Decode(dst, []byte(text))
	return err
}
