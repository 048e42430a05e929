package luks2

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
)

// metadata is the JSON area (LUKS2 spec, 3.1). The order of the fields is the
// order in which cryptsetup 2.6 writes them. Numbers of 64 bits are strings
// there ("string uint64"), smaller ones are JSON numbers.
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
	Type       string  `json:"type"`
	Offset     decimal `json:"offset"`
	Size       decimal `json:"size"`
	Encryption string  `json:"encryption"`
	KeySize    uint32  `json:"key_size"`
}

type kdf struct {
	Type       string   `json:"type"`
	Hash       string   `json:"hash"`
	Iterations uint64   `json:"iterations"`
	Salt       base64ed `json:"salt"`
}

type segment struct {
	Type       string  `json:"type"`
	Offset     decimal `json:"offset"`
	Size       string  `json:"size"`
	IVTweak    decimal `json:"iv_tweak"`
	Encryption string  `json:"encryption"`
	SectorSize uint32  `json:"sector_size"`
}

type digest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations uint64   `json:"iterations"`
	Salt       base64ed `json:"salt"`
	Digest     base64ed `json:"digest"`
}

type config struct {
	JSONSize     decimal `json:"json_size"`
	KeyslotsSize decimal `json:"keyslots_size"`
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

// decimal is a "string uint64": canonical decimal digits.
type decimal uint64

func (d decimal) MarshalText() ([]byte, error) { return strconv.AppendUint(nil, uint64(d), 10), nil }

func (d *decimal) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != string(text) {
		return fmt.Errorf("got %q, want a decimal number of 64 bits", text)
	}
	*d = decimal(n)
	return nil
}

// base64ed is a byte string in standard base64 with padding, in its only
// spelling.
type base64ed []byte

func (b base64ed) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

func (b *base64ed) UnmarshalText(text []byte) error {
	data, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || base64.StdEncoding.EncodeToString(data) != string(text) {
		return fmt.Errorf("got %q, want canonical base64", text)
	}
	*b = data
	return nil
}
