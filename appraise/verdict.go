package appraise

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// Outcome sums up a verdict.
type Outcome int

// The outcomes, worst first. The zero value is the worst.
const (
	// Malformed: the input is not evidence, or the reference values are incomplete.
	Malformed Outcome = iota
	// NotAuthentic: signature, chain, validity, binding or revocation failed.
	NotAuthentic
	// Refused: the evidence is authentic, but the reference values do not accept
	// it.
	Refused
	// FreshnessUnknown: every check passed, but REPORT_DATA was not compared. The
	// report may be old, and anyone may present it.
	FreshnessUnknown
	// Accepted: every requested check passed. See [Verdict.Trusted].
	Accepted
)

// String returns the outcome in words.
func (o Outcome) String() string {
	switch o {
	case Malformed:
		return "malformed"
	case NotAuthentic:
		return "not authentic"
	case Refused:
		return "refused by policy"
	case FreshnessUnknown:
		return "freshness unknown"
	case Accepted:
		return "accepted"
	}
	return fmt.Sprintf("outcome %d", int(o))
}

// Group is the subject of a check.
type Group string

// The groups, in the order in which a reader asks.
const (
	Hardware  Group = "hardware"  // did the AMD-SP of an accepted chip sign this?
	Freshness Group = "freshness" // was it signed for this request?
	Platform  Group = "platform"  // firmware and settings of the host
	Guest     Group = "guest"     // what was launched, and how
	Disk      Group = "disk"      // the guest's boot log about its disk
)

// Groups returns all groups in their order.
func Groups() []Group { return []Group{Hardware, Freshness, Platform, Guest, Disk} }

// Check is one comparison, with its result.
type Check struct {
	Group Group
	Name  string
	Got   string // the evidence's value
	Want  string // the wanted value
	OK    bool
	Err   error // nil exactly when OK

	fails Outcome // the best possible outcome if the check fails
}

// String returns the check on one line.
func (c Check) String() string {
	if c.OK {
		return fmt.Sprintf("ok      %s: %s (want %s)", c.Name, c.Got, c.Want)
	}
	return fmt.Sprintf("FAILED  %s: %v", c.Name, c.Err)
}

// NewCheck returns a check that passed if err is nil.
func NewCheck(group Group, name, got, want string, err error) Check {
	return Check{Group: group, Name: name, Got: got, Want: want, OK: err == nil, Err: err}
}

// MarshalJSON returns the check with the error's text.
func (c Check) MarshalJSON() ([]byte, error) {
	out := struct {
		Group Group  `json:"group,omitempty"`
		Name  string `json:"name"`
		OK    bool   `json:"ok"`
		Got   string `json:"got"`
		Want  string `json:"want"`
		Error string `json:"error,omitempty"`
	}{Group: c.Group, Name: c.Name, OK: c.OK, Got: c.Got, Want: c.Want}
	if c.Err != nil {
		out.Error = c.Err.Error()
	}
	return json.Marshal(out)
}

// Verdict is the result of an appraisal. Its zero value is not trusted.
type Verdict struct {
	// Checks lists all comparisons, in order.
	Checks []Check
	// Notes say what a reader of a good verdict must still know: the values that
	// were not checked, and the hazards that the owner accepted by name.
	Notes []string
	// Report is the judged report, or nil if it was malformed.
	Report *snp.Report
	// Product is the processor line that report and certificate both name, or "" if
	// they disagree.
	Product snp.Product
	// TCB is REPORTED_TCB in that product's layout.
	TCB snp.TCB
	// Signer is the certificate of the endorsement key, whose key signed the
	// report. It is nil if no certificate's key did.
	Signer *x509.Certificate
	// Key is the SHA-256 of the endorsement key, as DER SubjectPublicKeyInfo. If no
	// key signed the report, it is the SHA-256 of the checked certificate's key.
	Key pins.Digest
	// Values says that the verdict is by reference values, and not about
	// authenticity alone.
	Values bool

	tcbs          *snp.TCBs // the report's; nil if the product is unknown
	group         Group     // of the checks that are added next
	unbound       bool      // REPORT_DATA was not compared
	authenticated bool      // all checks of authenticity were made
	complete      bool      // all checks of policy were made

	otherCertificate bool // the checked certificate is of another chip or TCB
}

// Trusted reports whether the evidence is authentic and every reference value
// holds. Release secrets on this result only.
func (v Verdict) Trusted() bool { return v.Values && v.complete && v.Outcome() == Accepted }

// Outcome returns the worst result of the checks. For [Authenticate], Accepted
// means no more than authentic.
func (v Verdict) Outcome() Outcome {
	if !v.authenticated || v.Values && !v.complete {
		return Malformed
	}
	worst := Accepted
	if v.unbound {
		worst = FreshnessUnknown
	}
	for _, c := range v.Checks {
		if !c.OK {
			worst = min(worst, c.fails)
		}
	}
	return worst
}

// Authentic reports whether every check of authenticity passed. It does not
// depend on the reference values.
func (v Verdict) Authentic() bool { return v.authenticated && v.Outcome() > NotAuthentic }

// LacksCRL reports whether the lack of a fresh CRL is the only fault. A later try may
// succeed.
func (v Verdict) LacksCRL() bool {
	lacks := false
	for _, c := range v.Checks {
		switch {
		case c.OK:
		case errors.Is(c.Err, errUnknownRevocation):
			lacks = true
		default:
			return false
		}
	}
	return lacks
}

// LacksCertificate reports whether the report could not be verified because the
// endorsement key's certificate is missing: neither evidence nor collateral has it,
// or the evidence's certificate is of another chip or TCB. Then every field of the
// report is unverified until an operator fetches the certificate and appraises
// again.
func (v Verdict) LacksCertificate() bool {
	if v.otherCertificate {
		return true
	}
	for _, c := range v.Checks {
		if errors.Is(c.Err, errNoCertificate) {
			return true
		}
	}
	return false
}

// Err returns nil for a verdict whose outcome is Accepted. Otherwise it returns
// all failed checks joined, or says that the freshness is unknown.
func (v Verdict) Err() error {
	switch v.Outcome() {
	case Accepted:
		return nil
	case FreshnessUnknown:
		return errors.New("REPORT_DATA was not compared, so the report may be old, and anyone may present it")
	}
	var all []error
	for _, c := range v.Checks {
		if !c.OK {
			all = append(all, fmt.Errorf("%s: %w", c.Name, c.Err))
		}
	}
	if len(all) == 0 {
		return errors.New("nothing was checked")
	}
	return errors.Join(all...)
}

// String returns one line for each check, then one for each note.
func (v Verdict) String() string {
	var b strings.Builder
	for _, c := range v.Checks {
		fmt.Fprintln(&b, c)
	}
	for _, n := range v.Notes {
		fmt.Fprintln(&b, "note    "+n)
	}
	return b.String()
}

type verdictJSON struct {
	Trusted bool        `json:"trusted"`
	Outcome string      `json:"outcome"`
	Product snp.Product `json:"product"`
	TCB     snp.TCB     `json:"reported_tcb"`
	Key     pins.Digest `json:"key_sha256"`
	Checks  []Check     `json:"checks"`
	Notes   []string    `json:"notes"`
	Report  *snp.Report `json:"report"`
}

// MarshalJSON returns the verdict with all its checks.
func (v Verdict) MarshalJSON() ([]byte, error) {
	out := verdictJSON{
		Trusted: v.Trusted(), Outcome: v.Outcome().String(), Product: v.Product, TCB: v.TCB, Key: v.Key,
		Checks: append([]Check{}, v.Checks...), Notes: append([]string{}, v.Notes...), Report: v.Report,
	}
	return json.Marshal(out)
}

// malformed returns a verdict with err as its only check.
func malformed(name string, err error) Verdict {
	return Verdict{Checks: []Check{{Name: name, Want: "a valid encoding", Err: err, fails: Malformed}}}
}

// addAuthenticity adds a check of authenticity. It passed if err is nil.
func (v *Verdict) addAuthenticity(name, got, want string, err error) {
	c := NewCheck(v.group, name, got, want, err)
	c.fails = NotAuthentic
	v.Checks = append(v.Checks, c)
}

// addPolicy adds a check of policy.
func (v *Verdict) addPolicy(name string, ok bool, got, want string) {
	var err error
	if !ok {
		err = fmt.Errorf("got %s, want %s", got, want)
	}
	c := NewCheck(v.group, name, got, want, err)
	c.fails = Refused
	v.Checks = append(v.Checks, c)
}

func (v *Verdict) addNote(format string, args ...any) {
	v.Notes = append(v.Notes, fmt.Sprintf(format, args...))
}
