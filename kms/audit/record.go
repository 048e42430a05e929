// Package audit keeps the key server's append-only record of what it did and refused.
//
// The log is a file of JSON lines. Each names the digest of the line before it;
// the digest of the last line is the head. There is no key in this: who can write
// the file can make another that fits together. A head that was noted where they
// cannot write proves all lines up to its own; without one a log that verifies
// shows that no accident befell it. `rootvouch-kms audit verify --head` takes a
// head that the operator has noted. The store keeps that of the last release,
// change or start, which is no better guarded than the log. The format is described
// in docs/spec/keyapi.md.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

const (
	version = 1

	// MaxLine bounds one line in bytes, its line feed included. What encode lets
	// through stays below, even if JSON escapes every byte of it by six.
	MaxLine = 64 << 10

	// maxReason bounds Entry.Reason in bytes; a longer one is cut.
	maxReason = 4 << 10

	chainLabel = "rootvouch kms audit v1\n"
)

// Event says what an entry is about.
type Event string

// The events.
const (
	Init         Event = "init"          // the log begins
	Start        Event = "start"         // the server begins to serve
	Recovered    Event = "recovered"     // what a crash left unfinished was put right
	Release      Event = "release"       // a key was released to a launch for the first time
	ReleaseAgain Event = "release again" // the very same request was answered again
	Refusal      Event = "refusal"       // no key
	Put          Event = "put"           // a record was registered or replaced
	Enable       Event = "enable"
	Disable      Event = "disable"
	Delete       Event = "delete"
)

// Entry is what the server says about one event. Fields that do not apply are
// left out.
type Entry struct {
	Event Event `json:"event"`
	// Disk is the UUID that was asked for.
	Disk pins.UUID `json:"disk_uuid,omitzero"`
	// SPIFFEID is the caller's, or for a change the record's.
	SPIFFEID string `json:"spiffe_id,omitempty"`
	// Remote is the caller's network address.
	Remote string `json:"remote,omitempty"`
	// Actor is who asked for a change over the admin socket.
	Actor string `json:"actor,omitempty"`
	// Generation is the record's.
	Generation uint64 `json:"generation,omitempty"`
	// RequestSHA256 is over the body of the request.
	RequestSHA256 pins.Digest `json:"request_sha256,omitzero"`
	// ReportID is REPORT_ID of the caller's report. In a refusal the report may be
	// forged.
	ReportID snp.ReportID `json:"report_id,omitzero"`
	// Measurement is MEASUREMENT of the caller's report, 48 bytes. In a refusal the
	// report may be forged.
	Measurement pins.HexBytes `json:"measurement,omitempty"`
	// Evidence is "required" or "not-required", as the record had it.
	Evidence string `json:"evidence,omitempty"`
	// ReferenceValuesSHA256 is over the refval.json that the record has; zero where
	// evidence is not required.
	ReferenceValuesSHA256 pins.Digest `json:"reference_values_sha256,omitzero"`
	// LUKS2HeaderSHA256 is the header pin that a change leaves the record with.
	LUKS2HeaderSHA256 pins.Digest `json:"luks2_header_sha256,omitzero"`
	// SameVM is the record's.
	SameVM bool `json:"same_vm,omitempty"`
	// Code is what the caller of a refused request learnt.
	Code string `json:"code,omitempty"`
	// Reason says why.
	Reason string `json:"reason,omitempty"`
	// Suppressed is how many refusals were left out since the last one in the log,
	// because there were too many at a time.
	Suppressed uint64 `json:"suppressed,omitempty"`
}

// Record is one line.
type Record struct {
	Version  int         `json:"version"`
	Sequence uint64      `json:"sequence"` // from 1, without gaps
	Previous pins.Digest `json:"previous"` // chain digest of the line before; zero in the first
	Time     time.Time   `json:"time"`     // UTC
	Entry
}

// Head is the end of a log. Who knows it knows whether a log that has it is the
// one that had it then.
type Head struct {
	Sequence uint64      `json:"sequence"` // of the last line
	Digest   pins.Digest `json:"digest"`   // chain digest of the last line
}

func (h Head) String() string { return fmt.Sprintf("%d:%s", h.Sequence, h.Digest) }

// ParseHead reads the form that String writes.
func ParseHead(s string) (Head, error) {
	var h Head
	sequence, digest, ok := strings.Cut(s, ":")
	if !ok {
		return Head{}, fmt.Errorf("parsing head %q: want SEQUENCE:DIGEST", s)
	}
	if _, err := fmt.Sscanf(sequence, "%d", &h.Sequence); err != nil {
		return Head{}, fmt.Errorf("parsing head %q: want a decimal sequence number", s)
	}
	var err error
	if h.Digest, err = pins.ParseDigest(digest); err != nil {
		return Head{}, fmt.Errorf("parsing head %q: %v", s, err)
	}
	if h.String() != s {
		return Head{}, fmt.Errorf("parsing head %q: want %q", s, h)
	}
	return h, nil
}

// chainDigest is SHA-256 over the label and the line with its line feed.
func chainDigest(line []byte) pins.Digest {
	h := sha256.New()
	h.Write([]byte(chainLabel))
	h.Write(line)
	return pins.Digest(h.Sum(nil))
}

// encode writes one line and says the head after it. Text that came from a peer is
// cut and made valid UTF-8, so that every line has one form.
func encode(after Head, now time.Time, e Entry) ([]byte, Head) {
	e.Reason = text(e.Reason, maxReason)
	e.SPIFFEID = text(e.SPIFFEID, 2048)
	e.Remote = text(e.Remote, 256)
	e.Actor = text(e.Actor, 256)
	line, err := json.Marshal(Record{
		Version:  version,
		Sequence: after.Sequence + 1,
		Previous: after.Digest,
		Time:     now.UTC().Round(0),
		Entry:    e,
	})
	if err != nil {
		panic("audit: internal error: " + err.Error())
	}
	line = append(line, '\n')
	if len(line) > MaxLine { // nobody could verify the log any more
		panic(fmt.Sprintf("audit: internal error: a line of %d bytes, want at most %d", len(line), MaxLine))
	}
	return line, Head{after.Sequence + 1, chainDigest(line)}
}

func text(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	for limit--; limit > 0 && !utf8.RuneStart(s[limit]); limit-- {
	}
	return s[:limit]
}

// decode reads the line that follows head after, and says the head after it. What
// does not encode to the very same line is refused, and with it all that
// encoding/json is lax about: unknown, repeated and absent members, other cases,
// data after the value.
func decode(after Head, line []byte) (Record, Head, error) {
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return Record{}, Head{}, err
	}
	again, err := json.Marshal(r)
	switch {
	case err != nil:
		return Record{}, Head{}, err
	case r.Version != version:
		return Record{}, Head{}, fmt.Errorf("version is %d, want %d", r.Version, version)
	case r.Sequence != after.Sequence+1:
		return Record{}, Head{}, fmt.Errorf("sequence is %d, want %d", r.Sequence, after.Sequence+1)
	case r.Previous != after.Digest:
		return Record{}, Head{}, fmt.Errorf("previous is %s, want %s: the line before it was changed", r.Previous, after.Digest)
	case !bytes.Equal(append(again, '\n'), line):
		return Record{}, Head{}, fmt.Errorf("got another form than the canonical one")
	}
	if err := r.check(); err != nil {
		return Record{}, Head{}, err
	}
	return r, Head{r.Sequence, chainDigest(line)}, nil
}

// check reports whether a line of this form is one that the server writes.
func (r Record) check() error {
	if _, offset := r.Time.Zone(); offset != 0 {
		return fmt.Errorf("time is %s, want UTC", r.Time.Format(time.RFC3339))
	}
	if first := r.Sequence == 1; first != (r.Event == Init) {
		return fmt.Errorf("event is %q in line %d, want %q in the first line and there alone", r.Event, r.Sequence, Init)
	}
	return r.Entry.check()
}

// check reports whether the event is known, and has no members of others.
func (e Entry) check() error {
	rest := e // what is left when the event's own members are gone
	rest.Event = ""
	switch e.Event {
	case Init:
	case Start:
		rest.SPIFFEID = ""
	case Recovered:
		rest.Reason = ""
	case Release, ReleaseAgain, Refusal:
		rest.Disk, rest.SPIFFEID, rest.Remote, rest.Generation, rest.Evidence = pins.UUID{}, "", "", 0, ""
		rest.RequestSHA256, rest.ReportID, rest.Measurement = pins.Digest{}, snp.ReportID{}, nil
		rest.ReferenceValuesSHA256 = pins.Digest{}
		if e.Event == Refusal {
			rest.Code, rest.Reason, rest.Suppressed = "", "", 0
		}
	case Put, Enable, Disable, Delete:
		rest.Disk, rest.SPIFFEID, rest.Actor, rest.Generation, rest.Evidence = pins.UUID{}, "", "", 0, ""
		rest.ReferenceValuesSHA256, rest.LUKS2HeaderSHA256, rest.SameVM = pins.Digest{}, pins.Digest{}, false
	default:
		return fmt.Errorf("event is %q, want one that is known", e.Event)
	}
	if !reflect.ValueOf(rest).IsZero() {
		return fmt.Errorf("event %q has members of another event", e.Event)
	}
	return nil
}
