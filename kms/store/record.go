// Package store keeps the key server's records: one sealed key per disk, and who may have it.
//
// What it protects: without the key-encryption key nobody reads a key, and nobody
// changes a record, because each key is sealed together with its whole record.
// What it does not protect: whoever can write the file can put back an older copy
// of it, with its records and without its newest releases, or can delete
// releases. An older store by itself shows at the next start, where package ledger
// holds it against the audit log, whose head it keeps: unless the log is put back
// with it. Releases that were deleted from a newest store do not show.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
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

// Release says that the key of a disk was released to a launch. It is never
// deleted: a launch gets a disk's key once, whatever becomes of the record.
type Release struct {
	Disk          pins.UUID    `json:"disk_uuid"`
	ReportID      snp.ReportID `json:"report_id"` // REPORT_ID of the launch
	SPIFFEID      spiffeid.ID  `json:"spiffe_id"`
	Generation    uint64       `json:"generation"`
	RequestSHA256 pins.Digest  `json:"request_sha256"` // over the body of the request
	Time          time.Time    `json:"time"`           // UTC
	AuditSequence uint64       `json:"audit_sequence"` // its line in the audit log
}

func (r Release) id() []byte { return append(r.Disk[:], r.ReportID[:]...) }

func (r Release) encode() []byte {
	data, err := json.Marshal(r)
	if err != nil {
		panic("store: internal error: " + err.Error())
	}
	return data
}

func decodeRelease(data []byte) (Release, error) {
	var r Release
	if err := strictjson.Unmarshal(data, &r); err != nil {
		return Release{}, fmt.Errorf("decoding release: %v", err)
	}
	return r, nil
}
