package pins

import (
	"encoding/hex"
	"fmt"
	"io"
)

// Digest is a SHA-256 digest. Its text form is lower-case hex.
type Digest [32]byte

// ParseDigest reads 64 lower-case hex digits.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if err := DecodeHex(d[:], s); err != nil {
		return Digest{}, fmt.Errorf("parsing SHA-256 digest: %w", err)
	}
	return d, nil
}

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText writes d as lower-case hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDigest.
func (d *Digest) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDigest(string(text))
	return err
}

// UUID identifies a disk: the UUID of its LUKS2 header. Its text form is the
// canonical lower-case one of RFC 9562, section 4.
type UUID [16]byte

// NewUUID makes a version 4 UUID (RFC 9562, section 5.4) from 16 bytes of rand.
func NewUUID(rand io.Reader) (UUID, error) {
	var u UUID
	if _, err := io.ReadFull(rand, u[:]); err != nil {
		return UUID{}, fmt.Errorf("reading randomness for a UUID: %w", err)
	}
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u, nil
}

// ParseUUID reads the canonical lower-case form, 8-4-4-4-12.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return UUID{}, fmt.Errorf("parsing UUID %q: want 8-4-4-4-12 hex digits", s)
	}
	if err := DecodeHex(u[:], s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:]); err != nil {
		return UUID{}, fmt.Errorf("parsing UUID %q: %w", s, err)
	}
	return u, nil
}

func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// MarshalText writes the canonical form.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText is ParseUUID.
func (u *UUID) UnmarshalText(text []byte) (err error) {
	*u, err = ParseUUID(string(text))
	return err
}

// HexBytes is a byte string whose text form is lower-case hex.
type HexBytes []byte

func (b HexBytes) String() string { return hex.EncodeToString(b) }

// MarshalText writes b as lower-case hex.
func (b HexBytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads lower-case hex.
func (b *HexBytes) UnmarshalText(text []byte) error {
	out := make([]byte, len(text)/2)
	if err := DecodeHex(out, string(text)); err != nil {
		return err
	}
	*b = out
	return nil
}
