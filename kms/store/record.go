package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/pins"
)

const recordVersion = 1

// State says whether a record's key may be released.
type State string

// The states.
const (
	Enabled  State = "enabled"
	Disabled State = "disabled"
	// Retired is Disabled for good: the disk is no longer in use, and its record overlaps with
	// no other.
	Retired State = "retired"
)

// EvidenceRule says whether the second lock is on.
type EvidenceRule string

// The rules.
const (
	EvidenceRequired    EvidenceRule = "required"
	EvidenceNotRequired EvidenceRule = "not-required"
)

// Record is the server's knowledge about one disk, except for its key.
type Record struct {
	Version int `json:"version"`
	// Header pins the disk's header. It is released with the key.
	pins.Header
	// SPIFFEID is the only caller that may have the key: lock 1.
	SPIFFEID spiffeid.ID `json:"spiffe_id"`
	// Evidence says whether lock 2 is on.
	Evidence EvidenceRule `json:"evidence"`
	// ReferenceValues is the SHA-256 of the refval.json that evidence is appraised with. It is
	// absent only if evidence is not required.
	ReferenceValues pins.Digest `json:"reference_values_sha256,omitzero"`
	// Before are earlier reference values, newest first. Until they expire, evidence may
	// satisfy one of them instead.
	Before []Expiring `json:"before,omitempty"`
	// MaxReleases is how many launches may have the key within an hour; 0: no limit.
	MaxReleases uint32 `json:"max_releases_per_hour,omitempty"`
	// SameVM is the owner's statement that all disks with this SPIFFE ID belong to one VM.
	SameVM bool `json:"same_vm"`
	// Volume is set for a writable volume and absent for a disk.
	Volume *VolumePolicy `json:"volume,omitempty"`
	// State is Enabled, Disabled or Retired.
	State State `json:"state"`
	// Generation counts the keys and pins registered for this disk, from 1. It keeps counting
	// after the record was deleted.
	Generation uint64 `json:"generation"`
	// Created and Changed are in UTC.
	Created time.Time `json:"created"`
	Changed time.Time `json:"changed"`

	sealed kek.Sealed // the key, sealed with all of the above
	item   string     // its key in the store
	mod    int64      // revision of the transaction that wrote it
	kept   *Kept      // why it is no longer in force; nil if it is
}

// Expiring are reference values that stay in force until a time.
type Expiring struct {
	ReferenceValues pins.Digest `json:"reference_values_sha256"`
	Until           time.Time   `json:"until"` // UTC
}

// MaxBefore bounds Record.Before.
const MaxBefore = 8

// Accepts returns the reference values in force at a time, newest first. Evidence must satisfy
// one of them.
func (r Record) Accepts(now time.Time) []pins.Digest {
	if r.Evidence != EvidenceRequired {
		return nil
	}
	all := []pins.Digest{r.ReferenceValues}
	for _, b := range r.Before {
		if now.Before(b.Until) {
			all = append(all, b.ReferenceValues)
		}
	}
	return all
}

// Accept returns r with new reference values. The present ones stay in force beside them for
// keep.
func (r Record) Accept(values pins.Digest, now time.Time, keep time.Duration) (Record, error) {
	if r.Evidence != EvidenceRequired {
		return Record{}, errors.New("evidence is not required, so reference values would be unused")
	}
	var before []Expiring
	if keep > 0 {
		before = []Expiring{{r.ReferenceValues, now.Add(keep)}}
	}
	for _, b := range r.Before {
		if now.Before(b.Until) {
			before = append(before, b)
		}
	}
	// Values that come back are listed once.
	before = slices.DeleteFunc(before, func(b Expiring) bool { return b.ReferenceValues == values })
	if len(before) > MaxBefore {
		return Record{}, fmt.Errorf("there would be %d earlier reference values, want at most %d", len(before), MaxBefore)
	}
	r.ReferenceValues, r.Before = values, before
	return r, nil
}

// Check returns an error unless every field is valid.
func (r Record) Check() error {
	if err := r.Header.Check(); err != nil {
		return err
	}
	switch {
	case r.Version != recordVersion:
		return fmt.Errorf("version is %d, want %d", r.Version, recordVersion)
	case r.SPIFFEID.IsZero():
		return errors.New("spiffe_id is empty")
	case r.State != Enabled && r.State != Disabled && r.State != Retired:
		return fmt.Errorf("state is %q, want %q, %q or %q", r.State, Enabled, Disabled, Retired)
	case r.Evidence != EvidenceRequired && r.Evidence != EvidenceNotRequired:
		return fmt.Errorf("evidence is %q, want %q or %q", r.Evidence, EvidenceRequired, EvidenceNotRequired)
	case r.Evidence == EvidenceRequired && r.ReferenceValues == pins.Digest{}:
		return errors.New("reference_values_sha256 is absent, but evidence is required")
	case r.Generation == 0:
		return errors.New("generation is 0, want at least 1")
	case len(r.Before) > MaxBefore:
		return fmt.Errorf("there are %d earlier reference values, want at most %d", len(r.Before), MaxBefore)
	case len(r.Before) > 0 && r.Evidence != EvidenceRequired:
		return errors.New("there are earlier reference values, but evidence is not required")
	}
	for _, b := range r.Before {
		if b.ReferenceValues == (pins.Digest{}) || b.Until.IsZero() {
			return errors.New("earlier reference values lack their digest or their expiry")
		}
	}
	if r.Volume != nil {
		return r.Volume.Check()
	}
	return nil
}

// encode writes the canonical form of a record, which is the associated data of its key's seal.
func (r Record) encode() []byte {
	data, err := json.Marshal(r)
	if err != nil {
		panic("store: internal error: " + err.Error())
	}
	return data
}

// stored is the value of a record's item.
type stored struct {
	Record json.RawMessage `json:"record"`
	Sealed kek.Sealed      `json:"sealed"`
	// Kept is set for a record that is no longer in force.
	Kept *Kept `json:"kept,omitempty"`
}

// Kept says why a record is no longer in force.
type Kept struct {
	Why Reason `json:"why"`
	// At is when the record went out of force. Until is when its retention ends. UTC.
	At    time.Time `json:"at"`
	Until time.Time `json:"until"`
}

// Reason says why a record is no longer in force.
type Reason string

// The reasons.
const (
	Replaced  Reason = "replaced"
	Deleted   Reason = "deleted"
	Withdrawn Reason = "withdrawn" // it was staged, and no boot confirmed it
)

// Kept says why the record is no longer in force. It returns nil if the record is in force.
func (r Record) Kept() *Kept { return r.kept }

// Item returns the record's key in the store.
func (r Record) Item() string { return r.item }

func decodeStored(data []byte) (Record, error) {
	var s stored
	if err := strictjson.Unmarshal(data, &s); err != nil {
		return Record{}, fmt.Errorf("decoding record: %v", err)
	}
	r, err := decodeRecord(s.Record)
	r.sealed, r.kept = s.Sealed, s.Kept
	return r, err
}

func decodeRecord(data []byte) (Record, error) {
	var r Record
	if err := strictjson.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("decoding record: %v", err)
	}
	if err := r.Check(); err != nil {
		return Record{}, fmt.Errorf("decoding record: %v", err)
	}
	return r, nil
}
