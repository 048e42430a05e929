package keyapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/rootvouch/rootvouch/pins"
)

// KeySize is the size in bytes of a disk's key: the passphrase of its one keyslot.
const KeySize = 32

// maxKMSID is the most bytes that a SPIFFE ID may have (SPIFFE-ID, section 2.3).
const maxKMSID = 2048

// Offsets of a Released, in bytes; integers are big-endian.
const (
	releasedMagic   = "rvkey\x00\x00\x01" // 0x00: magic and version 1
	volumeMagic     = "rvkey\x00\x00\x02" // magic of a volume, whose part follows the SPIFFE ID
	offKey          = 0x08                // the disk's key
	offDiskUUID     = 0x28                // header pin: LUKS2 UUID
	offHeaderSHA256 = 0x38                // header pin: SHA-256 of the LUKS2 header region
	offGeneration   = 0x58                // uint64
	offKMSIDSize    = 0x60                // uint16, bytes
	offKMSID        = 0x62                // SPIFFE ID of the key server
)

// MaxReleasedSize is the size in bytes of the longest Released. A reader of a pipe needs it.
const MaxReleasedSize = offKMSID + maxKMSID + volumeSize

// Released is the result of a release: the key, and the disk that it opens. The key server's
// reply seals a Released, and fetchkey hands one to PID 1.
type Released struct {
	// Key is the passphrase of the disk's keyslot. The holder of a Released wipes it.
	Key [KeySize]byte
	// Header pins the LUKS2 header: the guest parses no other header.
	Header pins.Header
	// Generation counts the keys and pins that the owner has registered for this disk, from 1.
	Generation uint64
	// KMSID is the SPIFFE ID of the key server that released the key.
	KMSID string
	// Volume is set for a writable volume and nil for a disk.
	Volume *Volume
}

// Wipe overwrites the keys.
func (r *Released) Wipe() {
	clear(r.Key[:])
	if r.Volume != nil {
		clear(r.Volume.CommitKey[:])
	}
}

// Check returns an error unless every field is set. It does not test the key against the disk.
func (r *Released) Check() error {
	if err := r.Header.Check(); err != nil {
		return err
	}
	switch {
	case r.Key == [KeySize]byte{}:
		return errors.New("key is all zero")
	case r.Generation == 0:
		return errors.New("generation is 0, want at least 1")
	case len(r.KMSID) > maxKMSID:
		return fmt.Errorf("KMS ID has %d bytes, want at most %d", len(r.KMSID), maxKMSID)
	case !strings.HasPrefix(r.KMSID, "spiffe://"):
		return fmt.Errorf("KMS ID is %q, want a SPIFFE ID", r.KMSID)
	}
	for i := range len(r.KMSID) {
		if c := r.KMSID[i]; c <= ' ' || c > '~' {
			return fmt.Errorf("KMS ID is %q, want printable ASCII", r.KMSID)
		}
	}
	if r.Volume != nil {
		return r.Volume.check()
	}
	return nil
}

// Marshal writes r's binary form. It holds the key: the caller wipes it.
func (r *Released) Marshal() ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("marshalling a release: %v", err)
	}
	b := make([]byte, offKMSID+len(r.KMSID), offKMSID+len(r.KMSID)+volumeSize)
	copy(b, releasedMagic)
	if r.Volume != nil {
		copy(b, volumeMagic)
	}
	copy(b[offKey:], r.Key[:])
	copy(b[offDiskUUID:], r.Header.DiskUUID[:])
	copy(b[offHeaderSHA256:], r.Header.HeaderSHA256[:])
	binary.BigEndian.PutUint64(b[offGeneration:], r.Generation)
	binary.BigEndian.PutUint16(b[offKMSIDSize:], uint16(len(r.KMSID)))
	copy(b[offKMSID:], r.KMSID)
	if r.Volume != nil {
		b = r.Volume.append(b)
	}
	return b, nil
}

// ParseReleased reads exactly what Marshal writes. The caller wipes both b and the result.
func ParseReleased(b []byte) (*Released, error) {
	if len(b) < offKMSID || len(b) > MaxReleasedSize {
		return nil, fmt.Errorf("parsing a release: got %d bytes, want %d to %d", len(b), offKMSID, MaxReleasedSize)
	}
	ofVolume := bytes.HasPrefix(b, []byte(volumeMagic))
	if !ofVolume && !bytes.HasPrefix(b, []byte(releasedMagic)) {
		return nil, fmt.Errorf("parsing a release: magic is %x, want %x or %x", b[:offKey], releasedMagic, volumeMagic)
	}
	end := offKMSID + int(binary.BigEndian.Uint16(b[offKMSIDSize:]))
	if end > len(b) || !ofVolume && end != len(b) {
		return nil, fmt.Errorf("parsing a release: KMS ID has %d bytes, want %d", len(b)-offKMSID, end-offKMSID)
	}
	r := &Released{
		Header: pins.Header{
			DiskUUID:     pins.UUID(b[offDiskUUID:offHeaderSHA256]),
			HeaderSHA256: pins.Digest(b[offHeaderSHA256:offGeneration]),
		},
		Generation: binary.BigEndian.Uint64(b[offGeneration:]),
		KMSID:      string(b[offKMSID:end]),
	}
	if ofVolume {
		var err error
		if r.Volume, err = parseVolume(b[end:]); err != nil {
			return nil, fmt.Errorf("parsing a release: %v", err)
		}
	}
	copy(r.Key[:], b[offKey:])
	if err := r.Check(); err != nil {
		r.Wipe()
		return nil, fmt.Errorf("parsing a release: %v", err)
	}
	return r, nil
}
