package keyapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/pins"
)

// Found says what the key server knows of a volume when it releases its key. It is a
// byte of a Released.
type Found uint8

// What a launch is told. The zero value is none of them.
const (
	// FoundNew is a volume that no launch has had: it may be formatted. The server
	// says so once.
	FoundNew Found = iota + 1
	// FoundClosed is one that was closed: it must have the digest.
	FoundClosed
	// FoundUnclean is one that was not closed by its last launch. It may have the
	// digest of before, when nothing was written.
	FoundUnclean
	// FoundAccepted is one whose contents the operator has accepted, whatever they are.
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

// Holder names the launch that has a volume, in a commit: a digest, so that it has one
// form with and without evidence.
type Holder = pins.Digest

// Volume is what a release says of a volume that is written, besides its key.
type Volume struct {
	Found Found
	// AcceptUnclean lets an unclean volume be opened whose contents are not those of
	// its last close.
	AcceptUnclean bool
	// Generation counts the closes, and Digest is of the last one. It is zero where
	// there was none.
	Generation uint64
	Digest     pins.Digest
	// Holder and CommitKey are this launch's, for the one commit of its close.
	Holder    Holder
	CommitKey [32]byte
}

// Offsets in the volume's part of a Released, in bytes. It stands behind the SPIFFE ID.
const (
	volFound         = 0x00 // uint8
	volAcceptUnclean = 0x01 // uint8: 0 or 1
	volGeneration    = 0x02 // uint64
	volDigest        = 0x0a
	volHolder        = 0x2a
	volCommitKey     = 0x4a
	volumeSize       = 0x6a
)

// check reports whether the fields fit each other.
func (v *Volume) check() error {
	switch {
	case v.Found < FoundNew || v.Found > FoundAccepted:
		return fmt.Errorf("volume was found %v, want one of the key API", v.Found)
	case v.Found == FoundNew && (v.Generation != 0 || v.Digest != pins.Digest{}):
		return fmt.Errorf("volume is new, and of generation %d with digest %s", v.Generation, v.Digest)
	case v.Found == FoundClosed && (v.Generation == 0 || v.Digest == pins.Digest{}):
		return fmt.Errorf("volume was closed, and its generation is %d, its digest %s", v.Generation, v.Digest)
	case (v.Generation == 0) != (v.Digest == pins.Digest{}):
		return fmt.Errorf("generation of the volume is %d, and its digest %s", v.Generation, v.Digest)
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

// CommitPath is where a launch says that it has closed a volume.
func CommitPath(disk pins.UUID) string { return "/v1/disks/" + disk.String() + "/commit" }

// CommitServerName is the name that a client asks for, in the TLS handshake, when it
// wants to commit. The server then asks for no SVID: at the end of a launch there is
// none any more, and the commit key is what counts. It is no name of a host.
const CommitServerName = "commit.rootvouch.invalid"

// CommitRequest is the body of a POST to CommitPath. MAC is CommitMAC with the key
// that came with the release.
type CommitRequest struct {
	Version int    `json:"version"`
	Holder  Holder `json:"holder"`
	// Generation is the one of the release plus one.
	Generation uint64      `json:"generation"`
	Digest     pins.Digest `json:"digest"`
	MAC        pins.Digest `json:"mac"`
}

// CommitReply answers it: the volume is closed, with what was asked.
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

// mac is HMAC-SHA256 over a label and each field, each with its size in bytes as a
// big-endian uint32 before it.
func (r CommitRequest) mac(key [32]byte, disk pins.UUID) pins.Digest {
	mac := hmac.New(sha256.New, key[:])
	for _, field := range [][]byte{[]byte(commitLabel), disk[:], r.Holder[:], binary.BigEndian.AppendUint64(nil, r.Generation), r.Digest[:]} {
		mac.Write(binary.BigEndian.AppendUint32(nil, uint32(len(field))))
		mac.Write(field)
	}
	return pins.Digest(mac.Sum(nil))
}
