package evidence

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Kind is the form of a report inside evidence. The verifier chooses the form. If
// the guest chose, it could take the form with the weakest binding.
type Kind int

const (
	// Plain is the report itself, with a REPORT_DATA that the guest chose: bare
	// metal, AWS, GCP.
	Plain Kind = iota
	// AzureHCL is the blob in which Azure's paravisor (HCL) keeps a report. The
	// paravisor fills REPORT_DATA with a hash of its runtime data. The runtime data
	// contain the 64 bytes that the guest chose.
	AzureHCL
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case Plain:
		return "plain"
	case AzureHCL:
		return "azure-hcl"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// ParseKind reads "plain" or "azure-hcl".
func ParseKind(s string) (Kind, error) {
	for _, k := range []Kind{Plain, AzureHCL} {
		if s == k.String() {
			return k, nil
		}
	}
	return 0, fmt.Errorf("parsing kind of evidence: got %q, want plain or azure-hcl", s)
}

// The layout of an HCL blob, little-endian throughout (Microsoft, OpenHCL's
// attestation report and IGVM_REQUEST_DATA structures). The versions of header and
// request data are independent: VMs on Milan write 1 and 1, on Genoa 2 and 1. In
// version 2 the request data may have a bitmap of four bytes between the fields and
// the runtime data.
const (
	hclMagic         = "HCLA"
	hclMaxVersion    = 2  // of header and request data
	hclTypeReport    = 2  // request_type: certificate of the attestation key
	hclHeader        = 32 // magic, version, size, request type, status, 12 reserved bytes
	hclReport        = 0x4a0
	hclRuntime       = hclHeader + hclReport
	hclRuntimeHeader = 20 // size, version, report type, hash type, size of the data
	hclCapabilities  = 4  // the bitmap, request data version 2
	hclRuntimeSNP    = 2
)

// HCL is an unwrapped Azure HCL blob.
type HCL struct {
	Report      []byte // the attestation report, 1184 bytes, not parsed
	RuntimeData []byte // JSON by the paravisor, with keys of the virtual TPM

	hash func([]byte) []byte // of the runtime data
}

// ParseHCL unwraps an HCL blob. All bytes after the runtime data must be zero: the
// TPM index that holds the blob has a fixed size.
func ParseHCL(b []byte) (HCL, error) {
	if len(b) < hclRuntime+hclRuntimeHeader || len(b) > MaxReport {
		return HCL{}, fmt.Errorf("parsing HCL blob: got %d bytes, want %d to %d", len(b), hclRuntime+hclRuntimeHeader, MaxReport)
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	if string(b[:4]) != hclMagic {
		return HCL{}, fmt.Errorf("parsing HCL blob: magic is %q, want %q", b[:4], hclMagic)
	}
	for _, f := range []struct {
		name string
		at   int
	}{{"version", 4}, {"runtime version", hclRuntime + 4}} {
		if v := u32(f.at); v < 1 || v > hclMaxVersion {
			return HCL{}, fmt.Errorf("parsing HCL blob: %s at %#x is %d, want 1 to %d", f.name, f.at, v, hclMaxVersion)
		}
	}
	// size is the length of the runtime data, and own the length of the request
	// data's fields before it.
	size, own := uint64(u32(hclRuntime+16)), uint64(hclRuntimeHeader)
	if total := uint64(u32(hclRuntime)); u32(hclRuntime+4) >= 2 && total == own+hclCapabilities+size {
		own += hclCapabilities
	}
	if size > uint64(len(b)-hclRuntime) || own+size > uint64(len(b)-hclRuntime) {
		return HCL{}, fmt.Errorf("parsing HCL blob: runtime data has %d bytes, want at most %d", size, len(b)-hclRuntime-hclRuntimeHeader)
	}
	start := hclRuntime + int(own)
	end := start + int(size)
	for _, f := range []struct {
		name string
		at   int
		want uint32
	}{
		{"report size", 8, uint32(end)},
		{"request type", 12, hclTypeReport},
		{"status", 16, 0},
		{"reserved", 20, 0}, {"reserved", 24, 0}, {"reserved", 28, 0},
		{"runtime size", hclRuntime, uint32(own + size)},
		{"runtime report type", hclRuntime + 8, hclRuntimeSNP},
	} {
		if got := u32(f.at); got != f.want {
			return HCL{}, fmt.Errorf("parsing HCL blob: %s at %#x is %d, want %d", f.name, f.at, got, f.want)
		}
	}
	hash, ok := runtimeHash(u32(hclRuntime + 12))
	if !ok {
		return HCL{}, fmt.Errorf("parsing HCL blob: runtime hash type at %#x is %d, want 1 (SHA-256), 2 (SHA-384) or 3 (SHA-512)", hclRuntime+12, u32(hclRuntime+12))
	}
	if len(bytes.Trim(b[end:], "\x00")) != 0 {
		return HCL{}, fmt.Errorf("parsing HCL blob: bytes after %#x are not zero", end)
	}
	return HCL{Report: bytes.Clone(b[hclHeader:hclRuntime]), RuntimeData: bytes.Clone(b[start:end]), hash: hash}, nil
}

// runtimeHash returns the hash function with that number.
func runtimeHash(number uint32) (hash func([]byte) []byte, ok bool) {
	switch number {
	case 1:
		return func(b []byte) []byte { sum := sha256.Sum256(b); return sum[:] }, true
	case 2:
		return func(b []byte) []byte { sum := sha512.Sum384(b); return sum[:] }, true
	case 3:
		return func(b []byte) []byte { sum := sha512.Sum512(b); return sum[:] }, true
	}
	return nil, false
}

// RuntimeBinding returns the REPORT_DATA that binds the runtime data: its hash,
// then zeros.
func (h HCL) RuntimeBinding() [64]byte {
	var want [64]byte
	copy(want[:], h.hash(h.RuntimeData))
	return want
}

// UserData returns the 64 bytes that the guest wrote to the paravisor. The runtime
// data have them as hex under "user-data". UserData ignores other members of the
// runtime data, but refuses data in which a member occurs twice.
func (h HCL) UserData() ([64]byte, error) {
	text, err := topLevelString(h.RuntimeData, "user-data")
	if err != nil {
		return [64]byte{}, fmt.Errorf("reading HCL runtime data: %v", err)
	}
	var data [64]byte
	if len(text) != 2*len(data) {
		return [64]byte{}, fmt.Errorf("reading HCL runtime data: user-data has %d digits, want %d", len(text), 2*len(data))
	}
	if _, err := hex.Decode(data[:], []byte(text)); err != nil {
		return [64]byte{}, fmt.Errorf("reading HCL runtime data: user-data: %v", err)
	}
	return data, nil
}

// topLevelString returns the string member of a JSON object with exactly that name.
// The object must have the member once.
func topLevelString(doc []byte, name string) (string, error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return "", fmt.Errorf("got no JSON object")
	}
	seen := make(map[string]json.RawMessage) // :: member -> value
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return "", err
		}
		key, ok := t.(string)
		if _, twice := seen[key]; !ok || twice {
			return "", fmt.Errorf("member %q occurs twice", key)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return "", err
		}
		seen[key] = value
	}
	if _, err := d.Token(); err != nil {
		return "", err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("got data after the JSON object")
	}
	raw, ok := seen[name]
	if !ok {
		return "", fmt.Errorf("member %q is missing", name)
	}
	var value string
	if err := json.Unmarshal(raw, &value); err != nil {
		return "", fmt.Errorf("member %q is not a string", name)
	}
	return value, nil
}
