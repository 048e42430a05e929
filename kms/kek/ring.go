package kek

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
)

// Sealer seals small secrets: a KEK that is here, or one that somebody else keeps.
type Sealer interface {
	// Seal seals secret for what about says.
	Seal(rand io.Reader, secret []byte, about AAD) ([]byte, error)
	// Open opens what Seal made, for an equal about alone. The error matches ErrWrongKey
	// where that can never be; any other may pass. The caller wipes the result.
	Open(sealed []byte, about AAD) ([]byte, error)
}

var _ Sealer = (*KEK)(nil)

// ErrUnknownKEK says that a secret is sealed under a key-encryption key that is not there.
var ErrUnknownKEK = errors.New("key-encryption key is not in the configuration")

// Sealed is a sealed secret, with the name of the key-encryption key that opens it.
type Sealed struct {
	KEK  string `json:"kek"`
	Data []byte `json:"data"`
}

// Ring has key-encryption keys by name. One of them seals; all of them open.
type Ring struct {
	current string
	names   []string
	keys    map[string]Sealer // :: name -> the key
}

// DefaultName is the name of a key-encryption key that was given none.
const DefaultName = "main"

var keyName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CheckName reports whether name can be a key-encryption key's.
func CheckName(name string) error {
	if !keyName.MatchString(name) {
		return fmt.Errorf("name of a key-encryption key is %q, want lower-case letters, digits, dots and dashes, at most 63", name)
	}
	return nil
}

// NewRing makes a Ring whose one key seals.
func NewRing(name string, key Sealer) *Ring {
	return &Ring{name, []string{name}, map[string]Sealer{name: key}}
}

// Add adds a key that opens what it sealed before.
func (r *Ring) Add(name string, key Sealer) error {
	if r.Has(name) {
		return fmt.Errorf("there are two key-encryption keys %q", name)
	}
	r.names, r.keys[name] = append(r.names, name), key
	return nil
}

// Current is the name of the key that seals.
func (r *Ring) Current() string { return r.current }

// Names are those of all keys; the first one seals.
func (r *Ring) Names() []string { return slices.Clone(r.names) }

// Has reports whether there is a key with a name.
func (r *Ring) Has(name string) bool { return r.keys[name] != nil }

// Seal seals secret under the current key.
func (r *Ring) Seal(rand io.Reader, secret []byte, about AAD) (Sealed, error) {
	data, err := r.keys[r.current].Seal(rand, secret, about)
	if err != nil {
		return Sealed{}, fmt.Errorf("sealing under key-encryption key %q: %w", r.current, err)
	}
	return Sealed{r.current, data}, nil
}

// Open opens a sealed secret. The error matches ErrWrongKey where it was changed, or sealed
// for something else, and ErrUnknownKEK where its key is not there; any other may pass.
func (r *Ring) Open(s Sealed, about AAD) ([]byte, error) {
	key := r.keys[s.KEK]
	if key == nil {
		return nil, fmt.Errorf("%w: %.70q", ErrUnknownKEK, s.KEK)
	}
	return key.Open(s.Data, about)
}
