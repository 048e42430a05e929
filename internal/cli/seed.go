package cli

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// maxSeedFile bounds a seed file in bytes of hex.
const maxSeedFile = 64 << 10

// ReadSeed decodes hex, or a file of hex after "@". The caller wipes the result.
func ReadSeed(s string) ([]byte, error) {
	if name, ok := strings.CutPrefix(s, "@"); ok {
		data, err := ReadInput(name, maxSeedFile)
		if err != nil {
			return nil, fmt.Errorf("reading the seed: %w", err)
		}
		s = strings.TrimSpace(string(data))
	}
	seed, err := hex.DecodeString(s)
	if err != nil {
		return nil, errors.New("the seed is not hex") // the error must not show it
	}
	return seed, nil
}
