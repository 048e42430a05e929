// Package adminapi is how the owner's tool speaks to a key server over its admin socket.
//
// HTTP and JSON over a unix socket; the server knows its peers by user and group, as the
// kernel has them. A key goes to the server and never comes back in the clear. The format is
// described in docs/spec/keyapi.md.
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

// PathDisks is where the records are.
const PathDisks = "/v1/disks"

// Where the rest is.
const (
	PathStatus = "/v1/status" // Status
	PathKept   = "/v1/kept"   // records that count no more
	PathPage   = "/v1/page"   // the operator's page, HTML
	PathBackup = "/v1/backup" // the store, as it is
	PathRewrap = "/v1/rewrap" // Rewrapped
	PathKeys   = "/v1/keys"   // a key that the server makes
)

// TicketHeader says in a request what a change is for; it goes on the log.
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

// What a record says of the second lock, as the store writes it.
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
	// ReferenceValues is a refval.json; absent only where evidence is not required.
	ReferenceValues json.RawMessage `json:"reference_values,omitempty"`
	// SameVM is the owner's word that every disk with this SPIFFE ID belongs to one
	// VM.
	SameVM bool `json:"same_vm"`
	// Volume is there for a volume that is written, and absent for a disk.
	Volume *VolumePolicy `json:"volume,omitempty"`
	// Replace takes the place of the record that the disk has.
	Replace bool `json:"replace"`
	// Beside lets the record stand beside the one that the disk has, until a boot
	// confirms it.
	Beside bool `json:"beside"`
	// ChangeRootOfTrust lets the new record have another root of trust than the one
	// that it replaces.
	ChangeRootOfTrust bool `json:"change_root_of_trust"`
	// MaxReleases is how many launches may have the key within an hour; 0: no bound.
	MaxReleases uint32 `json:"max_releases_per_hour"`
	// MadeKey names a key that the server has made (MadeKey.ID): then none is sent.
	MadeKey string `json:"made_key,omitempty"`
}

// MadeKey answers a request for a new key: this document, framed as that of a put, and the key.
type MadeKey struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`    // for Put.MadeKey
	Until   time.Time `json:"until"` // it waits for its disk
}

// Update changes what a record accepts, without its key. What is absent stays.
type Update struct {
	Version int `json:"version"`
	// ReferenceValues is a refval.json. For KeepBefore seconds the ones of now count
	// beside it.
	ReferenceValues   json.RawMessage `json:"reference_values,omitempty"`
	KeepBefore        uint32          `json:"keep_before_seconds"`
	ChangeRootOfTrust bool            `json:"change_root_of_trust"`
	MaxReleases       *uint32         `json:"max_releases_per_hour,omitempty"`
}

// Measurement is a launch digest that a record accepts.
type Measurement struct {
	Digest snp.Measurement `json:"digest"`
	Until  time.Time       `json:"until,omitzero"` // absent: no end
}

// Kept says why a record counts no more.
type Kept struct {
	Why   string    `json:"why"` // "replaced", "deleted" or "withdrawn"
	At    time.Time `json:"at"`
	Until time.Time `json:"until"` // it is kept at least
}

// Record is what the server tells about a record.
type Record struct {
	pins.Header
	SPIFFEID              string      `json:"spiffe_id"`
	Evidence              string      `json:"evidence"`
	ReferenceValuesSHA256 pins.Digest `json:"reference_values_sha256,omitzero"`
	// RootOfTrust is that of the reference values, in words: "none" where evidence is
	// not required, "unreadable" where they are of another version of the format.
	RootOfTrust string `json:"root_of_trust"`
	// Measurements are the launch digests that it accepts.
	Measurements []Measurement `json:"measurements"`
	// MaxReleases is how many launches may have the key within an hour; 0: no bound.
	MaxReleases uint32 `json:"max_releases_per_hour"`
	SameVM      bool   `json:"same_vm"`
	// Volume is there for a volume that is written.
	Volume     *VolumePolicy `json:"volume,omitempty"`
	State      string        `json:"state"` // "enabled", "disabled" or "retired"
	Generation uint64        `json:"generation"`
	Created    time.Time     `json:"created"`
	Changed    time.Time     `json:"changed"`
	// Kept is there with a record that counts no more.
	Kept *Kept `json:"kept,omitempty"`
	// Notes say, of a record that was just registered, what keeps its key from being released.
	Notes []string `json:"notes,omitempty"`
	// ReferenceValues is there in the answer about one record, and so is what stands
	// beside it: the record that waits for a boot, and those that count no more.
	ReferenceValues json.RawMessage `json:"reference_values,omitempty"`
	Staged          *Record         `json:"staged,omitempty"`
	Before          []Record        `json:"before,omitempty"`
}

// Emulated reports whether the record's root of trust is an emulated one, by its text.
func (r Record) Emulated() bool { return strings.Contains(r.RootOfTrust, emulated.NotConfidential) }

// Release is one launch that got a disk's key.
type Release struct {
	DiskUUID pins.UUID `json:"disk_uuid"`
	// ReportID is REPORT_ID of the launch, 32 bytes: what an attestation report of
	// the VM that has the key says too.
	ReportID   snp.ReportID `json:"report_id"`
	SPIFFEID   string       `json:"spiffe_id"`
	Generation uint64       `json:"generation"`
	Time       time.Time    `json:"time"`
	Leaf       string       `json:"leaf"` // of the log: "LANE/SEQUENCE"
}

// Query asks for records, in the order of their disks' UUIDs. What is zero filters nothing.
type Query struct {
	After       pins.UUID       // the last one of the page before
	Limit       int             // at most MaxPage; 0: DefaultPage
	SPIFFEID    string          // exactly
	State       string          // exactly
	Measurement snp.Measurement // among those that the record accepts
	RootOfTrust string          // in words
}

// Bounds of a page of records.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Records is a page of records.
type Records struct {
	Version int      `json:"version"`
	Records []Record `json:"records"`
	// Next is where the next page begins (Query.After); absent on the last. A page may be
	// short, and even empty, before the last one.
	Next pins.UUID `json:"next,omitzero"`
	// Total is how many disks have a record, whatever was asked for.
	Total uint64 `json:"total"`
}

// Exported is a key that left the server, sealed.
type Exported struct {
	Version    int       `json:"version"`
	DiskUUID   pins.UUID `json:"disk_uuid"`
	Generation uint64    `json:"generation"`
	Recipients []string  `json:"recipients"`
	Sealed     string    `json:"sealed"` // an age file with ASCII armor
}

// Rewrapped answers a step of a rewrap.
type Rewrapped struct {
	Version int    `json:"version"`
	KEK     string `json:"kek"`    // under which secrets are sealed now
	Sealed  int    `json:"sealed"` // how many in this step
	Next    string `json:"next"`   // where the next step begins; "": it is done
	// InUse are the key-encryption keys that something may be sealed under, when it is
	// done.
	InUse []string `json:"in_use"`
}

// Purged answers a purge.
type Purged struct {
	Version int `json:"version"`
	Records int `json:"records"` // that were destroyed
}

// Releases answers a question about a disk's releases.
type Releases struct {
	Version  int       `json:"version"`
	Releases []Release `json:"releases"`
}

// Status is what the server tells about itself.
type Status struct {
	Version  int    `json:"version"`
	SPIFFEID string `json:"spiffe_id"`
	// LogKey verifies the log's checkpoints: NAME+HASH+KEY, as in signed notes.
	LogKey string `json:"log_key"`
	// LogSize is how many leaves the log has.
	LogSize uint64 `json:"log_size"`
	// Checkpoint is signed. Kept elsewhere, it proves later that no leaf up to it was
	// changed or cut off.
	Checkpoint string `json:"checkpoint"`
	// KEK is the name of the key-encryption key that seals.
	KEK string `json:"kek"`
	// Records is how many disks have one.
	Records uint64 `json:"records"`
	// Published is when the log had all that there was to have.
	Published time.Time `json:"published"`
}

// Failure answers a request that failed.
type Failure struct {
	Version int    `json:"version"`
	Error   string `json:"error"`
}

// The body of a put is the document's size in bytes as a big-endian uint32, the
// document, and the key as it is: a key in JSON would leave copies that nobody can
// wipe. There is no key where the document names one that the server has made.

// EncodePut writes the body of a put. The caller wipes it.
func EncodePut(p Put, key []byte) ([]byte, error) {
	if want := p.keySize(); len(key) != want {
		return nil, fmt.Errorf("key has %d bytes, want %d", len(key), want)
	}
	return EncodeKeyed(p, key)
}

// keySize is how many bytes of a key go with p.
func (p Put) keySize() int {
	if p.MadeKey != "" {
		return 0
	}
	return keyapi.KeySize
}

// EncodeKeyed writes a document and the key that goes with it. The caller wipes it.
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

// ReadPut reads the body of a put: its document, and the key, which the caller
// wipes; nil where there is none.
func ReadPut(r io.Reader) (document, key []byte, err error) {
	if document, key, err = ReadKeyed(r); err != nil {
		return nil, nil, fmt.Errorf("reading a put: %w", err)
	}
	return document, key, nil
}

// ReadKeyed reads what EncodeKeyed writes. The caller wipes the key, which is nil where there
// is none.
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
