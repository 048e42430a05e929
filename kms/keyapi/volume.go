package keyapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/pins"
)

// Found says what the key server knows about a volume when it releases the key. It is one byte
// of a Released.
type Found uint8

// The values of Found. The zero value is not one of them.
const (
	// FoundNew is a volume that no launch has had. The guest may format it. The server says so
	// once.
	FoundNew Found = iota + 1
	// FoundClosed is a volume that was closed: it must have the digest.
	FoundClosed
	// FoundUnclean is a volume that its last launch did not close. If that launch wrote
	// nothing, the volume still has the digest of the close before.
	FoundUnclean
	// FoundAccepted is a volume whose contents the operator has accepted, whatever they are.
	FoundAccepted
)

func (f Found) String() string {
	switch f {
	case FoundNew:
		return "new"
	case FoundClosed:
		return "closed"
	case FoundUnclean:
		return "unclean"
	case FoundAccepted:
		return "accepted"
	}
	return fmt.Sprintf("Found(%d)", uint8(f))
}

// MarshalText writes the name.
func (f Found) MarshalText() ([]byte, error) {
	if f < FoundNew || f > FoundAccepted {
		return nil, fmt.Errorf("what was found is %v, want one of the key API", f)
	}
	return []byte(f.String()), nil
}

// UnmarshalText reads the name.
func (f *Found) UnmarshalText(text []byte) error {
	for known := FoundNew; known <= FoundAccepted; known++ {
		if known.String() == string(text) {
			*f = known
			return nil
		}
	}
	return fmt.Errorf("what was found is %.40q, want one of the key API", text)
}

// Holder names the launch that has a volume, in a commit. It is a digest, so that it has the
// same form with and without evidence.
type Holder = pins.Digest

// Volume is what a release says about a writable volume, besides its key.
type Volume struct {
	Found Found
	// AcceptUnclean lets the guest open an unclean volume whose contents differ from those of
	// its last close.
	AcceptUnclean bool
	// Generation counts the closes. Digest is the digest of the last close. Both are zero if
	// there was none.
	Generation uint64
	Digest     pins.Digest
	// Holder and CommitKey belong to this launch, for the one commit that closes the volume.
	Holder    Holder
	CommitKey [32]byte
}

// Offsets in the volume's part of a Released, in bytes. The part follows the SPIFFE ID.
const (
	volFound         = 0x00 // uint8
	volAcceptUnclean = 0x01 // uint8: 0 or 1
	volGeneration    = 0x02 // uint64
	volDigest        = 0x0a
	volHolder        = 0x2a
	volCommitKey     = 0x4a
	volumeSize       = 0x6a
)

// check returns an error if the fields contradict each other.
func (v *Volume) check() error {
	switch {
	case v.Found < FoundNew || v.Found > FoundAccepted:
		return fmt.Errorf("volume was found %v, want one of the key API", v.Found)
	case v.Found == FoundNew && (v.Generation != 0 || v.Digest != pins.Digest{}):
		return fmt.Errorf("volume is new but has generation %d and digest %s, want none", v.Generation, v.Digest)
	case v.Found == FoundClosed && (v.Generation == 0 || v.Digest == pins.Digest{}):
		return fmt.Errorf("volume was closed but has generation %d and digest %s, want both", v.Generation, v.Digest)
	case (v.Generation == 0) != (v.Digest == pins.Digest{}):
		return fmt.Errorf("volume has generation %d and digest %s, want both or none", v.Generation, v.Digest)
	case v.Holder == Holder{}:
		return errors.New("holder of the volume is all zero")
	case v.CommitKey == [32]byte{}:
		return errors.New("commit key of the volume is all zero")
	}
	return nil
}

func (v *Volume) append(b []byte) []byte {
	part := make([]byte, volumeSize)
	part[volFound] = byte(v.Found)
	if v.AcceptUnclean {
		part[volAcceptUnclean] = 1
	}
	binary.BigEndian.PutUint64(part[volGeneration:], v.Generation)
	copy(part[volDigest:], v.Digest[:])
	copy(part[volHolder:], v.Holder[:])
	copy(part[volCommitKey:], v.CommitKey[:])
	defer clear(part)
	return append(b, part...)
}

func parseVolume(b []byte) (*Volume, error) {
	if len(b) != volumeSize {
		return nil, fmt.Errorf("volume has %d bytes, want %d", len(b), volumeSize)
	}
	if b[volAcceptUnclean] > 1 {
		return nil, fmt.Errorf("byte %#x of the volume is %#x, want 0 or 1", volAcceptUnclean, b[volAcceptUnclean])
	}
	v := &Volume{
		Found:         Found(b[volFound]),
		AcceptUnclean: b[volAcceptUnclean] == 1,
		Generation:    binary.BigEndian.Uint64(b[volGeneration:]),
		Digest:        pins.Digest(b[volDigest:volHolder]),
		Holder:        Holder(b[volHolder:volCommitKey]),
	}
	copy(v.CommitKey[:], b[volCommitKey:])
	return v, nil
}

// CommitPath is where a launch reports that it has closed a volume.
func CommitPath(disk pins.UUID) string { return "/v1/disks/" + disk.String() + "/commit" }

// CommitServerName is the name that a client gives in the TLS handshake when it wants to
// commit. The server then asks for no SVID: at the end of a launch the guest has none, and the
// commit key authenticates the request. The name is not a host.
const CommitServerName = "commit.rootvouch.invalid"

// CommitRequest is the body of a POST to CommitPath. MAC is made with the commit key that came
// with the release.
type CommitRequest struct {
	Version int    `json:"version"`
	Holder  Holder `json:"holder"`
	// Generation is the generation of the release plus one.
	Generation uint64      `json:"generation"`
	Digest     pins.Digest `json:"digest"`
	MAC        pins.Digest `json:"mac"`
}

// CommitReply answers it: the volume is closed as requested.
type CommitReply struct {
	Version    int    `json:"version"`
	Generation uint64 `json:"generation"`
}

const commitLabel = "rootvouch volume commit v1"

// NewCommit makes the request that closes a volume.
func NewCommit(key [32]byte, disk pins.UUID, holder Holder, generation uint64, digest pins.Digest) CommitRequest {
	r := CommitRequest{Version: Version, Holder: holder, Generation: generation, Digest: digest}
	r.MAC = r.mac(key, disk)
	return r
}

// Verify reports whether the request was made with key, for disk.
func (r CommitRequest) Verify(key [32]byte, disk pins.UUID) bool {
	want := r.mac(key, disk)
	return hmac.Equal(r.MAC[:], want[:])
}

// mac is HMAC-SHA256 over a label and the fields. Each field follows its size in bytes as a
// big-endian uint32.
func (r CommitRequest) mac(key [32]byte, disk pins.UUID) pins.Digest {
	mac := hmac.New(sha256.New, key[:])
	for _, field := range [][]byte{[]byte(commitLabel), disk[:], r.Holder[:], binary.BigEndian.AppendUint64(nil, r.Generation), r.Digest[:]} {
		mac.Write(binary.BigEndian.AppendUint32(nil, uint32(len(field))))
		mac.Write(field)
	}
	return pins.Digest(mac.Sum(nil))
}
