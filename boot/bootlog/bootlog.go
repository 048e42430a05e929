// Package bootlog reads and writes the boot log: the steps of PID 1, in order, with
// times. docs/spec/bootlog.md describes the format.
//
// A boot log is information, not proof. The owner's attestation contains its digest.
// But the booted OS answers that attestation, and root there can write another log.
// The measured root hash proves the disk.
package bootlog

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
)

// Version is the only version of a boot log.
const Version = 1

// MaxSize is the size in bytes above which Decode refuses a boot log.
const MaxSize = 16 << 10

// Values of Log.Verification; they are those of boot.json.
const (
	full = "full"
	lazy = "lazy"
)

const (
	maxSteps   = 64
	maxVolumes = 8
	// maxMountPoint bounds a mount point, in bytes.
	maxMountPoint = 255
	maxStepName   = 32   // bytes
	maxSPIFFEID   = 2048 // bytes (SPIFFE-ID, section 2.3)
)

// Log is one boot log.
type Log struct {
	// Version is 1.
	Version int `json:"version"`
	// DiskUUID and HeaderSHA256 are the header pin by which PID 1 found the disk.
	DiskUUID     pins.UUID   `json:"disk_uuid"`
	HeaderSHA256 pins.Digest `json:"luks2_header_sha256"`
	// RootHash is the root hash against which every block is checked.
	RootHash pins.Digest `json:"verity_root_hash"`
	// KeyGeneration is the generation of the key, as its KMS counts them, from 1.
	KeyGeneration uint64 `json:"key_generation"`
	// KMSSPIFFEID is the SPIFFE ID of the KMS that released the key.
	KMSSPIFFEID string `json:"kms_spiffe_id"`
	// Verification is "full" when every block was read before the switch, or "lazy".
	Verification string `json:"verification"`
	// Volumes are the mounted volumes, in order. A log without volumes lacks the
	// member.
	Volumes []Volume `json:"volumes,omitempty"`
	// Steps are the steps that had finished when the log was written, in order.
	Steps []Step `json:"steps"`
}

// Volume is a disk that the VM writes.
type Volume struct {
	UUID       pins.UUID `json:"uuid"`
	MountPoint string    `json:"mount_point"`
	// Generation is the number of closes, as the KMS counts them. Freshness says
	// what was known about the volume's contents when it was opened.
	Generation uint64    `json:"generation"`
	Freshness  Freshness `json:"freshness"`
}

// Freshness says what is known about the contents of a volume when it is opened.
type Freshness string

// Values of Freshness.
const (
	New      Freshness = "new"      // it was formatted
	Fresh    Freshness = "fresh"    // its contents are those of the last close
	Unclean  Freshness = "unclean"  // it was not closed: unknown since the last close
	Accepted Freshness = "accepted" // the operator accepted it: unknown since the last close
)

// Check returns an error if a field has no valid value.
func (v Volume) Check() error {
	switch {
	case v.UUID == pins.UUID{}:
		return errors.New("uuid is all zero")
	case len(v.MountPoint) < 2 || len(v.MountPoint) > maxMountPoint || v.MountPoint[0] != '/':
		return fmt.Errorf("mount_point is %.300q, want a path below /", v.MountPoint)
	case v.Freshness != New && v.Freshness != Fresh && v.Freshness != Unclean && v.Freshness != Accepted:
		return fmt.Errorf("freshness is %.40q, want new, fresh, unclean or accepted", v.Freshness)
	case v.Freshness == New && v.Generation != 0, v.Freshness == Fresh && v.Generation == 0:
		return fmt.Errorf("freshness is %q, and generation %d", v.Freshness, v.Generation)
	}
	for i := range len(v.MountPoint) {
		if v.MountPoint[i] <= ' ' || v.MountPoint[i] > '~' {
			return fmt.Errorf("mount_point has %#x at offset %d, want printable ASCII", v.MountPoint[i], i)
		}
	}
	return nil
}

// Step is one finished step of PID 1.
type Step struct {
	Name       string `json:"name"`
	StartMS    uint64 `json:"start_ms"`    // milliseconds from the start of the kernel to the start of the step
	DurationMS uint64 `json:"duration_ms"` // milliseconds
}

// Check returns every fault of l at once, or nil.
func (l Log) Check() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if l.Version != Version {
		add("version is %d, want %d", l.Version, Version)
	}
	if err := (pins.Header{DiskUUID: l.DiskUUID, HeaderSHA256: l.HeaderSHA256}).Check(); err != nil {
		errs = append(errs, err)
	}
	if l.RootHash == (pins.Digest{}) {
		add("verity_root_hash is all zero")
	}
	if l.KeyGeneration == 0 {
		add("key_generation is 0, want at least 1")
	}
	if err := checkSPIFFEID(l.KMSSPIFFEID); err != nil {
		errs = append(errs, err)
	}
	if l.Verification != full && l.Verification != lazy {
		add("verification is %q, want %q or %q", l.Verification, full, lazy)
	}
	if len(l.Volumes) > maxVolumes {
		add("volumes are %d, want at most %d", len(l.Volumes), maxVolumes)
	}
	for i, v := range l.Volumes {
		if err := v.Check(); err != nil {
			add("volume %d: %w", i, err)
		}
	}
	if len(l.Steps) == 0 || len(l.Steps) > maxSteps {
		add("steps are %d, want 1 to %d", len(l.Steps), maxSteps)
	}
	for i, s := range l.Steps {
		if !validName(s.Name) {
			add("name of step %d is %q, want 1 to %d lower-case letters and hyphens", i, s.Name, maxStepName)
		}
		if i > 0 && s.StartMS < l.Steps[i-1].StartMS {
			add("step %d starts at %d ms, want at least %d: steps are in order", i, s.StartMS, l.Steps[i-1].StartMS)
		}
	}
	return errors.Join(errs...)
}

func checkSPIFFEID(s string) error {
	if len(s) > maxSPIFFEID || !strings.HasPrefix(s, "spiffe://") {
		return fmt.Errorf("kms_spiffe_id is %.64q, want a SPIFFE ID of at most %d bytes", s, maxSPIFFEID)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return fmt.Errorf("kms_spiffe_id has %#x at offset %d, want printable ASCII", s[i], i)
		}
	}
	return nil
}

func validName(s string) bool {
	return s != "" && len(s) <= maxStepName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz-") == ""
}

// Encode checks l and returns its one form: indented by two spaces, members in
// the order of the type, a newline at the end.
func (l Log) Encode() ([]byte, error) {
	if err := l.Check(); err != nil {
		return nil, fmt.Errorf("encoding boot log: %v", err)
	}
	data, err := strictjson.MarshalIndent(l)
	if err != nil {
		return nil, fmt.Errorf("encoding boot log: %v", err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("encoding boot log: size is %d bytes, want at most %d", len(data), MaxSize)
	}
	return data, nil
}

// Decode accepts only the form that Encode writes. A log has one form, so it has
// one digest.
func Decode(data []byte) (Log, error) {
	if len(data) > MaxSize {
		return Log{}, fmt.Errorf("decoding boot log: size is %d bytes, want at most %d", len(data), MaxSize)
	}
	var l Log
	if err := strictjson.Unmarshal(data, &l); err != nil {
		return Log{}, fmt.Errorf("decoding boot log: %v", err)
	}
	canonical, err := l.Encode()
	if err != nil {
		return Log{}, fmt.Errorf("decoding boot log: %v", err)
	}
	if !bytes.Equal(canonical, data) {
		return Log{}, errors.New("decoding boot log: got another form than the canonical one")
	}
	return l, nil
}

// Digest returns the SHA-256 digest of l's encoded form, which the owner's
// attestation binds.
func (l Log) Digest() (pins.Digest, error) {
	data, err := l.Encode()
	if err != nil {
		return pins.Digest{}, err
	}
	return pins.Digest(sha256.Sum256(data)), nil
}
