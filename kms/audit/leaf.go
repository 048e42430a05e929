// Package audit defines the leaves in which the key server records releases, refusals and changes.
//
// Each event is one leaf of a transparency log (package tlogdir). Each replica writes its
// leaves in a lane of its own, and each leaf names the digest of the one before it. So the
// log shows a publisher that dropped or swapped leaves. docs/spec/keylog.md describes the
// format.
package audit

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
)

const (
	version = 1

	// MaxLeaf bounds a leaf in bytes. Encode cuts texts so that a leaf stays below the bound
	// even if JSON writes six bytes for each of their bytes.
	MaxLeaf = 1<<16 - 1

	chainLabel = "rootvouch kms audit v2\n"
)

// Head is the end of a lane.
type Head struct {
	Sequence uint64      `json:"sequence"` // of the last leaf, from 1; 0 in an empty lane
	Digest   pins.Digest `json:"digest"`   // of the last leaf
}

// Place is the position of a leaf in its lane. Its text form is "LANE/SEQUENCE".
type Place struct {
	Lane     string `json:"lane"`
	Sequence uint64 `json:"sequence"`
}

func (p Place) String() string { return fmt.Sprintf("%s/%d", p.Lane, p.Sequence) }

// Leaf is one event.
type Leaf struct {
	Place
	Previous pins.Digest // of the leaf before it in its lane; zero in the first
	Time     time.Time   // UTC
	Entry
}

// Entry is an event with its details.
type Entry struct {
	Event Event
	About Body // has the type that belongs to the event
}

// document is the JSON form of a leaf.
type document struct {
	Version  int         `json:"version"`
	Lane     string      `json:"lane"`
	Sequence uint64      `json:"sequence"`
	Previous pins.Digest `json:"previous"`
	Time     time.Time   `json:"time"`
	Event    Event       `json:"event"`
	// About is a Body. The member has the same name for all events.
	About json.RawMessage `json:"about"`
}

var laneName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CheckLane returns an error unless name is valid for a lane.
func CheckLane(name string) error {
	if !laneName.MatchString(name) {
		return fmt.Errorf("lane is %q, want lower-case letters, digits, dots and dashes, at most 63", name)
	}
	return nil
}

// digest is SHA-256 over the label and the leaf.
func digest(leaf []byte) pins.Digest {
	h := sha256.New()
	h.Write([]byte(chainLabel))
	h.Write(leaf)
	return pins.Digest(h.Sum(nil))
}

// Encode writes the leaf that follows head in a lane, and returns the head after it.
func Encode(lane string, after Head, now time.Time, e Entry) ([]byte, Head) {
	if err := e.check(); err != nil {
		panic("audit: internal error: " + err.Error())
	}
	e.About = e.About.bounded()
	data, err := encode(Leaf{Place: Place{lane, after.Sequence + 1}, Previous: after.Digest, Time: now.UTC().Round(0), Entry: e})
	if err != nil {
		panic("audit: internal error: " + err.Error())
	}
	if len(data) > MaxLeaf { // no reader could decode the log
		panic(fmt.Sprintf("audit: internal error: a leaf of %d bytes, want at most %d", len(data), MaxLeaf))
	}
	return data, Head{after.Sequence + 1, digest(data)}
}

func encode(l Leaf) ([]byte, error) {
	about, err := json.Marshal(l.About)
	if err != nil {
		return nil, err
	}
	return json.Marshal(document{version, l.Lane, l.Sequence, l.Previous, l.Time, l.Event, about})
}

// Decode reads one leaf, in the canonical form that Encode writes.
func Decode(data []byte) (Leaf, error) {
	l, ok := exactRelease(data)
	if !ok {
		var err error
		if l, err = decode(data); err != nil {
			return Leaf{}, fmt.Errorf("decoding a leaf: %v", err)
		}
	}
	if err := CheckLane(l.Lane); err != nil {
		return Leaf{}, fmt.Errorf("decoding a leaf: %v", err)
	}
	if _, offset := l.Time.Zone(); offset != 0 {
		return Leaf{}, fmt.Errorf("decoding a leaf: time is %s, want UTC", l.Time.Format(time.RFC3339))
	}
	return l, nil
}

// decode reads a leaf about any event. It leaves the name of the lane and the zone of the time to
// Decode.
func decode(data []byte) (Leaf, error) {
	var d document
	if err := strictjson.UnmarshalCanonical(data, &d, func() ([]byte, error) { return json.Marshal(d) }); err != nil {
		return Leaf{}, err
	}
	if d.Version != version {
		return Leaf{}, fmt.Errorf("version is %d, want %d", d.Version, version)
	}
	kind, ok := kinds[d.Event]
	if !ok {
		return Leaf{}, fmt.Errorf("event is %q, want a known event", d.Event)
	}
	about := reflect.New(kind)
	if err := strictjson.UnmarshalCanonical(d.About, about.Interface(), func() ([]byte, error) { return json.Marshal(about.Elem().Interface()) }); err != nil {
		return Leaf{}, fmt.Errorf("about %q: %v", d.Event, err)
	}
	return Leaf{Place{d.Lane, d.Sequence}, d.Previous, d.Time, Entry{d.Event, about.Elem().Interface().(Body)}}, nil
}

// check returns an error unless the event is known and its body has the right type.
func (e Entry) check() error {
	kind, ok := kinds[e.Event]
	if !ok {
		return fmt.Errorf("event is %q, want a known event", e.Event)
	}
	if got := reflect.TypeOf(e.About); got != kind {
		return fmt.Errorf("event %q has a body of type %v, want %v", e.Event, got, kind)
	}
	return nil
}

// Lanes are the heads of all lanes of a log, up to the last leaf read.
type Lanes map[string]Head // :: lane -> its head

// Next reads the next leaf of the log. The leaf must follow the head of its lane, and becomes
// the new head.
func (l Lanes) Next(data []byte) (Leaf, error) {
	leaf, err := Decode(data)
	if err != nil {
		return Leaf{}, err
	}
	head := l[leaf.Lane]
	switch {
	case leaf.Sequence != head.Sequence+1:
		return Leaf{}, fmt.Errorf("leaf is %s, want %s: leaves are missing or out of order", leaf.Place, Place{leaf.Lane, head.Sequence + 1})
	case leaf.Previous != head.Digest:
		return Leaf{}, fmt.Errorf("leaf %s: previous is %s, want %s: the leaf before it was changed", leaf.Place, leaf.Previous, head.Digest)
	}
	l[leaf.Lane] = Head{leaf.Sequence, digest(data)}
	return leaf, nil
}

// text cuts text from a peer to its limit and makes it valid UTF-8, so that every leaf has one
// form.
func text(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	for limit--; limit > 0 && !utf8.RuneStart(s[limit]); limit-- {
	}
	return s[:limit]
}
