package volume

import (
	"fmt"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
)

const pinsVersion = 1

// Pins is what making a volume tells about it.
type Pins struct {
	Version int `json:"version"`
	pins.Header
	Size uint64 `json:"size"` // bytes
}

// NewPins are those of a volume with this header.
func NewPins(h pins.Header, size uint64) Pins { return Pins{pinsVersion, h, size} }

// Check reports whether p is complete.
func (p Pins) Check() error {
	if p.Version != pinsVersion {
		return fmt.Errorf("version is %d, want %d", p.Version, pinsVersion)
	}
	if err := p.Header.Check(); err != nil {
		return err
	}
	_, err := LayoutOf(p.Size)
	return err
}

// DataSize is how many bytes of data the volume has. p is complete.
func (p Pins) DataSize() uint64 {
	l, err := LayoutOf(p.Size)
	if err != nil {
		panic("volume: internal error: " + err.Error())
	}
	return l.DataSize
}

// DecodePins reads what Encode writes.
func DecodePins(data []byte) (Pins, error) {
	var p Pins
	if err := strictjson.Unmarshal(data, &p); err != nil {
		return Pins{}, fmt.Errorf("decoding pins of a volume: %w", err)
	}
	if err := p.Check(); err != nil {
		return Pins{}, fmt.Errorf("checking pins of a volume: %w", err)
	}
	return p, nil
}

// Encode writes them, indented, with a newline at the end.
func (p Pins) Encode() []byte {
	data, err := strictjson.MarshalIndent(p)
	if err != nil {
		panic("volume: internal error: " + err.Error())
	}
	return data
}
