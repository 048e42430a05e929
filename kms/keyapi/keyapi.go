// Package keyapi holds the messages between a guest that asks for its disk's key and the key server.
//
// A guest makes two requests over mutual TLS. Each is a POST of one JSON document: PathNonce
// returns a nonce, ReleasePath returns the key. HPKE (RFC 9180) seals the key in the reply to a
// public key that the caller's evidence binds. So the TLS session alone is not enough to read
// the key. docs/spec/keyapi.md describes the format.
//
// A guest that closes a volume sends a third request, to CommitPath. That request has no SVID.
// It carries a MAC under a key that came with the release.
//
// Every document has one form: compact JSON, members in the order of the type. Decode
// refuses every other form. So two requests are the same if their bytes are equal.
package keyapi

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
)

// Version is the only version of every message of this package.
const Version = 1

// Limits in bytes, checked before anything is decoded.
const (
	// MaxRequestSize bounds both requests. Evidence is the largest part: at most 64 KiB, which
	// is 88 KiB in base64.
	MaxRequestSize = 96 << 10
	// MaxEvidenceSize bounds ReleaseRequest.Evidence; docs/spec/evidence.md.
	MaxEvidenceSize = 64 << 10
	// MaxCommitSize bounds a commit. The server reads commits from anyone.
	MaxCommitSize = 1 << 10
	// MaxReplySize bounds every reply.
	MaxReplySize = 8 << 10
)

// PathNonce is where a caller gets a nonce.
const PathNonce = "/v1/nonce"

// ReleasePath is where a caller gets the key of disk.
func ReleasePath(disk pins.UUID) string { return "/v1/disks/" + disk.String() + "/release" }

// PublicKey is an X25519 public key, as RFC 9180 serializes it (SerializePublicKey,
// section 7.1.1: the 32 bytes of RFC 7748). Its text form is lower-case hex.
type PublicKey [32]byte

func (k PublicKey) String() string { return hex.EncodeToString(k[:]) }

// MarshalText writes k as lower-case hex.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads 64 lower-case hex digits.
func (k *PublicKey) UnmarshalText(text []byte) error {
	if err := pins.DecodeHex(k[:], text); err != nil {
		return fmt.Errorf("parsing HPKE public key: %v", err)
	}
	return nil
}

// NonceRequest is the body of a POST to PathNonce.
type NonceRequest struct {
	Version int `json:"version"`
}

// NonceReply answers it. The nonce is good for one release with the same SVID, within the time
// that the server keeps it (by default a minute).
type NonceReply struct {
	Version int            `json:"version"`
	Nonce   evidence.Nonce `json:"nonce"`
}

// ReleaseRequest is the body of a POST to ReleasePath.
type ReleaseRequest struct {
	Version int `json:"version"`
	// Nonce is the nonce that the evidence binds.
	Nonce evidence.Nonce `json:"nonce"`
	// HPKEPublicKey is the ephemeral key to which the server seals the reply.
	HPKEPublicKey PublicKey `json:"hpke_public_key"`
	// Evidence is one evidence document (docs/spec/evidence.md), in base64. Its REPORT_DATA
	// binds the nonce, the disk's UUID, the public key of the caller's SVID and HPKEPublicKey.
	// A guest always sends evidence. The record says whether the server accepts a request
	// without it.
	Evidence []byte `json:"evidence"`
}

// ReleaseReply answers it.
type ReleaseReply struct {
	Version int `json:"version"`
	// Sealed is a Released, sealed to the request's HPKEPublicKey; see Seal.
	Sealed []byte `json:"sealed"`
}

// Code is all that a caller learns about a refusal. The reason is in the server's
// audit log.
type Code string

// The codes, each with the one HTTP status that carries it.
const (
	CodeMalformed   Code = "malformed"   // 400: the request has another form
	CodeDenied      Code = "denied"      // 403: this caller gets no key of this disk with this evidence; final
	CodeNonce       Code = "nonce"       // 409: nonce unknown, used or too old; get a new nonce and new evidence
	CodeBusy        Code = "busy"        // 429: too much at once, or the record's bound for the hour is reached; wait
	CodeHeld        Code = "held"        // 423: another launch has the volume open; wait, or ask the operator
	CodeUnavailable Code = "unavailable" // 503: the server cannot answer now; wait
)

// UnmarshalText accepts only the codes above.
func (c *Code) UnmarshalText(text []byte) error {
	switch code := Code(text); code {
	case CodeMalformed, CodeDenied, CodeNonce, CodeBusy, CodeHeld, CodeUnavailable:
		*c = code
		return nil
	}
	return fmt.Errorf("error code is %q, want one of the key API", text)
}

// ErrorReply answers a request that was refused.
type ErrorReply struct {
	Version int  `json:"version"`
	Error   Code `json:"error"`
}

// Message is any document of this package.
type Message interface {
	NonceRequest | NonceReply | ReleaseRequest | ReleaseReply | CommitRequest | CommitReply | ErrorReply
}

// Encode writes m in its canonical form.
func Encode[M Message](m M) []byte {
	// encoding/json writes a nil slice as null; the canonical form is "".
	switch m := any(&m).(type) {
	case *ReleaseRequest:
		m.Evidence = append([]byte{}, m.Evidence...)
	case *ReleaseReply:
		m.Sealed = append([]byte{}, m.Sealed...)
	}
	data, err := json.Marshal(m)
	if err != nil {
		panic("keyapi: internal error: " + err.Error())
	}
	return data
}

// Decode reads one message: strict JSON, in the canonical form that Encode writes.
func Decode[M Message](data []byte) (M, error) {
	var m, none M
	if limit := maxSize(m); len(data) > limit {
		return none, fmt.Errorf("decoding %T: got %d bytes, want at most %d", m, len(data), limit)
	}
	if request, ok := any(&m).(*ReleaseRequest); !ok || !request.exact(data) {
		m = none
		if err := strictjson.UnmarshalCanonical(data, &m, func() ([]byte, error) { return Encode(m), nil }); err != nil {
			return none, fmt.Errorf("decoding %T: %v", m, err)
		}
	}
	if err := check(m); err != nil {
		return none, fmt.Errorf("decoding %T: %v", m, err)
	}
	return m, nil
}

// exact reads the largest message, of which a server reads most, in the form that Encode
// writes. It reports whether data has that form.
func (r *ReleaseRequest) exact(data []byte) bool {
	e := strictjson.ReadExact(data)
	r.Version = Version
	e.Text(`{"version":1,"nonce":"`)
	e.Hex(r.Nonce[:])
	e.Text(`","hpke_public_key":"`)
	e.Hex(r.HPKEPublicKey[:])
	e.Text(`","evidence":"`)
	r.Evidence = e.Base64()
	e.Text(`"}`)
	return e.End()
}

func maxSize(m any) int {
	switch m.(type) {
	case CommitRequest:
		return MaxCommitSize
	case NonceRequest, ReleaseRequest:
		return MaxRequestSize
	}
	return MaxReplySize
}

func check(m any) error {
	got := Version
	switch m := m.(type) {
	case NonceRequest:
		got = m.Version
	case NonceReply:
		got = m.Version
	case ReleaseRequest:
		got = m.Version
		if len(m.Evidence) > MaxEvidenceSize {
			return fmt.Errorf("evidence has %d bytes, want at most %d", len(m.Evidence), MaxEvidenceSize)
		}
	case ReleaseReply:
		got = m.Version
	case CommitRequest:
		got = m.Version
		if m.Generation == 0 || m.Digest == (pins.Digest{}) || m.Holder == (Holder{}) {
			return errors.New("generation, digest or holder is zero")
		}
	case CommitReply:
		got = m.Version
	case ErrorReply:
		got = m.Version
	default:
		panic(fmt.Sprintf("keyapi: internal error: no check for %T", m))
	}
	if got != Version {
		return fmt.Errorf("version is %d, want %d", got, Version)
	}
	return nil
}
