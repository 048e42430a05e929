package audit

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// Event says what a leaf is about.
type Event string

// The events.
const (
	Init         Event = "init"          // the store was made
	Start        Event = "start"         // a server begins to serve
	Release      Event = "release"       // a key was released to a launch for the first time
	ReleaseAgain Event = "release again" // the very same request was answered again
	Refusal      Event = "refusal"       // a request got no key
	LeftOut      Event = "left out"      // refusals without a leaf of their own
	Put          Event = "put"           // a record was registered or replaced
	Enable       Event = "enable"
	Disable      Event = "disable"
	Retire       Event = "retire"
	Update       Event = "update"   // other reference values or bounds, the same key
	Stage        Event = "stage"    // a record stands beside the disk's own
	Confirm      Event = "confirm"  // the staged record replaced the disk's own
	Withdraw     Event = "withdraw" // the staged record was taken back
	Delete       Event = "delete"
	Restore      Event = "restore"  // a record that was replaced or deleted counts again
	Purge        Event = "purge"    // a record was destroyed for good
	Join         Event = "join"     // a replica's copy of the log was registered
	Leave        Event = "leave"    // its registration ended
	MakeKey      Event = "make key" // the server made a key for a disk that will be built
	Backup       Event = "backup"
	Recovery     Event = "recovery" // the store was made from a backup
	Export       Event = "export"   // a key left the server, sealed
	Rewrap       Event = "rewrap"   // secrets were sealed under another key-encryption key

	VolumeClose   Event = "volume close"   // a launch closed a volume
	VolumeFork    Event = "volume fork"    // a launch that no longer has the volume tried to close it
	VolumeFree    Event = "volume free"    // the operator says: the launch that had it is gone
	VolumeAccept  Event = "volume accept"  // ... the next launch may open it with any contents
	VolumeRestore Event = "volume restore" // ... its contents have this digest
	VolumeRetire  Event = "volume retire"  // ... no further launch gets it
	VolumeReset   Event = "volume reset"   // ... the next launch formats it
)

// kinds maps each event to the type of its Body.
var kinds = map[Event]reflect.Type{
	Init:         reflect.TypeFor[AboutInit](),
	Start:        reflect.TypeFor[AboutStart](),
	Release:      reflect.TypeFor[AboutRelease](),
	ReleaseAgain: reflect.TypeFor[AboutRelease](),
	Refusal:      reflect.TypeFor[AboutRefusal](),
	LeftOut:      reflect.TypeFor[AboutLeftOut](),
	Put:          reflect.TypeFor[AboutChange](),
	Enable:       reflect.TypeFor[AboutChange](),
	Disable:      reflect.TypeFor[AboutChange](),
	Retire:       reflect.TypeFor[AboutChange](),
	Update:       reflect.TypeFor[AboutChange](),
	Stage:        reflect.TypeFor[AboutChange](),
	Confirm:      reflect.TypeFor[AboutChange](),
	Withdraw:     reflect.TypeFor[AboutChange](),
	Delete:       reflect.TypeFor[AboutChange](),
	Restore:      reflect.TypeFor[AboutChange](),
	Purge:        reflect.TypeFor[AboutChange](),
	Join:         reflect.TypeFor[AboutReplica](),
	Leave:        reflect.TypeFor[AboutReplica](),
	MakeKey:      reflect.TypeFor[AboutMadeKey](),
	Backup:       reflect.TypeFor[AboutBackup](),
	Recovery:     reflect.TypeFor[AboutRecovery](),
	Export:       reflect.TypeFor[AboutExport](),
	Rewrap:       reflect.TypeFor[AboutRewrap](),

	VolumeClose:   reflect.TypeFor[AboutVolume](),
	VolumeFork:    reflect.TypeFor[AboutVolume](),
	VolumeFree:    reflect.TypeFor[AboutVolume](),
	VolumeAccept:  reflect.TypeFor[AboutVolume](),
	VolumeRestore: reflect.TypeFor[AboutVolume](),
	VolumeRetire:  reflect.TypeFor[AboutVolume](),
	VolumeReset:   reflect.TypeFor[AboutVolume](),
}

// Body is what a leaf says about its event.
type Body interface {
	// Contents are the SHA-256 digests that the body names. Their contents stand beside the
	// log.
	Contents() []pins.Digest
	// bounded returns a copy whose text is cut to its bounds.
	bounded() Body
}

// nothing has no contents.
type nothing struct{}

// Contents implements Body.
func (nothing) Contents() []pins.Digest { return nil }

// Bounds in bytes on text from peers.
const (
	maxReason   = 4 << 10
	maxSPIFFEID = 2048
	maxShort    = 256
	maxChecks   = 20 // number of names
	maxCheck    = 64 // bytes of each
)

// AboutInit is about a new store.
type AboutInit struct {
	nothing
	Origin string `json:"origin"` // of the log
}

func (a AboutInit) bounded() Body { return a }

// AboutStart is about a server that starts.
type AboutStart struct {
	nothing
	SPIFFEID string `json:"spiffe_id"` // of the server
}

func (a AboutStart) bounded() Body { return a }

// AboutReplica is about one of several servers that share a store.
type AboutReplica struct {
	nothing
	Replica string `json:"replica"` // its lane
}

func (a AboutReplica) bounded() Body { return a }

// Request is a request for a key, as far as the server understood it.
type Request struct {
	// SPIFFEID is the caller's. It is empty if the caller's SVID was refused.
	SPIFFEID string `json:"spiffe_id,omitempty"`
	// Remote is the caller's network address.
	Remote string `json:"remote"`
	// Disk is the UUID in the request.
	Disk pins.UUID `json:"disk_uuid,omitzero"`
	// SHA256 is the digest of the request's body.
	SHA256 pins.Digest `json:"request_sha256,omitzero"`
	// ReportID and Measurement are those of the caller's report. In a refusal the report
	// may be forged.
	ReportID    snp.ReportID  `json:"report_id,omitzero"`
	Measurement pins.HexBytes `json:"measurement,omitempty"` // 48 bytes
}

func (r Request) bounded() Request {
	r.SPIFFEID, r.Remote = text(r.SPIFFEID, maxSPIFFEID), text(r.Remote, maxShort)
	return r
}

// AboutRelease is about a key that was released.
type AboutRelease struct {
	Request
	Generation uint64 `json:"generation"` // of the record
	// Volume is set for the key of a writable volume.
	Volume *OpenedVolume `json:"volume,omitempty"`
	// Proof has the inputs of the decision. It is absent if evidence was not required.
	Proof *Proof `json:"proof,omitempty"`
}

func (a AboutRelease) bounded() Body {
	a.Request = a.Request.bounded()
	return a
}

// OpenedVolume is what the server told a launch about a volume.
type OpenedVolume struct {
	Found      keyapi.Found  `json:"found"`
	Generation uint64        `json:"generation"` // number of closes
	Digest     pins.Digest   `json:"digest,omitzero"`
	Holder     keyapi.Holder `json:"holder"` // names the launch
	// Before names the launch that had the volume open. It is absent if none had.
	Before string `json:"before,omitempty"`
}

// AboutVolume is about a volume, and names the launch or the operator that changed it.
type AboutVolume struct {
	nothing
	Actor  string        `json:"actor,omitempty"` // the user at the admin socket
	Ticket string        `json:"ticket,omitempty"`
	Remote string        `json:"remote,omitempty"` // the launch's network address
	Holder keyapi.Holder `json:"holder,omitzero"`  // the launch
	Disk   pins.UUID     `json:"disk_uuid"`
	// State, Generation and Digest are the volume's after the event. In a fork, Generation and
	// Digest are the ones that the launch asked for.
	State      string      `json:"state"`
	Generation uint64      `json:"generation"`
	Digest     pins.Digest `json:"digest,omitzero"`
}

func (a AboutVolume) bounded() Body {
	a.Actor, a.Ticket, a.Remote = text(a.Actor, maxShort), text(a.Ticket, maxShort), text(a.Remote, maxShort)
	return a
}

// Contents implements Body.
func (a AboutRelease) Contents() []pins.Digest {
	if a.Proof == nil {
		return nil
	}
	return append([]pins.Digest{a.Proof.ReferenceValues, a.Proof.Collateral}, a.Proof.Certificates...)
}

// Proof has all inputs of the appraisal behind a release. The contents that it names by SHA-256
// stand beside the log.
type Proof struct {
	Time            time.Time        `json:"time"` // of the appraisal; the leaf's is later
	Nonce           evidence.Nonce   `json:"nonce"`
	SPKI            []byte           `json:"spki"` // DER: the public key of the caller's SVID
	HPKEPublicKey   keyapi.PublicKey `json:"hpke_public_key"`
	Report          []byte           `json:"report"`
	Certificates    []pins.Digest    `json:"certificates_sha256"` // that the guest sent with the report
	ReferenceValues pins.Digest      `json:"reference_values_sha256"`
	Collateral      pins.Digest      `json:"collateral_sha256"` // digest of a CollateralList
}

// CollateralList names the collateral that the server had. The list stands beside the log, as
// compact JSON.
type CollateralList struct {
	Certificates []pins.Digest `json:"certificates_sha256"`
	CRLs         []pins.Digest `json:"crls_sha256"`
}

// Encode writes the list as compact JSON.
func (l CollateralList) Encode() []byte {
	data, err := json.Marshal(l)
	if err != nil {
		panic("audit: internal error: " + err.Error())
	}
	return data
}

// DecodeCollateral reads a CollateralList.
func DecodeCollateral(data []byte) (CollateralList, error) {
	var l CollateralList
	if err := strictjson.Unmarshal(data, &l); err != nil {
		return CollateralList{}, fmt.Errorf("decoding a list of collateral: %v", err)
	}
	return l, nil
}

// AboutRefusal is about a request that got no key.
type AboutRefusal struct {
	nothing
	Request
	Code       string   `json:"code"`   // the code in the reply
	Checks     []string `json:"checks"` // the checks that failed
	Reason     string   `json:"reason"`
	Suppressed uint64   `json:"suppressed,omitempty"` // earlier refusals of this caller without a leaf
}

func (a AboutRefusal) bounded() Body {
	a.Request, a.Reason = a.Request.bounded(), text(a.Reason, maxReason)
	checks := []string{}
	for _, check := range a.Checks[:min(len(a.Checks), maxChecks)] {
		checks = append(checks, text(check, maxCheck))
	}
	a.Checks = checks
	return a
}

// AboutLeftOut counts refusals that were too many to get a leaf each.
type AboutLeftOut struct {
	nothing
	SPIFFEID string `json:"spiffe_id"` // empty: many callers
	Count    uint64 `json:"count"`
}

func (a AboutLeftOut) bounded() Body {
	a.SPIFFEID = text(a.SPIFFEID, maxSPIFFEID)
	return a
}

// Actor is the user that asked for a change.
type Actor struct {
	Name   string // as the kernel knows it
	Ticket string // the reason, in the actor's own words; may be empty
}

// AboutChange is about a record that was changed.
type AboutChange struct {
	Actor  string `json:"actor"` // the user at the admin socket
	Ticket string `json:"ticket,omitempty"`
	// Disk and the following fields describe the record after the change. For a delete,
	// withdraw or purge they describe it before the change.
	Disk            pins.UUID   `json:"disk_uuid"`
	SPIFFEID        string      `json:"spiffe_id"`
	Generation      uint64      `json:"generation"`
	Evidence        string      `json:"evidence"`                         // "required" or "not-required"
	ReferenceValues pins.Digest `json:"reference_values_sha256,omitzero"` // absent if evidence is not required
	// Before are earlier reference values, in force until they expire.
	Before      []Expiring  `json:"before,omitempty"`
	MaxReleases uint32      `json:"max_releases_per_hour,omitempty"` // 0: no limit
	Header      pins.Digest `json:"luks2_header_sha256"`
	SameVM      bool        `json:"same_vm"`
	State       string      `json:"state"` // "enabled", "disabled" or "retired"
	// Writers and Unclean are set for a writable volume.
	Writers string `json:"writers,omitempty"`
	Unclean string `json:"unclean,omitempty"`
	// RootOfTrust describes the reference values' root of trust in words. It is set only in
	// events that may bring new reference values.
	RootOfTrust string `json:"root_of_trust,omitempty"`
}

// Expiring are reference values that stay in force until a time.
type Expiring struct {
	ReferenceValues pins.Digest `json:"reference_values_sha256"`
	Until           time.Time   `json:"until"` // UTC
}

// Accepts reports whether reference values are in force at a time.
func (a AboutChange) Accepts(values pins.Digest, now time.Time) bool {
	for _, b := range a.Before {
		if b.ReferenceValues == values && now.Before(b.Until) {
			return true
		}
	}
	return values == a.ReferenceValues
}

// Contents implements Body.
func (a AboutChange) Contents() []pins.Digest {
	if a.ReferenceValues == (pins.Digest{}) {
		return nil
	}
	all := []pins.Digest{a.ReferenceValues}
	for _, b := range a.Before {
		all = append(all, b.ReferenceValues)
	}
	return all
}

func (a AboutChange) bounded() Body {
	a.Actor, a.Ticket, a.RootOfTrust = text(a.Actor, maxShort), text(a.Ticket, maxShort), text(a.RootOfTrust, maxShort)
	return a
}
