package release

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"

	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/luks2"
)

// maxIdentities bounds a file of age identities, in bytes.
const maxIdentities = 64 << 10

// SealKey writes a disk's key into the release's directory, for the recipients only:
// age X25519 recipients, as age-keygen prints them.
func SealKey(path string, key []byte, recipients []string) error {
	var all []age.Recipient
	for _, text := range recipients {
		r, err := age.ParseX25519Recipient(text)
		if err != nil {
			return fmt.Errorf("reading age recipient %q: %w", text, err)
		}
		all = append(all, r)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, all...)
	if err == nil {
		_, err = w.Write(key)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		return fmt.Errorf("sealing the key: %w", err)
	}
	return durable.Create(path, sealed.Bytes(), 0o600)
}

// OpenKey reads a sealed key with the identities of a file, as age-keygen writes it.
// The caller wipes the key.
func OpenKey(path, identities string) ([]byte, error) {
	file, err := os.Open(identities)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	all, err := age.ParseIdentities(io.LimitReader(file, maxIdentities))
	if err != nil {
		return nil, fmt.Errorf("reading age identities in %s: %w", identities, err)
	}
	sealed, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), all...)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	key := make([]byte, luks2.PassphraseSize+1)
	n, err := io.ReadFull(r, key)
	if n != luks2.PassphraseSize || !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(key)
		return nil, fmt.Errorf("opening %s: it does not have exactly %d bytes in it", path, luks2.PassphraseSize)
	}
	return key[:n], nil
}
