// Package evidence encodes what a guest shows to a verifier: an attestation report
// with the certificates of the key that signed it. It also binds the REPORT_DATA of
// a report to a purpose.
//
// docs/spec/evidence.md describes the format. This package does not judge evidence:
// package appraise does, and guests do not link package appraise.
package evidence

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/rootvouch/rootvouch/internal/strictjson"
)

const (
	version = 1

	// MaxSize bounds encoded evidence, in bytes.
	MaxSize = 64 << 10
	// MaxReport bounds the report, or a cloud's wrapper around it, in bytes.
	MaxReport = 16 << 10
	// MaxCertificates bounds the number of certificates.
	MaxCertificates = 8
	// MaxCertificate bounds one certificate, in bytes of DER.
	MaxCertificate = 8 << 10
)

// Evidence is a report and the certificates that came with it. Only its form and
// size have been checked.
type Evidence struct {
	// Report is an attestation report of 1184 bytes, or a cloud's wrapper around
	// one. The verifier chooses which of the two it accepts.
	Report []byte
	// Certificates holds DER: first VCEK or VLEK, then ASK or ASVK, then ARK. It
	// may lack certificates that the verifier has, so it may be empty.
	Certificates [][]byte
}

// wire is the JSON form.
type wire struct {
	Version      int        `json:"version"`
	Report       base64ed   `json:"report"`
	Certificates []base64ed `json:"certificates"`
}

// base64ed is standard base64 with padding, in its one canonical form.
type base64ed []byte

func (b base64ed) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

func (b *base64ed) UnmarshalText(text []byte) error {
	out, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return err
	}
	*b = out
	return nil
}

// check refuses evidence outside the limits.
func (e Evidence) check() error {
	if len(e.Report) == 0 || len(e.Report) > MaxReport {
		return fmt.Errorf("report has %d bytes, want 1 to %d", len(e.Report), MaxReport)
	}
	if len(e.Certificates) > MaxCertificates {
		return fmt.Errorf("got %d certificates, want at most %d", len(e.Certificates), MaxCertificates)
	}
	for i, c := range e.Certificates {
		if len(c) == 0 || len(c) > MaxCertificate {
			return fmt.Errorf("certificate %d has %d bytes, want 1 to %d", i, len(c), MaxCertificate)
		}
	}
	return nil
}

// Encode returns the evidence as JSON, in the one form that [Decode] accepts.
func (e Evidence) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("encoding evidence: %v", err)
	}
	w := wire{Version: version, Report: e.Report, Certificates: make([]base64ed, 0, len(e.Certificates))}
	for _, c := range e.Certificates {
		w.Certificates = append(w.Certificates, c)
	}
	out, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encoding evidence: %v", err)
	}
	if len(out) > MaxSize {
		return nil, fmt.Errorf("encoding evidence: it has %d bytes, want at most %d", len(out), MaxSize)
	}
	return out, nil
}

// Decode reads evidence. It checks the size first. Then it accepts exactly the
// bytes that [Evidence.Encode] would write.
func Decode(data []byte) (Evidence, error) {
	if len(data) > MaxSize {
		return Evidence{}, fmt.Errorf("decoding evidence: it has %d bytes, want at most %d", len(data), MaxSize)
	}
	w, ok := exact(data)
	if !ok {
		w = wire{}
		if err := strictjson.UnmarshalCanonical(data, &w, func() ([]byte, error) { return json.Marshal(w) }); err != nil {
			return Evidence{}, fmt.Errorf("decoding evidence: %v", err)
		}
	}
	if w.Version != version {
		return Evidence{}, fmt.Errorf("decoding evidence: version is %d, want %d", w.Version, version)
	}
	e := Evidence{Report: w.Report, Certificates: make([][]byte, 0, len(w.Certificates))}
	for _, c := range w.Certificates {
		e.Certificates = append(e.Certificates, c)
	}
	if err := e.check(); err != nil {
		return Evidence{}, fmt.Errorf("decoding evidence: %v", err)
	}
	return e, nil
}

// exact reads the form that Encode writes, and reports whether data has that form.
func exact(data []byte) (w wire, ok bool) {
	e := strictjson.ReadExact(data)
	w = wire{Version: version, Certificates: []base64ed{}}
	e.Text(`{"version":1,"report":"`)
	w.Report = e.Base64()
	e.Text(`","certificates":[`)
	for more := e.Next(`"`); more; more = e.Next(`,"`) {
		w.Certificates = append(w.Certificates, e.Base64())
		e.Text(`"`)
	}
	e.Text(`]}`)
	return w, e.End()
}
