package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
)

const recordVersion = 1

// State says whether a record's key may be released.
type State string

// The states.
const (
	Enabled  State = "enabled"
	Disabled State = "disabled"
)

// EvidenceRule says whether the second lock is on.
type EvidenceRule string

// The rules.
const (
	EvidenceRequired    EvidenceRule = "required"
	EvidenceNotRequired EvidenceRule = "not-required"
)

// Record is what the server knows about one disk, except for its key.
type Record struct {
	Version int `json:"version"`
	// Header is released with the key.
	pins.Header
	// SPIFFEID is the one caller that may have the key: lock 1.
	SPIFFEID spiffeid.ID `json:"spiffe_id"`
	// Evidence says whether lock 2 is on.
	Evidence EvidenceRule `json:"evidence"`
	// ReferenceValues is the SHA-256 of the refval.json that evidence is appraised
	// against. It is absent only where evidence is not required.
	ReferenceValues pins.Digest `json:"reference_values_sha256,omitzero"`
	// SameVM is the owner's word that every disk with this SPIFFE ID belongs to one
	// VM.
	SameVM bool `json:"same_vm"`
	// State is Enabled or Disabled.
	State State `json:"state"`
	// Generation counts the keys and pins registered for this disk, from 1; it goes
	// on after the record was deleted.
	Generation uint64 `json:"generation"`
	// Created and Changed are in UTC.
	Created time.Time `json:"created"`
	Changed time.Time `json:"changed"`

	sealed []byte // the key, sealed with all of the above
	mod    int64  // revision that wrote it
}

// Check reports whether every field has a meaning.
func (r Record) Check() error {
	if err := r.Header.Check(); err != nil {
		return err
	}
	switch {
	case r.Version != recordVersion:
		return fmt.Errorf("version is %d, want %d", r.Version, recordVersion)
	case r.SPIFFEID.IsZero():
		return errors.New("spiffe_id is empty")
	case r.State != Enabled && r.State != Disabled:
		return fmt.Errorf("state is %q, want %q or %q", r.State, Enabled, Disabled)
	case r.Evidence != EvidenceRequired && r.Evidence != EvidenceNotRequired:
		return fmt.Errorf("evidence is %q, want %q or %q", r.Evidence, EvidenceRequired, EvidenceNotRequired)
	case r.Evidence == EvidenceRequired && r.ReferenceValues == pins.Digest{}:
		return errors.New("reference_values_sha256 is absent, but evidence is required")
	case r.Generation == 0:
		return errors.New("generation is 0, want at least 1")
	}
	return nil
}

// encode is the one form of a record, which its key is sealed with.
func (r Record) encode() []byte {
	data, err := json.Marshal(r)
	if err != nil {
		panic("store: internal error: " + err.Error())
	}
	return data
}

// stored is what is kept under a record's key.
type stored struct {
	Record json.RawMessage `json:"record"`
	Sealed []byte          `json:"sealed"`
}

func decodeStored(data []byte) (Record, error) {
	var s stored
	if err := strictjson.Unmarshal(data, &s); err != nil {
		return Record{}, fmt.Errorf("decoding record: %v", err)
	}
	r, err := decodeRecord(s.Record)
	r.sealed = s.Sealed
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
