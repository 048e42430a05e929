package kek

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rootvouch/rootvouch/internal/durable"
)

// Source says where the key-encryption key is: exactly one of the two.
type Source struct {
	// File is a file of Size bytes that nobody but its owner can read; the owner is
	// this process's user, or root.
	File string `json:"file,omitempty"`
	// Credential is the name of a systemd credential (systemd.exec(5),
	// LoadCredentialEncrypted=) of Size bytes.
	Credential string `json:"credential,omitempty"`
}

// Check reports whether s names one source.
func (s Source) Check() error {
	switch {
	case (s.File == "") == (s.Credential == ""):
		return errors.New("want exactly one of file and credential")
	case s.Credential != "" && (s.Credential != filepath.Base(s.Credential) || strings.HasPrefix(s.Credential, ".")):
		return fmt.Errorf("credential is %q, want a name", s.Credential)
	}
	return nil
}

// Load reads the key-encryption key. credentials is systemd's
// $CREDENTIALS_DIRECTORY, or empty.
func (s Source) Load(credentials string) (*KEK, error) {
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("loading key-encryption key: %v", err)
	}
	path, forbidden := s.File, os.FileMode(0o077)
	if s.Credential != "" {
		if credentials == "" {
			return nil, fmt.Errorf("loading key-encryption key: credential %q: $CREDENTIALS_DIRECTORY is not set", s.Credential)
		}
		// systemd gives a service's user access by an ACL, whose mask shows as
		// group permissions.
		path, forbidden = filepath.Join(credentials, s.Credential), 0o007
	}
	key, err := readSecret(path, forbidden)
	if err != nil {
		return nil, fmt.Errorf("loading key-encryption key: %w", err)
	}
	defer clear(key)
	k, err := New(key)
	if err != nil {
		return nil, fmt.Errorf("loading key-encryption key from %s: %v", path, err)
	}
	return k, nil
}

// readSecret reads a file of Size bytes with none of the forbidden permissions.
// Everything is checked on the opened file, so the name cannot be swapped between
// check and use.
func readSecret(path string, forbidden os.FileMode) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	case info.Mode().Perm()&forbidden != 0:
		return nil, fmt.Errorf("%s has mode %04o, want none of %04o", path, info.Mode().Perm(), forbidden)
	case owner != 0 && int(owner) != os.Geteuid():
		return nil, fmt.Errorf("%s belongs to user %d, want %d or 0", path, owner, os.Geteuid())
	case info.Size() != Size:
		return nil, fmt.Errorf("%s has %d bytes, want %d", path, info.Size(), Size)
	}
	key := make([]byte, Size)
	if _, err := io.ReadFull(f, key); err != nil {
		clear(key)
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return key, nil
}

// Create makes a new key-encryption key in a file of mode 0600. The error matches
// os.ErrExist when there is one already.
func Create(path string, rand io.Reader) error {
	key := make([]byte, Size)
	defer clear(key)
	if _, err := io.ReadFull(rand, key); err != nil {
		return fmt.Errorf("making key-encryption key: %v", err)
	}
	if err := durable.Create(path, key, 0o600); err != nil {
		return fmt.Errorf("making key-encryption key: %w", err)
	}
	return nil
}
