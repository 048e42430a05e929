package luks2

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
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
	// Integrity is there in a volume's alone.
	Integrity *integrity `json:"integrity,omitempty"`
}

// integrity is what dm-integrity keeps for dm-crypt (LUKS2 spec, 3.3).
type integrity struct {
	Type              string `json:"type"`
	JournalEncryption string `json:"journal_encryption"`
	JournalIntegrity  string `json:"journal_integrity"`
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

// otherTypes returns an error if a segment or KDF in text has another type than the
// profile's. A section of another type has other members, too. An error about those
// members would hide the cause.
func otherTypes(text []byte) error {
	var errs []error
	segments := object(text)["segments"]
	for _, name := range names(segments) {
		errs = append(errs, typeIs("segments."+name, object(segments)[name], "crypt"))
	}
	keyslots := object(text)["keyslots"]
	for _, name := range names(keyslots) {
		errs = append(errs, typeIs("keyslots."+name+".kdf", object(object(keyslots)[name])["kdf"], "pbkdf2"))
	}
	return first(errs...)
}

// object returns the members of the object in text, if there is one.
func object(text []byte) map[string]json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(text, &members) != nil {
		return nil
	}
	return members
}

func names(text []byte) []string { return slices.Sorted(maps.Keys(object(text))) }

// typeIs checks the type of an object, if it has one.
func typeIs(name string, text []byte, want string) error {
	var got string
	if json.Unmarshal(object(text)["type"], &got) != nil {
		return nil
	}
	return is(name+".type", got, want)
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
