package cli

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// KindAuto lets a report file's own form decide. That is for a person who looks
// at a file; a server always names the kind.
const KindAuto = "auto"

const maxInput = 1 << 20 // bytes of any input file but reference values

// ExitMalformed is the exit status of Malformed.
const ExitMalformed = 3

// Malformed is the error of an input that is not in its form.
func Malformed(format string, args ...any) error {
	return WithStatus(fmt.Errorf(format, args...), ExitMalformed)
}

// Measurements is the part of refval.json that measure --json prints.
type Measurements struct {
	Measurements []refval.Measurement `json:"measurements"`
}

// ReadPins reads the pins of a disk.
func ReadPins(name string) (pins.Pins, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return pins.Pins{}, err
	}
	p, err := pins.Decode(data)
	if err != nil {
		return pins.Pins{}, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// Report is a report file.
type Report struct {
	Evidence evidence.Evidence
	Kind     evidence.Kind
}

// ReadReport reads a report in one of its three forms.
func ReadReport(path, kind string) (Report, error) {
	data, err := ReadInput(path, maxInput)
	if err != nil {
		return Report{}, err
	}
	in := Report{Evidence: evidence.Evidence{Report: data}}
	// White space around JSON is an editor's or a pipe's, and says nothing.
	if text := bytes.TrimSpace(data); bytes.HasPrefix(text, []byte("{")) && len(data) != snp.ReportSize {
		if in.Evidence, err = evidence.Decode(text); err != nil {
			return Report{}, Malformed("%s: %w", path, err)
		}
	}
	if kind == KindAuto {
		if bytes.HasPrefix(in.Evidence.Report, []byte("HCLA")) {
			in.Kind = evidence.AzureHCL
		}
		return in, nil
	}
	if in.Kind, err = evidence.ParseKind(kind); err != nil {
		return Report{}, command.Usage(fmt.Errorf("--kind: %w", err))
	}
	return in, nil
}

// ReadCollateral reads certificates and revocation lists from PEM, or one of
// either from DER.
func ReadCollateral(path string) ([]*x509.Certificate, []*x509.RevocationList, error) {
	data, err := ReadInput(path, maxInput)
	if err != nil {
		return nil, nil, err
	}
	certs, crls, err := kds.Parse(data, filepath.Ext(path) == ".crl")
	if err != nil { // the name may say nothing: try the other one
		if c, r, other := kds.Parse(data, filepath.Ext(path) != ".crl"); other == nil {
			return c, r, nil
		}
		return nil, nil, Malformed("%s: %w", path, err)
	}
	return certs, crls, nil
}

// ReadInput reads at most limit bytes of a file.
func ReadInput(path string, limit int64) ([]byte, error) {
	data, err := command.ReadFile(path, limit)
	if errors.Is(err, bounded.ErrTooLarge) {
		return nil, Malformed("%w", err)
	}
	return data, err
}
