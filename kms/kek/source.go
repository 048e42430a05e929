package kek

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/rootvouch/rootvouch/internal/durable"
)

// Source says where a key-encryption key is. Exactly one of File, Credential, Program and
// Transit is set.
type Source struct {
	// Name is stored with each seal; absent: DefaultName.
	Name string `json:"name,omitempty"`
	// File is a file of Size bytes that only its owner can read. The owner is this process's
	// user or root.
	File string `json:"file,omitempty"`
	// Credential is the name of a systemd credential (systemd.exec(5),
	// LoadCredentialEncrypted=) of Size bytes.
	Credential string `json:"credential,omitempty"`
	// Program is a provider: a program and its arguments (docs/spec/kek.md).
	Program []string `json:"program,omitempty"`
	// Transit is a server with the transit API of Vault and OpenBao.
	Transit *Transit `json:"transit,omitempty"`

	// WrappedFile has a key-encryption key that Program or Transit sealed. The provider opens
	// it once, at start. The alternative is PerRelease: the provider opens the key of each
	// release.
	WrappedFile string `json:"wrapped_file,omitempty"`
	PerRelease  bool   `json:"per_release,omitempty"`
}

// Title returns the name of the key.
func (s Source) Title() string {
	if s.Name == "" {
		return DefaultName
	}
	return s.Name
}

// Check returns an error unless s names exactly one source.
func (s Source) Check() error {
	if err := CheckName(s.Title()); err != nil {
		return err
	}
	given := 0
	for _, is := range []bool{s.File != "", s.Credential != "", s.Program != nil, s.Transit != nil} {
		if is {
			given++
		}
	}
	provided := s.Program != nil || s.Transit != nil
	switch {
	case given != 1:
		return errors.New("want exactly one of file, credential, program and transit")
	case s.Credential != "" && (s.Credential != filepath.Base(s.Credential) || strings.HasPrefix(s.Credential, ".")):
		return fmt.Errorf("credential is %q, want a name", s.Credential)
	case s.Program != nil && (len(s.Program) == 0 || !filepath.IsAbs(s.Program[0])):
		return fmt.Errorf("program is %q, want an absolute path, and arguments", s.Program)
	case !provided && (s.WrappedFile != "" || s.PerRelease):
		return errors.New("wrapped_file and per_release go with program or transit")
	case provided && (s.WrappedFile != "") == s.PerRelease:
		return errors.New("want exactly one of wrapped_file and per_release")
	case s.Transit != nil:
		return s.Transit.check()
	}
	return nil
}

// Loaded is a key-encryption key that is ready for use until Close.
type Loaded struct {
	Sealer
	io.Closer
}

type nothing struct{}

func (nothing) Close() error { return nil }

// Load makes the key-encryption key ready. credentials is systemd's $CREDENTIALS_DIRECTORY, or
// empty. ctx bounds the time for a provider to open the key.
func (s Source) Load(ctx context.Context, credentials string) (Loaded, error) {
	k, err := s.load(ctx, credentials)
	if err != nil {
		return Loaded{}, fmt.Errorf("loading key-encryption key %q: %w", s.Title(), err)
	}
	return k, nil
}

func (s Source) load(ctx context.Context, credentials string) (Loaded, error) {
	if err := s.Check(); err != nil {
		return Loaded{}, err
	}
	if s.Program == nil && s.Transit == nil {
		k, err := s.loadHere(credentials)
		return Loaded{k, nothing{}}, err
	}
	keeper := s.keeper()
	if s.PerRelease {
		return Loaded{keeper, keeper}, nil
	}
	defer keeper.Close()
	sealed, err := os.ReadFile(s.WrappedFile)
	if err != nil {
		return Loaded{}, err
	}
	key, err := openWithin(ctx, keeper, sealed, About(wrappedLabel, []byte(s.Title())))
	if err != nil {
		return Loaded{}, fmt.Errorf("opening %s: %w", s.WrappedFile, err)
	}
	defer clear(key)
	k, err := New(key)
	return Loaded{k, nothing{}}, err
}

// openWithin lets a keeper open a secret, unless ctx ends first.
func openWithin(ctx context.Context, k keeper, sealed []byte, about AAD) ([]byte, error) {
	type result struct {
		key []byte
		err error
	}
	opened := make(chan result, 1)
	go func() {
		key, err := k.Open(sealed, about)
		opened <- result{key, err}
	}()
	select {
	case r := <-opened:
		return r.key, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// wrappedLabel begins the associated data of a key-encryption key that a provider seals.
const wrappedLabel = "rootvouch kms key-encryption key v1"

// keeper is a provider that keeps a key elsewhere.
type keeper interface {
	Sealer
	io.Closer
}

func (s Source) keeper() keeper {
	if s.Transit != nil {
		return newTransit(*s.Transit)
	}
	return &program{argv: s.Program}
}

// loadHere reads a key from a file or a credential.
func (s Source) loadHere(credentials string) (*KEK, error) {
	path, forbidden := s.File, os.FileMode(0o077)
	if s.Credential != "" {
		if credentials == "" {
			return nil, fmt.Errorf("credential %q: $CREDENTIALS_DIRECTORY is not set", s.Credential)
		}
		// systemd gives a service's user access by an ACL. The ACL's mask shows as group
		// permissions.
		path, forbidden = filepath.Join(credentials, s.Credential), 0o007
	}
	key, err := readSecret(path, forbidden)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	k, err := New(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %v", path, err)
	}
	return k, nil
}

// Create makes a new key-encryption key: in a file of mode 0600, or sealed by a provider. It
// returns the file's path, or "" if the source needs no file. The error matches os.ErrExist if
// the file exists.
func (s Source) Create(rand io.Reader) (made string, err error) {
	if err := s.Check(); err != nil {
		return "", fmt.Errorf("making key-encryption key: %w", err)
	}
	key := make([]byte, Size)
	defer clear(key)
	if _, err := io.ReadFull(rand, key); err != nil {
		return "", fmt.Errorf("making key-encryption key: %v", err)
	}
	data, path := key, s.File
	if s.WrappedFile != "" {
		path = s.WrappedFile
		if _, err := os.Lstat(path); err == nil {
			return "", fmt.Errorf("making key-encryption key: %w", &os.PathError{Op: "creating", Path: path, Err: os.ErrExist})
		}
		keeper := s.keeper()
		defer keeper.Close()
		if data, err = keeper.Seal(rand, key, About(wrappedLabel, []byte(s.Title()))); err != nil {
			return "", fmt.Errorf("making key-encryption key: %w", err)
		}
	}
	if path == "" {
		return "", nil
	}
	if err := durable.Create(path, data, 0o600); err != nil {
		return "", fmt.Errorf("making key-encryption key: %w", err)
	}
	return path, nil
}
