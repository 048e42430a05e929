package luks2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/rootvouch/rootvouch/pins"
)

// Offsets of the binary header (LUKS2 spec, 2.1, struct luks2_hdr_disk), in
// bytes. Integers are big-endian.
const (
	atMagic      = 0x00
	atVersion    = 0x06  // u16: 2
	atHeaderSize = 0x08  // u64: with the JSON area
	atSequenceID = 0x10  // u64
	atLabel      = 0x18  // 48 bytes
	atAlgorithm  = 0x48  // 32 bytes: "sha256"
	atSalt       = 0x68  // 64 bytes: makes two headers differ
	atUUID       = 0xa8  // 40 bytes: text
	atSubsystem  = 0xd0  // 48 bytes
	atOffset     = 0x100 // u64: of this header on the disk
	atPadding    = 0x108 // 184 bytes
	atChecksum   = 0x1c0 // 64 bytes: SHA-256 in the first 32
	atPadding2   = 0x200 // up to 4096
)

const (
	primaryMagic   = "LUKS\xba\xbe"
	secondaryMagic = "SKUL\xba\xbe"
)

// copyOf is one of the two headers: binary part and JSON text.
type copyOf struct {
	uuid       pins.UUID
	sequenceID uint64
	json       []byte
}

// parseCopy reads the primary (offset 0) or secondary header.
func parseCopy(b []byte, offset uint64) (copyOf, error) {
	magic := primaryMagic
	if offset != 0 {
		magic = secondaryMagic
	}
	if got := b[:atVersion]; string(got) != magic {
		return copyOf{}, fmt.Errorf("magic is %x, want %x", got, magic)
	}
	if got := binary.BigEndian.Uint16(b[atVersion:]); got != 2 {
		return copyOf{}, fmt.Errorf("LUKS version is %d, want 2", got)
	}
	if got := binary.BigEndian.Uint64(b[atHeaderSize:]); got != metadataSize {
		return copyOf{}, fmt.Errorf("hdr_size is %d, want %d", got, metadataSize)
	}
	if got := binary.BigEndian.Uint64(b[atOffset:]); got != offset {
		return copyOf{}, fmt.Errorf("hdr_offset is %d, want %d", got, offset)
	}
	if got := text(b[atAlgorithm:atSalt]); got != "sha256" {
		return copyOf{}, fmt.Errorf("csum_alg is %q, want %q", got, "sha256")
	}
	if got, want := b[atChecksum:][:sha256.Size], checksum(b); !bytes.Equal(got, want[:]) {
		return copyOf{}, fmt.Errorf("checksum does not match: csum is %x, want %x", got, want)
	}
	for _, f := range []struct {
		name       string
		start, end int
	}{
		{"label", atLabel, atAlgorithm},
		{"subsystem", atSubsystem, atOffset},
		{"padding before the checksum", atPadding, atChecksum},
		{"end of the checksum field", atChecksum + sha256.Size, atPadding2},
		{"padding after the checksum", atPadding2, binarySize},
	} {
		if at := nonZero(b[f.start:f.end]); at >= 0 {
			return copyOf{}, fmt.Errorf("%s is not zero: byte %#x is %#02x", f.name, f.start+at, b[f.start+at])
		}
	}
	c := copyOf{sequenceID: binary.BigEndian.Uint64(b[atSequenceID:])}
	if c.sequenceID == 0 {
		return copyOf{}, errors.New("seqid is 0, want at least 1")
	}
	var err error
	if c.uuid, err = pins.ParseUUID(text(b[atUUID:atSubsystem])); err != nil {
		return copyOf{}, fmt.Errorf("uuid: %w", err)
	}
	if c.uuid == (pins.UUID{}) {
		return copyOf{}, errors.New("uuid is all zero")
	}
	area := b[binarySize:metadataSize]
	end := bytes.IndexByte(area, 0)
	if end < 0 {
		return copyOf{}, errors.New("JSON area does not end in a zero byte")
	}
	if at := nonZero(area[end:]); at >= 0 {
		return copyOf{}, fmt.Errorf("JSON area has data after its end at byte %d: byte %d is %#02x, want 0", end, end+at, area[end+at])
	}
	c.json = area[:end]
	return c, nil
}

// writeCopy writes a header of metadataSize bytes.
func writeCopy(b []byte, c copyOf, salt []byte, offset uint64) {
	copy(b[atMagic:], primaryMagic)
	if offset != 0 {
		copy(b[atMagic:], secondaryMagic)
	}
	binary.BigEndian.PutUint16(b[atVersion:], 2)
	binary.BigEndian.PutUint64(b[atHeaderSize:], metadataSize)
	binary.BigEndian.PutUint64(b[atSequenceID:], c.sequenceID)
	copy(b[atAlgorithm:], "sha256")
	copy(b[atSalt:atUUID], salt)
	copy(b[atUUID:], c.uuid.String())
	binary.BigEndian.PutUint64(b[atOffset:], offset)
	copy(b[binarySize:], c.json)
	sum := checksum(b)
	copy(b[atChecksum:], sum[:])
}

// checksum is SHA-256 over a header with its checksum field zero.
func checksum(b []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(b[:atChecksum])
	h.Write(make([]byte, atPadding2-atChecksum))
	h.Write(b[atPadding2:metadataSize])
	return [sha256.Size]byte(h.Sum(nil))
}

// text reads a zero-padded field. Bytes after an inner zero byte stay in the text,
// so that no comparison with a wanted text succeeds.
func text(field []byte) string { return string(bytes.TrimRight(field, "\x00")) }

// nonZero returns the index of the first byte that is not zero, or -1.
func nonZero(b []byte) int {
	return slices.IndexFunc(b, func(c byte) bool { return c != 0 })
}
