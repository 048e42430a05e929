package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rootvouch/rootvouch/kms/keyapi"
)

// ReadKey reads a key of exactly keyapi.KeySize bytes. The caller wipes it.
func ReadKey(path string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	key := make([]byte, keyapi.KeySize+1)
	n, err := io.ReadFull(in, key)
	if n != keyapi.KeySize || !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(key)
		return nil, fmt.Errorf("key file %s does not have exactly %d bytes", path, keyapi.KeySize)
	}
	return key[:keyapi.KeySize], nil
}
