// Package attestapi holds the messages between an owner and the attestd of a booted
// VM.
//
// The format is docs/spec/owner-attestation.md. Each message has exactly one form: the
// bytes that its Encode function writes.
package attestapi

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/strictjson"
)

const (
	// Version is the only version of the messages.
	Version = 1

	// Path is the path of a request, sent by POST over HTTPS.
	Path = "/v1/attestation"

	// Port is where attestd listens inside a VM.
	Port = 8444

	// MaxRequest and MaxResponse bound the messages in bytes. A response is two
	// documents in base64, with short JSON around them.
	MaxRequest  = 1 << 10
	MaxResponse = (evidence.MaxSize+bootlog.MaxSize)*4/3 + 1<<10

	// MaxProblem bounds the text of a Problem in bytes.
	MaxProblem = 512
)

// Request asks for evidence.
type Request struct {
	Version int `json:"version"`
	// Nonce is the owner's nonce, drawn for this request.
	Nonce evidence.Nonce `json:"nonce"`
}

// Response answers a Request.
type Response struct {
	Version int `json:"version"`
	// Evidence is one evidence document (docs/spec/evidence.md), whose REPORT_DATA
	// is evidence.OwnerAttestation over the nonce, the public key of the TLS
	// connection, and the SHA-256 of BootLog.
	Evidence []byte `json:"evidence"` // base64
	// BootLog is one boot log (docs/spec/bootlog.md). It is carried as bytes,
	// because its digest covers bytes.
	BootLog []byte `json:"boot_log"` // base64
}

// Problem is the body of every response whose status is not 200.
type Problem struct {
	Version int    `json:"version"`
	Error   string `json:"error"`
}

// Encode returns q's one form.
func (q Request) Encode() []byte { return encode(q) }

// Encode returns r's one form.
func (r Response) Encode() []byte { return encode(r) }

// Encode returns p's one form.
func (p Problem) Encode() []byte { return encode(p) }

// DecodeRequest reads what Request.Encode writes.
func DecodeRequest(data []byte) (Request, error) {
	var q Request
	if err := decode(data, &q, MaxRequest); err != nil {
		return Request{}, fmt.Errorf("decoding request: %w", err)
	}
	if q.Version != Version {
		return Request{}, fmt.Errorf("decoding request: version is %d, want %d", q.Version, Version)
	}
	return q, nil
}

// DecodeResponse reads the form that Response.Encode writes. It does not decode the
// two documents in it.
func DecodeResponse(data []byte) (Response, error) {
	var r Response
	if err := decode(data, &r, MaxResponse); err != nil {
		return Response{}, fmt.Errorf("decoding response: %w", err)
	}
	if r.Version != Version {
		return Response{}, fmt.Errorf("decoding response: version is %d, want %d", r.Version, Version)
	}
	return r, nil
}

// DecodeProblem reads what Problem.Encode writes.
func DecodeProblem(data []byte) (Problem, error) {
	var p Problem
	if err := decode(data, &p, MaxRequest); err != nil {
		return Problem{}, fmt.Errorf("decoding problem: %w", err)
	}
	if p.Version != Version || len(p.Error) > MaxProblem {
		return Problem{}, fmt.Errorf("decoding problem: version is %d with a text of %d bytes, want %d with at most %d", p.Version, len(p.Error), Version, MaxProblem)
	}
	return p, nil
}

func encode(message any) []byte {
	out, err := json.Marshal(message)
	if err != nil {
		panic("attestapi: internal error: " + err.Error())
	}
	return out
}

// decode reads one message that must be in its canonical form.
func decode(data []byte, message any, limit int) error {
	if len(data) > limit {
		return fmt.Errorf("it has %d bytes, want at most %d", len(data), limit)
	}
	if err := strictjson.Unmarshal(data, message); err != nil {
		return err
	}
	if !bytes.Equal(encode(message), data) {
		return fmt.Errorf("it is not in its canonical form")
	}
	return nil
}
