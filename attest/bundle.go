package attest

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/attest/attestapi"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/strictjson"
)

const (
	bundleVersion = 1

	// MaxBundleSize bounds an encoded bundle, in bytes.
	MaxBundleSize = 8 << 20
)

// Bundle is an answer with all inputs of its judgement except the reference values.
// So it can be judged again later. The format is docs/spec/owner-attestation.md.
type Bundle struct {
	Answer Answer
	// Time is the time at which the answer was judged, according to the bundle's
	// writer.
	Time       time.Time
	Collateral appraise.Collateral
}

type bundleJSON struct {
	Version      int            `json:"version"`
	Time         time.Time      `json:"time"`
	Nonce        evidence.Nonce `json:"nonce"`
	TLSKey       []byte         `json:"tls_key"`
	Evidence     []byte         `json:"evidence"`
	BootLog      []byte         `json:"boot_log"`
	Certificates [][]byte       `json:"certificates"`
	CRLs         [][]byte       `json:"crls"`
}

// Encode returns the bundle as JSON, with a newline at its end.
func (b Bundle) Encode() ([]byte, error) {
	j := bundleJSON{
		Version: bundleVersion, Time: b.Time.UTC(), Nonce: b.Answer.Nonce, TLSKey: b.Answer.TLSKey,
		Evidence: b.Answer.Evidence, BootLog: b.Answer.BootLog, Certificates: [][]byte{}, CRLs: [][]byte{},
	}
	for _, c := range b.Collateral.Certificates {
		j.Certificates = append(j.Certificates, c.Raw)
	}
	for _, c := range b.Collateral.CRLs {
		j.CRLs = append(j.CRLs, c.Raw)
	}
	out, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding bundle: %v", err)
	}
	if out = append(out, '\n'); len(out) > MaxBundleSize {
		return nil, fmt.Errorf("encoding bundle: it has %d bytes, want at most %d", len(out), MaxBundleSize)
	}
	return out, nil
}

// DecodeBundle reads what [Bundle.Encode] writes.
func DecodeBundle(data []byte) (Bundle, error) {
	b, err := decodeBundle(data)
	if err != nil {
		return Bundle{}, fmt.Errorf("decoding bundle: %w", err)
	}
	return b, nil
}

func decodeBundle(data []byte) (Bundle, error) {
	if len(data) > MaxBundleSize {
		return Bundle{}, fmt.Errorf("it has %d bytes, want at most %d", len(data), MaxBundleSize)
	}
	var j bundleJSON
	if err := strictjson.Unmarshal(data, &j); err != nil {
		return Bundle{}, err
	}
	if j.Version != bundleVersion {
		return Bundle{}, fmt.Errorf("version is %d, want %d", j.Version, bundleVersion)
	}
	if len(j.TLSKey) == 0 || len(j.TLSKey) > attestapi.MaxResponse {
		return Bundle{}, fmt.Errorf("tls_key has %d bytes, want a public key", len(j.TLSKey))
	}
	b := Bundle{Time: j.Time, Answer: Answer{Nonce: j.Nonce, TLSKey: j.TLSKey, Evidence: j.Evidence, BootLog: j.BootLog}}
	for i, der := range j.Certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return Bundle{}, fmt.Errorf("certificate %d: %w", i, err)
		}
		b.Collateral.Certificates = append(b.Collateral.Certificates, c)
	}
	for i, der := range j.CRLs {
		c, err := x509.ParseRevocationList(der)
		if err != nil {
			return Bundle{}, fmt.Errorf("CRL %d: %w", i, err)
		}
		if !bytes.Equal(c.Raw, der) {
			return Bundle{}, fmt.Errorf("CRL %d: bytes follow the revocation list", i)
		}
		b.Collateral.CRLs = append(b.Collateral.CRLs, c)
	}
	return b, nil
}

// Judge judges a stored answer as of the bundle's time. It uses the collateral of
// the bundle and of x, so it refuses a certificate that a later list revokes. Judge
// ignores x.Now.
func (b Bundle) Judge(x Expectation) Result {
	x.Now = b.Time
	x.Collateral = appraise.Collateral{
		Certificates: append(append([]*x509.Certificate{}, b.Collateral.Certificates...), x.Collateral.Certificates...),
		CRLs:         append(append([]*x509.RevocationList{}, b.Collateral.CRLs...), x.Collateral.CRLs...),
	}
	r := Judge(b.Answer, x)
	r.Kept = &b.Time
	r.Notes = append(r.Notes, b.notes(r)...)
	return r
}

// notes returns lines that say what was fresh at the bundle's time, and what is
// unknown since.
func (b Bundle) notes(r Result) []string {
	at := b.Time.UTC().Format(time.RFC3339)
	notes := []string{fmt.Sprintf("kept: judged as of %s. That time and the nonce are the bundle's word: trust it as far as you trust who kept it", at)}
	if !r.Authentic() {
		return notes
	}
	notes = append(notes, fmt.Sprintf("kept: fresh then: REPORT_DATA holds nonce %s, the TLS key of the connection and the boot log", b.Answer.Nonce))
	var newest time.Time
	for _, crl := range b.Collateral.CRLs {
		if crl.ThisUpdate.After(newest) && !crl.ThisUpdate.After(b.Time) {
			newest = crl.ThisUpdate
		}
	}
	if newest.IsZero() {
		return append(notes, "kept: not fresh then: the bundle has no CRL of that time")
	}
	return append(notes, fmt.Sprintf("kept: fresh then: the newest CRL in the bundle is of %s. Later revocations show only in later lists", newest.UTC().Format(time.RFC3339)))
}
