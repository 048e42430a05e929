package luks2

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/rootvouch/rootvouch/internal/strictjson"
)

// metadata is the JSON area (LUKS2 spec, 3.1). The order of the fields is the
// order in which cryptsetup 2.6 writes them. Numbers of 64 bits are decimal
// strings there, smaller ones JSON numbers, byte strings base64.
type metadata struct {
	Keyslots map[string]keyslot `json:"keyslots"`
	Tokens   struct{}           `json:"tokens"`
	Segments map[string]segment `json:"segments"`
	Digests  map[string]digest  `json:"digests"`
	Config   config             `json:"config"`
}

type keyslot struct {
	Type    string `json:"type"`
	KeySize uint32 `json:"key_size"`
	AF      af     `json:"af"`
	Area    area   `json:"area"`
	KDF     kdf    `json:"kdf"`
}

type af struct {
	Type    string `json:"type"`
	Stripes uint32 `json:"stripes"`
	Hash    string `json:"hash"`
}

type area struct {
	Type       string `json:"type"`
	Offset     string `json:"offset"`
	Size       string `json:"size"`
	Encryption string `json:"encryption"`
	KeySize    uint32 `json:"key_size"`
}

type kdf struct {
	Type       string `json:"type"`
	Hash       string `json:"hash"`
	Iterations uint64 `json:"iterations"`
	Salt       string `json:"salt"`
}

type segment struct {
	Type       string `json:"type"`
	Offset     string `json:"offset"`
	Size       string `json:"size"`
	IVTweak    string `json:"iv_tweak"`
	Encryption string `json:"encryption"`
	SectorSize uint32 `json:"sector_size"`
}

type digest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations uint64   `json:"iterations"`
	Salt       string   `json:"salt"`
	Digest     string   `json:"digest"`
}

type config struct {
	JSONSize     string `json:"json_size"`
	KeyslotsSize string `json:"keyslots_size"`
}

// UnmarshalJSON looks at the type first: another type has other members, and the
// error should be about the type.
func (k *kdf) UnmarshalJSON(data []byte) error {
	type plain kdf
	return typed(data, (*plain)(k), "kdf", "pbkdf2")
}

// UnmarshalJSON is like kdf's.
func (s *segment) UnmarshalJSON(data []byte) error {
	type plain segment
	return typed(data, (*plain)(s), "segment", "crypt")
}

func typed(data []byte, v any, name, want string) error {
	var object struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(data, &object); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if object.Type != want {
		return fmt.Errorf("%s type is %q, want %q", name, object.Type, want)
	}
	if err := strictjson.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// encode writes the JSON area's text as cryptsetup does: compact, slashes not
// escaped.
func (m metadata) encode() []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(m); err != nil {
		panic("luks2: internal error: " + err.Error())
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}
