package store

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/pins"
)

// Writers says what happens when a launch asks for a volume that another launch has open.
type Writers string

// The rules.
const (
	Exclusive Writers = "exclusive" // the server refuses, until the other launch closes the volume or the operator frees it
	Takeover  Writers = "takeover"  // the launch gets the volume, and the server refuses the other's close
)

// Unclean says what happens to a volume that was written to but not closed.
type Unclean string

// The rules.
const (
	UncleanRefuse Unclean = "refuse"
	UncleanAccept Unclean = "accept"
)

// VolumePolicy marks the record of a writable volume.
type VolumePolicy struct {
	Writers Writers `json:"writers"`
	Unclean Unclean `json:"unclean"`
}

// Check returns an error unless every field is valid.
func (p VolumePolicy) Check() error {
	switch {
	case p.Writers != Exclusive && p.Writers != Takeover:
		return fmt.Errorf("writers is %q, want %q or %q", p.Writers, Exclusive, Takeover)
	case p.Unclean != UncleanRefuse && p.Unclean != UncleanAccept:
		return fmt.Errorf("unclean is %q, want %q or %q", p.Unclean, UncleanRefuse, UncleanAccept)
	}
	return nil
}

// VolumeState is the state of a volume.
type VolumeState string

// The states.
const (
	VolumeNew     VolumeState = "new"     // no launch has had it: the next launch formats it
	VolumeOpen    VolumeState = "open"    // a launch has it
	VolumeClosed  VolumeState = "closed"  // its contents have the digest
	VolumeUnclean VolumeState = "unclean" // the operator says that the launch which had it is gone
	VolumeRetired VolumeState = "retired" // no further launch gets it
)

// Errors of a volume's transitions.
var (
	// ErrHeld says that another launch has the volume open.
	ErrHeld = errors.New("another launch has the volume open")
	// ErrRetired says that no further launch gets the volume.
	ErrRetired = errors.New("volume is retired")
	// ErrFork says that a launch that no longer has the volume tried to close it.
	ErrFork = errors.New("another launch has opened the volume since")
	// ErrVolumeState says that an operator's word does not fit the volume's state.
	ErrVolumeState = errors.New("state of the volume does not allow it")
)

const volumeVersion = 1

// Volume is the server's knowledge about the contents of a volume.
type Volume struct {
	Version  int       `json:"version"`
	DiskUUID pins.UUID `json:"disk_uuid"`
	// Header is the header pin of the volume. Another pin under the same UUID is a new volume.
	Header pins.Digest `json:"luks2_header_sha256"`
	State  VolumeState `json:"state"`
	// Generation counts the closes. Digest is the digest of the last close, absent if there was
	// none.
	Generation uint64      `json:"generation"`
	Digest     pins.Digest `json:"digest,omitzero"`
	// Holder has the volume open, or closed it last. Launch names it.
	Holder keyapi.Holder `json:"holder,omitzero"`
	Launch string        `json:"launch,omitempty"`
	// Found is what the holder was told. It is set only in VolumeOpen.
	Found keyapi.Found `json:"found,omitzero"`
	// Accepted is the operator's word that the next launch may open the volume with any
	// contents.
	Accepted bool      `json:"accepted,omitempty"`
	Changed  time.Time `json:"changed"` // UTC

	mod int64
}

// NewVolume is the state of a volume that no launch has had.
func NewVolume(header pins.Header, now time.Time) Volume {
	return Volume{DiskUUID: header.DiskUUID, Header: header.HeaderSHA256, State: VolumeNew, Changed: now}
}

// Open gives a volume to a launch and sets Found. The errors match ErrHeld and ErrRetired.
func (v Volume) Open(p VolumePolicy, launch Launch, now time.Time) (Volume, error) {
	opened := v
	opened.State, opened.Holder, opened.Launch, opened.Accepted, opened.Changed = VolumeOpen, HolderOf(v.DiskUUID, launch), launch.String(), false, now
	switch v.State {
	case VolumeNew:
		opened.Found = keyapi.FoundNew
	case VolumeClosed:
		opened.Found = keyapi.FoundClosed
	case VolumeUnclean:
		opened.Found = keyapi.FoundUnclean
	case VolumeOpen:
		if p.Writers != Takeover {
			return v, fmt.Errorf("%w: %s since %s", ErrHeld, v.Launch, v.Changed.Format(time.RFC3339))
		}
		opened.Found = keyapi.FoundUnclean
	case VolumeRetired:
		return v, ErrRetired
	default:
		return v, fmt.Errorf("state of the volume is %q", v.State)
	}
	if v.Accepted {
		opened.Found = keyapi.FoundAccepted
	}
	return opened, nil
}

// Close takes a volume back from its holder. again says that the same close was made before,
// and nothing changes. The error matches ErrFork.
func (v Volume) Close(r keyapi.CommitRequest, now time.Time) (closed Volume, again bool, err error) {
	switch {
	case v.State == VolumeClosed && v.Holder == r.Holder && v.Generation == r.Generation && v.Digest == r.Digest:
		return v, true, nil
	case v.State != VolumeOpen || v.Holder != r.Holder:
		return v, false, fmt.Errorf("%w: it is %s, generation %d, last with %s", ErrFork, v.State, v.Generation, v.Launch)
	case r.Generation != v.Generation+1:
		return v, false, fmt.Errorf("%w: generation is %d, want %d", ErrFork, r.Generation, v.Generation+1)
	}
	v.State, v.Generation, v.Digest, v.Found, v.Changed = VolumeClosed, r.Generation, r.Digest, 0, now
	return v, false, nil
}

// Free says that the launch that has the volume is gone.
func (v Volume) Free(now time.Time) (Volume, error) {
	if v.State != VolumeOpen {
		return v, v.unfit("free", VolumeOpen)
	}
	v.State, v.Holder, v.Launch, v.Found, v.Changed = VolumeUnclean, keyapi.Holder{}, "", 0, now
	return v, nil
}

// Accept lets the next launch open the volume with any contents.
func (v Volume) Accept(now time.Time) (Volume, error) {
	if v.State != VolumeClosed && v.State != VolumeUnclean {
		return v, v.unfit("accept", VolumeClosed, VolumeUnclean)
	}
	v.Accepted, v.Changed = true, now
	return v, nil
}

// Restore says that the volume's contents have this digest. The operator uses it after putting
// back a backup, or after the server lost the volume's state.
func (v Volume) Restore(digest pins.Digest, now time.Time) (Volume, error) {
	if v.State != VolumeNew && v.State != VolumeClosed && v.State != VolumeUnclean {
		return v, v.unfit("restore", VolumeNew, VolumeClosed, VolumeUnclean)
	}
	v.State, v.Generation, v.Digest, v.Changed = VolumeClosed, v.Generation+1, digest, now
	v.Holder, v.Launch, v.Accepted = keyapi.Holder{}, "", false
	return v, nil
}

// Retire keeps the volume from every further launch.
func (v Volume) Retire(now time.Time) (Volume, error) {
	if v.State == VolumeRetired {
		return v, v.unfit("retire", VolumeNew, VolumeOpen, VolumeClosed, VolumeUnclean)
	}
	v.State, v.Holder, v.Launch, v.Found, v.Accepted, v.Changed = VolumeRetired, keyapi.Holder{}, "", 0, false, now
	return v, nil
}

// Reset makes the next launch format the volume: its contents are lost.
func (v Volume) Reset(now time.Time) (Volume, error) {
	if v.State == VolumeOpen || v.State == VolumeNew {
		return v, v.unfit("reset", VolumeClosed, VolumeUnclean, VolumeRetired)
	}
	return NewVolume(pins.Header{DiskUUID: v.DiskUUID, HeaderSHA256: v.Header}, now), nil
}

func (v Volume) unfit(verb string, want ...VolumeState) error {
	return fmt.Errorf("%w: %s: volume %s is %s, want %q", ErrVolumeState, verb, v.DiskUUID, v.State, want)
}

// Check returns an error if the fields contradict each other.
func (v Volume) Check() error {
	open := v.State == VolumeOpen
	switch {
	case v.Version != volumeVersion:
		return fmt.Errorf("version is %d, want %d", v.Version, volumeVersion)
	case v.DiskUUID == pins.UUID{} || v.Header == pins.Digest{}:
		return errors.New("disk_uuid or luks2_header_sha256 is absent")
	case v.State != VolumeNew && v.State != VolumeClosed && v.State != VolumeUnclean && v.State != VolumeRetired && !open:
		return fmt.Errorf("state is %q, want one of a volume", v.State)
	case (v.Generation == 0) != (v.Digest == pins.Digest{}):
		return fmt.Errorf("generation is %d but the digest is %s, want both or none", v.Generation, v.Digest)
	case v.State == VolumeNew && v.Generation != 0, v.State == VolumeClosed && v.Generation == 0:
		return fmt.Errorf("state is %q but the generation is %d", v.State, v.Generation)
	case open != (v.Found != 0), open && v.Holder == keyapi.Holder{}:
		return fmt.Errorf("state is %q but found is %v and holder is %s", v.State, v.Found, v.Holder)
	}
	return nil
}

// Labels of values that are derived for a launch with a volume.
const (
	volumeLabel    = "rootvouch kms volume v1"
	holderLabel    = "rootvouch volume holder v1"
	commitKeyLabel = "rootvouch volume commit key v1"
)

// HolderOf names a launch that has a volume.
func HolderOf(disk pins.UUID, launch Launch) keyapi.Holder {
	return sha256.Sum256(kek.About(holderLabel, disk[:], []byte(launch.String())))
}

// CommitKey is the key with which a launch proves that it closed a volume. It is derived from
// the cluster's secret, so it is stored nowhere.
func (s *Store) CommitKey(disk pins.UUID, holder keyapi.Holder) [32]byte {
	key, err := hkdf.Key(sha256.New, s.keys.Nonce, nil, string(kek.About(commitKeyLabel, disk[:], holder[:])), 32)
	if err != nil {
		panic("store: internal error: " + err.Error())
	}
	defer clear(key)
	return [32]byte(key)
}

// KeyVolume is the key of a volume's state.
func KeyVolume(disk pins.UUID) string { return "vol/" + disk.String() }

// storedVolume is the value of a volume's item. The MAC shows that its writer had the cluster's
// secret, which is sealed under the key-encryption key.
type storedVolume struct {
	Volume json.RawMessage `json:"volume"`
	MAC    pins.Digest     `json:"mac"`
}

// ErrForged says that a writer without the cluster's secret changed the state of a volume.
var ErrForged = errors.New("state of the volume was not written by a key server of this store")

// Mod returns the revision of the transaction that wrote the state.
func (v Volume) Mod() int64 { return v.mod }

// SetVolume makes the item of a volume's state.
func (s *Store) SetVolume(v Volume) (kv.Write, error) {
	v.Version = volumeVersion
	if err := v.Check(); err != nil {
		return kv.Write{}, fmt.Errorf("putting a volume: %v", err)
	}
	data := encodeJSON(v)
	return kv.Write{Key: KeyVolume(v.DiskUUID), Value: encodeJSON(storedVolume{data, s.volumeMAC(data)})}, nil
}

// volumeMAC is HMAC-SHA256 with the cluster's secret.
func (s *Store) volumeMAC(data []byte) pins.Digest {
	mac := hmac.New(sha256.New, s.keys.Nonce)
	mac.Write(kek.About(volumeLabel, []byte(s.meta.Cluster), data))
	return pins.Digest(mac.Sum(nil))
}

// VolumeOf decodes the item of a volume's state. The error matches ErrNotFound if there is
// none, and ErrForged if it was changed in the store.
func (s *Store) VolumeOf(item kv.Item, disk pins.UUID) (Volume, error) {
	if item.Mod == 0 {
		return Volume{}, ErrNotFound
	}
	var stored storedVolume
	if err := decodeItem(item, &stored); err != nil {
		return Volume{}, err
	}
	if want := s.volumeMAC(stored.Volume); !hmac.Equal(stored.MAC[:], want[:]) {
		return Volume{}, fmt.Errorf("key %q: %w", item.Key, ErrForged)
	}
	var v Volume
	if err := strictjson.Unmarshal(stored.Volume, &v); err != nil {
		return Volume{}, fmt.Errorf("key %q: %v", item.Key, err)
	}
	if err := v.Check(); err != nil {
		return Volume{}, fmt.Errorf("key %q: %v", item.Key, err)
	}
	if v.DiskUUID != disk {
		return Volume{}, fmt.Errorf("key %q: state is for disk %s", item.Key, v.DiskUUID)
	}
	v.mod = item.Mod
	return v, nil
}

// Volume returns the state of a volume. The error matches ErrNotFound if there is none.
func (s *Store) Volume(ctx context.Context, disk pins.UUID) (Volume, error) {
	items, err := s.Engine.Get(ctx, KeyVolume(disk))
	if err != nil {
		return Volume{}, err
	}
	return s.VolumeOf(items[0], disk)
}
