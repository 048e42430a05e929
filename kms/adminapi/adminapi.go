// Package adminapi is how the owner's tool speaks to a key server over its admin socket.
//
// The protocol is HTTP and JSON over a unix socket. The kernel tells the server the user and
// groups of each peer. Keys enter the server and never leave it in the clear.
// docs/spec/keyapi.md describes the format.
package adminapi

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/internal/emulated"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// Version is the only version of every document of this package.
const Version = 1

// MaxDocument bounds a document in bytes: a refval.json of 4 MiB fits.
const MaxDocument = 5 << 20

// PathDisks is the path of the records.
const PathDisks = "/v1/disks"

// The other paths.
const (
	PathStatus = "/v1/status" // Status
	PathKept   = "/v1/kept"   // records that are no longer in force
	PathPage   = "/v1/page"   // the operator's page, HTML
	PathBackup = "/v1/backup" // a copy of the store
	PathRewrap = "/v1/rewrap" // Rewrapped
	PathKeys   = "/v1/keys"   // a key that the server makes
)

// TicketHeader is the request header that gives the reason for a change. The reason goes on the
// log.
const TicketHeader = "Rootvouch-Ticket"

// MaxTicket bounds a ticket in bytes.
const MaxTicket = 200

// CheckTicket reports whether a ticket can be sent: printable ASCII.
func CheckTicket(ticket string) error {
	if len(ticket) > MaxTicket {
		return fmt.Errorf("ticket has %d bytes, want at most %d", len(ticket), MaxTicket)
	}
	for i := range len(ticket) {
		if c := ticket[i]; c < ' ' || c > '~' {
			return fmt.Errorf("ticket is %q, want printable ASCII", ticket)
		}
	}
	return nil
}

// The values of Put.Evidence, as the store writes them.
const (
	EvidenceRequired    = "required"
	EvidenceNotRequired = "not-required"
)

// Put registers a record.
type Put struct {
	Version int `json:"version"`
	pins.Header
	SPIFFEID string `json:"spiffe_id"`
	// Evidence is EvidenceRequired or EvidenceNotRequired.
	Evidence string `json:"evidence"`
	// ReferenceValues is a refval.json. It is absent only if evidence is not required.
	ReferenceValues json.RawMessage `json:"reference_values,omitempty"`
	// SameVM is the owner's statement that all disks with this SPIFFE ID belong to one VM.
	SameVM bool `json:"same_vm"`
	// Volume is set for a writable volume and absent for a disk.
	Volume *VolumePolicy `json:"volume,omitempty"`
	// Replace lets the record replace the one that the disk has.
	Replace bool `json:"replace"`
	// Beside keeps the disk's present record, and lets the new one stand beside it until a boot
	// confirms it.
	Beside bool `json:"beside"`
	// ChangeRootOfTrust lets the new record have a different root of trust than the record that
	// it replaces.
	ChangeRootOfTrust bool `json:"change_root_of_trust"`
	// MaxReleases is how many launches may have the key within an hour; 0: no limit.
	MaxReleases uint32 `json:"max_releases_per_hour"`
	// MadeKey names a key that the server has made (MadeKey.ID). The put then has no key.
	MadeKey string `json:"made_key,omitempty"`
}

// MadeKey answers a request for a new key. The reply is this document, framed like a put, and
// the key.
type MadeKey struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`    // for Put.MadeKey
	Until   time.Time `json:"until"` // the server keeps it for its disk
}

// Update changes what a record accepts, and keeps its key. Absent fields stay as they are.
type Update struct {
	Version int `json:"version"`
	// ReferenceValues is a refval.json. The present values stay in force beside it for
	// KeepBefore seconds.
	ReferenceValues   json.RawMessage `json:"reference_values,omitempty"`
	KeepBefore        uint32          `json:"keep_before_seconds"`
	ChangeRootOfTrust bool            `json:"change_root_of_trust"`
	MaxReleases       *uint32         `json:"max_releases_per_hour,omitempty"`
}

// Measurement is a launch digest that a record accepts.
type Measurement struct {
	Digest snp.Measurement `json:"digest"`
	Until  time.Time       `json:"until,omitzero"` // absent: for good
}

// Kept says why a record is no longer in force.
type Kept struct {
	Why   string    `json:"why"` // "replaced", "deleted" or "withdrawn"
	At    time.Time `json:"at"`
	Until time.Time `json:"until"` // the server keeps it at least until then
}

// Record is the server's description of a record.
type Record struct {
	pins.Header
	SPIFFEID              string      `json:"spiffe_id"`
	Evidence              string      `json:"evidence"`
	ReferenceValuesSHA256 pins.Digest `json:"reference_values_sha256,omitzero"`
	// RootOfTrust describes the reference values' root of trust in words. It is "none" if
	// evidence is not required, and "unreadable" if the values have another version of the
	// format.
	RootOfTrust string `json:"root_of_trust"`
	// Measurements are the launch digests that the record accepts.
	Measurements []Measurement `json:"measurements"`
	// MaxReleases is how many launches may have the key within an hour; 0: no limit.
	MaxReleases uint32 `json:"max_releases_per_hour"`
	SameVM      bool   `json:"same_vm"`
	// Volume is set for a writable volume.
	Volume     *VolumePolicy `json:"volume,omitempty"`
	State      string        `json:"state"` // "enabled", "disabled" or "retired"
	Generation uint64        `json:"generation"`
	Created    time.Time     `json:"created"`
	Changed    time.Time     `json:"changed"`
	// Kept is set for a record that is no longer in force.
	Kept *Kept `json:"kept,omitempty"`
	// Notes list what keeps the key of a newly registered record from being released.
	Notes []string `json:"notes,omitempty"`
	// ReferenceValues is set in the answer about one record. That answer also has the records
	// beside it: the one that waits for a boot, and those that are no longer in force.
	ReferenceValues json.RawMessage `json:"reference_values,omitempty"`
	Staged          *Record         `json:"staged,omitempty"`
	Before          []Record        `json:"before,omitempty"`
}

// Emulated reports whether the record's root of trust is an emulated one, by its text.
func (r Record) Emulated() bool { return strings.Contains(r.RootOfTrust, emulated.NotConfidential) }

// Release is one launch that got a disk's key.
type Release struct {
	DiskUUID pins.UUID `json:"disk_uuid"`
	// ReportID is the launch's REPORT_ID, 32 bytes. Each attestation report of the VM that has
	// the key carries the same value.
	ReportID   snp.ReportID `json:"report_id"`
	SPIFFEID   string       `json:"spiffe_id"`
	Generation uint64       `json:"generation"`
	Time       time.Time    `json:"time"`
	Leaf       string       `json:"leaf"` // of the log: "LANE/SEQUENCE"
}

// Query asks for records, ordered by the UUIDs of their disks. Zero fields filter nothing.
type Query struct {
	After       pins.UUID       // the last UUID of the previous page
	Limit       int             // at most MaxPage; 0: DefaultPage
	SPIFFEID    string          // exactly
	State       string          // exactly
	Measurement snp.Measurement // among those that the record accepts
	RootOfTrust string          // in words, as in Record
}

// Limits of a page of records.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Records is a page of records.
type Records struct {
	Version int      `json:"version"`
	Records []Record `json:"records"`
	// Next is Query.After for the next page. It is absent on the last page. A page before the
	// last one may be short or empty.
	Next pins.UUID `json:"next,omitzero"`
	// Total is the number of disks with a record, whatever the query asks for.
	Total uint64 `json:"total"`
}

// Exported is a key that left the server, sealed.
type Exported struct {
	Version    int       `json:"version"`
	DiskUUID   pins.UUID `json:"disk_uuid"`
	Generation uint64    `json:"generation"`
	Recipients []string  `json:"recipients"`
	Sealed     string    `json:"sealed"` // an armored age file
}

// Rewrapped answers a step of a rewrap.
type Rewrapped struct {
	Version int    `json:"version"`
	KEK     string `json:"kek"`    // the key that now seals the secrets
	Sealed  int    `json:"sealed"` // secrets sealed in this step
	Next    string `json:"next"`   // the start of the next step; "": the rewrap is done
	// InUse names the key-encryption keys that may still seal a secret. It is set when the
	// rewrap is done.
	InUse []string `json:"in_use"`
}

// Purged answers a purge.
type Purged struct {
	Version int `json:"version"`
	Records int `json:"records"` // the number destroyed
}

// Releases answers a question about a disk's releases.
type Releases struct {
	Version  int       `json:"version"`
	Releases []Release `json:"releases"`
}

// Status is the server's description of itself.
type Status struct {
	Version  int    `json:"version"`
	SPIFFEID string `json:"spiffe_id"`
	// LogKey verifies the log's checkpoints: NAME+HASH+KEY, as in signed notes.
	LogKey string `json:"log_key"`
	// LogSize is how many leaves the log has.
	LogSize uint64 `json:"log_size"`
	// Checkpoint is signed. Whoever keeps it elsewhere can prove later that no leaf before it
	// was changed or cut off.
	Checkpoint string `json:"checkpoint"`
	// KEK names the key-encryption key that seals now.
	KEK string `json:"kek"`
	// Records is the number of disks with a record.
	Records uint64 `json:"records"`
	// Published is the last time when the log was complete.
	Published time.Time `json:"published"`
}

// Failure answers a request that failed.
type Failure struct {
	Version int    `json:"version"`
	Error   string `json:"error"`
}

// The body of a put has three parts: the document's size in bytes as a big-endian uint32, the
// document, and the raw key. A key in JSON would leave copies that nobody can wipe. If the
// document names a key that the server has made, the body has no key.

// EncodePut writes the body of a put. The caller wipes it.
func EncodePut(p Put, key []byte) ([]byte, error) {
	if want := p.keySize(); len(key) != want {
		return nil, fmt.Errorf("key has %d bytes, want %d", len(key), want)
	}
	return EncodeKeyed(p, key)
}

// keySize returns the size in bytes of the key in the body of p.
func (p Put) keySize() int {
	if p.MadeKey != "" {
		return 0
	}
	return keyapi.KeySize
}

// EncodeKeyed writes a document and its key. The caller wipes the result.
func EncodeKeyed(v any, key []byte) ([]byte, error) {
	document, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding a document: %v", err)
	}
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("document has %d bytes, want at most %d", len(document), MaxDocument)
	}
	body := make([]byte, 0, 4+len(document)+len(key))
	body = binary.BigEndian.AppendUint32(body, uint32(len(document)))
	body = append(body, document...)
	return append(body, key...), nil
}

// ReadPut reads the body of a put. It returns the document and the key. The caller wipes the
// key, which is nil if the body has none.
func ReadPut(r io.Reader) (document, key []byte, err error) {
	if document, key, err = ReadKeyed(r); err != nil {
		return nil, nil, fmt.Errorf("reading a put: %w", err)
	}
	return document, key, nil
}

// ReadKeyed reads what EncodeKeyed writes. The caller wipes the key, which is nil if the input
// has none.
func ReadKeyed(r io.Reader) (document, key []byte, err error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > MaxDocument {
		return nil, nil, fmt.Errorf("document has %d bytes, want at most %d", n, MaxDocument)
	}
	document = make([]byte, n)
	if _, err := io.ReadFull(r, document); err != nil {
		return nil, nil, err
	}
	key = make([]byte, keyapi.KeySize)
	switch _, err := io.ReadFull(r, key); {
	case errors.Is(err, io.EOF):
		return document, nil, nil
	case err != nil:
		clear(key)
		return nil, nil, fmt.Errorf("the key: %w", err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		clear(key)
		return nil, nil, errors.New("got bytes after the key")
	}
	return document, key, nil
}
