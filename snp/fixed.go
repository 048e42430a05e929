package snp

import (
	"encoding/hex"
	"fmt"

	"github.com/rootvouch/rootvouch/pins"
)

// The byte strings of fixed size that a report carries. Each is written as
// lower-case hex, and read back from exactly that form.
type (
	// Measurement is MEASUREMENT, the launch digest (SHA-384).
	Measurement [48]byte
	// KeyDigest is ID_KEY_DIGEST or AUTHOR_KEY_DIGEST: SHA-384 over a public
	// key in AMD's format. All zero means that the launch had no such key.
	KeyDigest [48]byte
	// ChipID is CHIP_ID. Turin uses its first 8 bytes, the rest is zero; all
	// of it is zero when the host masks it.
	ChipID [64]byte
	// ReportData is REPORT_DATA, the bytes that the guest chose.
	ReportData [64]byte
	// HostData is HOST_DATA, the bytes that the host chose at launch.
	HostData [32]byte
	// ReportID is REPORT_ID or REPORT_ID_MA. The AMD-SP draws a new one for
	// each launch, so it names one run of one guest.
	ReportID [32]byte
	// GuestID is FAMILY_ID or IMAGE_ID, from the ID block.
	GuestID [16]byte
)

func (x Measurement) String() string { return hex.EncodeToString(x[:]) }
func (x KeyDigest) String() string   { return hex.EncodeToString(x[:]) }
func (x ChipID) String() string      { return hex.EncodeToString(x[:]) }
func (x ReportData) String() string  { return hex.EncodeToString(x[:]) }
func (x HostData) String() string    { return hex.EncodeToString(x[:]) }
func (x ReportID) String() string    { return hex.EncodeToString(x[:]) }
func (x GuestID) String() string     { return hex.EncodeToString(x[:]) }

// MarshalText returns x in lower-case hex.
func (x Measurement) MarshalText() ([]byte, error) { return []byte(x.String()), nil }

// MarshalText returns x in lower-case hex.
func (x KeyDigest) MarshalText() ([]byte, error) { return []byte(x.String()), nil }

// MarshalText returns x in lower-case hex.
func (x ChipID) MarshalText() ([]byte, error) { return []byte(x.String()), nil }

// MarshalText returns x in lower-case hex.
func (x ReportData) MarshalText() ([]byte, error) { return []byte(x.String()), nil }

// MarshalText returns x in lower-case hex.
func (x HostData) MarshalText() ([]byte, error) { return []byte(x.String()), nil }

// MarshalText returns x in lower-case hex.
func (x ReportID) MarshalText() ([]byte, error) { return []byte(x.String()), nil }

// MarshalText returns x in lower-case hex.
func (x GuestID) MarshalText() ([]byte, error) { return []byte(x.String()), nil }

// UnmarshalText sets x from 96 lower-case hex digits.
func (x *Measurement) UnmarshalText(text []byte) error { return pins.DecodeHex(x[:], text) }

// UnmarshalText sets x from 96 lower-case hex digits.
func (x *KeyDigest) UnmarshalText(text []byte) error { return pins.DecodeHex(x[:], text) }

// UnmarshalText sets x from 128 lower-case hex digits.
func (x *ChipID) UnmarshalText(text []byte) error { return pins.DecodeHex(x[:], text) }

// UnmarshalText sets x from 128 lower-case hex digits.
func (x *ReportData) UnmarshalText(text []byte) error { return pins.DecodeHex(x[:], text) }

// UnmarshalText sets x from 64 lower-case hex digits.
func (x *HostData) UnmarshalText(text []byte) error { return pins.DecodeHex(x[:], text) }

// UnmarshalText sets x from 64 lower-case hex digits.
func (x *ReportID) UnmarshalText(text []byte) error { return pins.DecodeHex(x[:], text) }

// UnmarshalText sets x from 32 lower-case hex digits.
func (x *GuestID) UnmarshalText(text []byte) error { return pins.DecodeHex(x[:], text) }

// ParseMeasurement reads a launch digest from 96 lower-case hex digits.
func ParseMeasurement(s string) (Measurement, error) {
	var m Measurement
	if err := m.UnmarshalText([]byte(s)); err != nil {
		return Measurement{}, fmt.Errorf("parsing measurement: %v", err)
	}
	return m, nil
}
