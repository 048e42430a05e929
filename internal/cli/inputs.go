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
	"github.com/rootvouch/rootvouch/internal/filekind"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
	"github.com/rootvouch/rootvouch/snp/snphost"
)

// KindAuto tells the form of a report file from its content. It is for people who inspect a
// file; a server always names the kind.
const KindAuto = "auto"

const maxInput = 1 << 20 // bytes of any input file but reference values

// ExitMalformed is the exit status of Malformed.
const ExitMalformed = 3

// Malformed is the error of an input that does not have its form.
func Malformed(format string, args ...any) error {
	return WithStatus(fmt.Errorf(format, args...), ExitMalformed)
}

// Measurements is the part of refval.json that "measure --json" prints.
type Measurements struct {
	Measurements []refval.Measurement `json:"measurements"`
}

// ReadPins reads the pins of a disk.
func ReadPins(name string) (pins.Pins, error) {
	data, err := ReadInput(name, maxInput)
	if err != nil {
		return pins.Pins{}, Unfit(name, filekind.Pins, err)
	}
	p, err := pins.Decode(data)
	if err != nil {
		return pins.Pins{}, Unfit(name, filekind.Pins, err)
	}
	return p, nil
}

// ReadValues reads reference values, and returns their text as well.
func ReadValues(name string) (refval.Values, []byte, error) {
	data, err := ReadInput(name, refval.MaxSize)
	if err != nil {
		return refval.Values{}, nil, Unfit(name, filekind.ReferenceValues, err)
	}
	values, err := refval.Decode(data)
	if err != nil {
		return refval.Values{}, nil, Unfit(name, filekind.ReferenceValues, err)
	}
	return values, data, nil
}

// Unfit is the error of a file that is not of the wanted kind, a filekind.Kind or another name.
// It has err and the kind that the file is instead.
func Unfit(path string, want fmt.Stringer, err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return err // err names the file
	}
	return fmt.Errorf("%s: %w", path, Instead(path, err, want))
}

// Instead is Unfit for an error to which the caller adds the file's name. The error names the
// first of wants.
func Instead(path string, err error, wants ...fmt.Stringer) error {
	got := kindOf(path)
	for _, want := range wants {
		if got == want.String() {
			got = ""
		}
	}
	if got == "" {
		return err
	}
	return fmt.Errorf("it is %s, want %v: %w", got, wants[0], err)
}

// tooLarge adds the kind of a file that is larger than the wanted kind can be.
func tooLarge(path string, want fmt.Stringer, err error) error {
	if errors.Is(err, bounded.ErrTooLarge) {
		return Malformed("%w", Instead(path, err, want))
	}
	return err
}

// kindOf names the kind of a file, or returns "" if it is unknown.
func kindOf(path string) string {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return "a directory"
	}
	if err != nil || !info.Mode().IsRegular() {
		return "" // it may give its bytes only once
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	kind, err := filekind.OfFile(f, info.Size())
	switch {
	case err != nil:
		return ""
	case info.Size() == 0:
		return "empty"
	case kind == filekind.Unknown:
		return ""
	}
	return kind.String()
}

// Named is a wanted kind of file that has no filekind.Kind.
type Named string

func (n Named) String() string { return string(n) }

// hclMagic begins Azure's HCL blobs.
const hclMagic = "HCLA"

// byteOrderMark is what Windows editors write before UTF-8.
const byteOrderMark = "\xef\xbb\xbf"

// Report is a report file.
type Report struct {
	Evidence evidence.Evidence
	Kind     evidence.Kind
}

// ReadReport reads a report in one of its three forms.
func ReadReport(path, kind string) (Report, error) {
	data, err := ReadInput(path, maxInput)
	if err != nil {
		return Report{}, tooLarge(path, filekind.Report, err)
	}
	in := Report{Evidence: evidence.Evidence{Report: data}}
	// Editors and pipes may add white space and a byte order mark around JSON. They have no
	// meaning.
	if text := bytes.TrimSpace(bytes.TrimPrefix(data, []byte(byteOrderMark))); bytes.HasPrefix(text, []byte("{")) && len(data) != snp.ReportSize {
		if in.Evidence, err = evidence.Decode(text); err != nil {
			return Report{}, Malformed("%w", Unfit(path, filekind.Evidence, err))
		}
	} else if len(data) != snp.ReportSize && !bytes.HasPrefix(data, []byte(hclMagic)) && filekind.OfBytes(data) != filekind.Unknown {
		return Report{}, Malformed("%w", Unfit(path, filekind.Report, fmt.Errorf("got %d bytes, want %d", len(data), snp.ReportSize)))
	}
	if kind == KindAuto {
		if bytes.HasPrefix(in.Evidence.Report, []byte(hclMagic)) {
			in.Kind = evidence.AzureHCL
		}
		return in, nil
	}
	if in.Kind, err = evidence.ParseKind(kind); err != nil {
		return Report{}, command.Usage(fmt.Errorf("--kind: %w", err))
	}
	return in, nil
}

// ReadHost reads a file of "host identify".
func ReadHost(path string) (snphost.Identity, error) {
	data, err := ReadInput(path, snphost.MaxSize)
	if err != nil {
		return snphost.Identity{}, err
	}
	id, err := snphost.Decode(data)
	if err != nil {
		return snphost.Identity{}, Malformed("%s: %w", path, err)
	}
	return id, nil
}

// ReadCollateral reads certificates and revocation lists from PEM, or one of
// either from DER.
func ReadCollateral(path string) ([]*x509.Certificate, []*x509.RevocationList, error) {
	data, err := ReadInput(path, maxInput)
	if err != nil {
		return nil, nil, tooLarge(path, Named("certificates or a revocation list"), err)
	}
	certs, crls, err := kds.Parse(data, filepath.Ext(path) == ".crl")
	if err != nil { // the name need not tell the kind: try the other one
		if c, r, other := kds.Parse(data, filepath.Ext(path) != ".crl"); other == nil {
			return c, r, nil
		}
		return nil, nil, Malformed("%w", Unfit(path, Named("certificates or a revocation list"), err))
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
