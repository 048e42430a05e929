package attack

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
)

// Secret is a value that must not appear where the host can read it.
type Secret struct {
	Name  string
	Bytes []byte // at least 32
}

// piece is the number of consecutive bytes of a secret that count as the secret.
const piece = 16

// Find returns the names of the secrets of which data contains a piece, with the
// form of the piece: raw, hexadecimal, base64 at any alignment, or the words of a
// register dump, whose bytes are in reverse order.
func Find(data []byte, secrets []Secret) (found []string) {
	lower := bytes.ToLower(data)
	tight := removeSpace(lower)
	for _, s := range secrets {
		for at := 0; at+piece <= len(s.Bytes); at += piece {
			p := s.Bytes[at : at+piece]
			switch {
			case bytes.Contains(data, p):
				found = append(found, s.Name+" as it is")
			case bytes.Contains(tight, []byte(hex.EncodeToString(p))):
				found = append(found, s.Name+" in hexadecimal")
			case bytes.Contains(lower, word(p[:8])) && bytes.Contains(lower, word(p[8:])):
				found = append(found, s.Name+" in registers")
			case hasBase64(data, p):
				found = append(found, s.Name+" in base64")
			default:
				continue
			}
			break
		}
	}
	return found
}

func word(b []byte) []byte {
	b = slices.Clone(b)
	slices.Reverse(b)
	return []byte(hex.EncodeToString(b))
}

// removeSpace drops the separators between the bytes of a hexadecimal dump.
func removeSpace(b []byte) []byte {
	return []byte(strings.NewReplacer(" ", "", ":", "", "\n", "", "\r", "", "\t", "").Replace(string(b)))
}

// hasBase64 looks for p at each of the three places in a group of base64, less
// the digits that its neighbours share.
func hasBase64(data, p []byte) bool {
	for shift := range 3 {
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), p...))
		text = text[(shift*8+5)/6 : len(text)-1]
		url := strings.NewReplacer("+", "-", "/", "_").Replace(text)
		if bytes.Contains(data, []byte(text)) || bytes.Contains(data, []byte(url)) {
			return true
		}
	}
	return false
}
