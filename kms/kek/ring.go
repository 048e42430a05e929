package kek

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
)

// Sealer seals small secrets. It is a KEK in this process, or a provider that keeps its key
// elsewhere.
type Sealer interface {
	// Seal seals secret with the associated data about.
	Seal(rand io.Reader, secret []byte, about AAD) ([]byte, error)
	// Open opens what Seal made, if about is equal. The error matches ErrWrongKey if the secret
	// can never be opened; any other error may pass. The caller wipes the result.
	Open(sealed []byte, about AAD) ([]byte, error)
}

var _ Sealer = (*KEK)(nil)

// ErrUnknownKEK says that the key-encryption key of a secret is not configured.
var ErrUnknownKEK = errors.New("key-encryption key is not in the configuration")

// Sealed is a sealed secret, with the name of its key-encryption key.
type Sealed struct {
	KEK  string `json:"kek"`
	Data []byte `json:"data"`
}

// Ring has key-encryption keys by name. One of them seals. All of them open.
type Ring struct {
	current string
	names   []string
	keys    map[string]Sealer // :: name -> the key
}

// DefaultName is the name of a key-encryption key without a name in the configuration.
const DefaultName = "main"

var keyName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CheckName returns an error unless name is valid for a key-encryption key.
func CheckName(name string) error {
	if !keyName.MatchString(name) {
		return fmt.Errorf("name of a key-encryption key is %q, want lower-case letters, digits, dots and dashes, at most 63", name)
	}
	return nil
}

// NewRing makes a Ring with one key, which seals.
func NewRing(name string, key Sealer) *Ring {
	return &Ring{name, []string{name}, map[string]Sealer{name: key}}
}

// Add adds a key that opens older seals.
func (r *Ring) Add(name string, key Sealer) error {
	if r.Has(name) {
		return fmt.Errorf("there are two key-encryption keys %q", name)
	}
	r.names, r.keys[name] = append(r.names, name), key
	return nil
}

// Current returns the name of the key that seals.
func (r *Ring) Current() string { return r.current }

// Names returns the names of all keys. The first one seals.
func (r *Ring) Names() []string { return slices.Clone(r.names) }

// Has reports whether the ring has a key with this name.
func (r *Ring) Has(name string) bool { return r.keys[name] != nil }

// Seal seals secret under the current key.
func (r *Ring) Seal(rand io.Reader, secret []byte, about AAD) (Sealed, error) {
	data, err := r.keys[r.current].Seal(rand, secret, about)
	if err != nil {
		return Sealed{}, fmt.Errorf("sealing under key-encryption key %q: %w", r.current, err)
	}
	return Sealed{r.current, data}, nil
}

// Open opens a sealed secret. The error matches ErrWrongKey if the seal was changed or its
// associated data differ, and ErrUnknownKEK if the ring lacks its key. Any other error may
// pass.
func (r *Ring) Open(s Sealed, about AAD) ([]byte, error) {
	key := r.keys[s.KEK]
	if key == nil {
		return nil, fmt.Errorf("%w: %.70q", ErrUnknownKEK, s.KEK)
	}
	return key.Open(s.Data, about)
}
