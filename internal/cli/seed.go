package cli

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// maxSeedFile is the most that a file of a seed holds, in bytes of hex.
const maxSeedFile = 64 << 10

// ReadSeed reads hex, or with "@NAME" a file of it. The caller wipes it.
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
		return nil, errors.New("the seed is not hex") // and is not shown
	}
	return seed, nil
}
