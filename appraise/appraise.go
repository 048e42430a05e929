// Package appraise judges evidence. It takes an attestation report with its
// certificates, reference values, collateral and the time, and returns a verdict.
//
// No other package judges evidence. The SPIRE server's plugin, the KMS and the owner's
// tool all call this one. The package uses no network, no files and no clock. If an
// input is missing, the verdict is a refusal.
//
// The package keeps two questions apart. Authenticity: did the AMD-SP of a genuine
// chip, or the emulated AMD-SP that the reference values name, sign this report for
// this request? Policy: does the report say what the owner expects? [Appraise] answers
// both questions. [Authenticate] answers only the first, so its verdict is never
// trusted.
package appraise

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/rootvouch/rootvouch/internal/emulated"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
)

// errNoEvidence is the error for the zero Evidence.
var errNoEvidence = errors.New("there is no evidence")

// Collateral holds the verifier's own certificates, which complete those of the
// evidence, and its revocation lists. Their presence does not make certificates
// trusted: the reference values name the roots.
type Collateral struct {
	Certificates []*x509.Certificate
	CRLs         []*x509.RevocationList
}

// RevocationMode says what an unknown revocation status means.
type RevocationMode int

const (
	// RequireRevocation refuses evidence unless a fresh CRL, signed by the
	// root, shows that no certificate of the chain is revoked.
	RequireRevocation RevocationMode = iota
	// AcceptUnknownRevocation accepts evidence without such a CRL; the verdict
	// says so. A certificate that a signed CRL revokes is refused, even if the
	// CRL is stale.
	AcceptUnknownRevocation
)

// Request is what [Appraise] judges.
type Request struct {
	Evidence Evidence
	Values   refval.Values
	// ReportData is the REPORT_DATA that the guest must have bound: see package
	// evidence.
	ReportData [64]byte
	// AcceptAnyReportData leaves ReportData unchecked, for a report that is stored
	// and read later. Such a report proves nothing about its presenter or its time,
	// so the best outcome is FreshnessUnknown.
	AcceptAnyReportData bool
	Collateral          Collateral
	Now                 time.Time
	Revocation          RevocationMode
	Memo                *Memo // nil: every signature is verified again
}

// Appraise judges evidence by reference values.
//
// If the evidence is malformed, or the reference values fail their own check, the
// verdict has that error only. Otherwise Appraise makes every check, so that the
// verdict shows all mismatches at once.
func Appraise(q Request) Verdict {
	if q.Evidence.report == nil {
		return NotEvidence(errNoEvidence)
	}
	v := Verdict{Values: true}
	v.authenticate(q, rootAnchors(q.Values.RootOfTrust))
	if err := q.Values.Check(); err != nil {
		return malformed("reference values", err)
	}
	product, ok := q.Values.Accepts(v.Product)
	bits := q.Values.CheckBits(v.Report.Policy, v.Report.PlatformInfo)
	hostCode, bareKernel := q.Values.AcceptsHostCode(), q.Values.AcceptsBareKernel()
	if root, is := q.Values.RootOfTrust.Emulated(); is {
		v.addNote(emulated.Warning+": the root of trust is the emulated ARK %s", root)
	}
	if hostCode {
		v.addNote(hostCodeNote)
	}
	if bareKernel {
		v.addNote(bareKernelNote)
	}
	if q.Values.CheckKernels() != nil {
		v.addNote(unmeasuredKernelNote)
	}
	v.checkProduct(q.Values, product, ok)
	v.checkPolicy(q.Values, bits)
	v.complete = true
	if v.Trusted() && v.Signer != nil {
		q.Memo.trust(v.Signer)
	}
	return v
}

// Anchors are the roots that [Authenticate] accepts.
type Anchors struct {
	what    string
	allowed map[pins.Digest]bool // :: SHA-256 of an ARK's DER -> it is accepted
}

// AMDAnchors returns AMD's roots of Milan, Genoa and Turin.
func AMDAnchors() Anchors { return rootAnchors(refval.AMD()) }

// NamedAnchors returns the roots with those digests of their DER.
func NamedAnchors(arks ...pins.Digest) Anchors {
	a := Anchors{what: "the roots that were named", allowed: make(map[pins.Digest]bool)}
	for _, d := range arks {
		a.allowed[d] = true
	}
	return a
}

// The SHA-256 of the DER of AMD's root keys' certificates, which its key
// distribution service serves at /vcek/v1/<product>/cert_chain (57230).
const (
	arkMilan = "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"
	arkGenoa = "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"
	arkTurin = "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"
)

func rootAnchors(root refval.RootOfTrust) Anchors {
	if ark, emulated := root.Emulated(); emulated {
		a := NamedAnchors(ark)
		a.what = "the emulated ARK"
		return a
	}
	if !root.IsAMD() {
		return Anchors{what: "no root"}
	}
	a := Anchors{what: "AMD's ARK", allowed: make(map[pins.Digest]bool)}
	for _, s := range []string{arkMilan, arkGenoa, arkTurin} {
		d, err := pins.ParseDigest(s)
		if err != nil {
			panic(fmt.Sprintf("appraise: internal error: %v", err))
		}
		a.allowed[d] = true
	}
	return a
}

func (a Anchors) has(cert *x509.Certificate) bool { return a.allowed[sha256.Sum256(cert.Raw)] }

// AuthenticityRequest is what [Authenticate] judges.
type AuthenticityRequest struct {
	Evidence   Evidence
	Anchors    Anchors
	ReportData *[64]byte // nil: any, as in Request.AcceptAnyReportData
	Collateral Collateral
	Now        time.Time
	Revocation RevocationMode
}

// Authenticate judges authenticity only. The verdict may be authentic, but is
// never trusted, because there are no reference values.
func Authenticate(q AuthenticityRequest) Verdict {
	if q.Evidence.report == nil {
		return NotEvidence(errNoEvidence)
	}
	r := Request{
		Evidence: q.Evidence, Collateral: q.Collateral, Now: q.Now, Revocation: q.Revocation,
		AcceptAnyReportData: q.ReportData == nil,
	}
	if q.ReportData != nil {
		r.ReportData = *q.ReportData
	}
	var v Verdict
	v.authenticate(r, q.Anchors)
	return v
}
