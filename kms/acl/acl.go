// Package acl decides whether a caller may have the key of a disk.
//
// Decide opens two locks (docs/DESIGN.md). The caller's SPIFFE ID must be the one on the
// record. The caller's evidence must bind this very request and satisfy the record's reference
// values. The package is pure: it changes no state.
package acl

import (
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// Caller is the requester, as its verified SVID names it.
type Caller struct {
	ID spiffeid.ID
	// SPKI is the SVID's public key, DER SubjectPublicKeyInfo.
	SPKI []byte
}

// Case has everything that Decide decides from.
type Case struct {
	Caller Caller
	Record store.Record
	Values refval.Values // reference values that Record accepts; ignored if evidence is not required
	// ReferenceValues is the SHA-256 of Values as they were registered.
	ReferenceValues pins.Digest
	Request         keyapi.ReleaseRequest
	Evidence        appraise.Evidence // binds Request
	Malformed       error             // the error that left Evidence zero
	Collateral      appraise.Collateral
	Memo            *appraise.Memo // may be nil
	Now             time.Time
}

// Launch is the launch that the evidence describes. It is zero if no evidence was examined.
type Launch struct {
	ReportID    snp.ReportID
	Measurement snp.Measurement
}

// Refusal says which checks kept a lock shut.
type Refusal struct {
	// Checks names what failed: "state", "spiffe_id", "form", or checks of the appraisal.
	Checks []string
	err    error
}

func (r *Refusal) Error() string { return r.err.Error() }
func (r *Refusal) Unwrap() error { return r.err }

func refuse(check, format string, args ...any) error {
	return &Refusal{[]string{check}, fmt.Errorf(format, args...)}
}

// ErrCannotJudge says that the evidence passes every other check, but the server lacks a fresh
// CRL.
var ErrCannotJudge = errors.New("the key server cannot judge now")

// ErrNoCertificate says that the server lacks the certificate of the key that signed the
// evidence, so it cannot verify the evidence.
var ErrNoCertificate = errors.New("no certificate")

// Decide returns nil when both locks open. If the server cannot judge, the error matches
// ErrCannotJudge. Otherwise the error is a *Refusal, and it matches ErrNoCertificate if a
// certificate may help. The launch is what the evidence says. With an error the launch may be
// forged.
func Decide(c Case) (Launch, error) {
	claims := c.Evidence.Claims()
	launch := Launch{ReportID: claims.ReportID, Measurement: claims.Measurement}
	switch {
	case c.Record.State != store.Enabled:
		return launch, refuse("state", "record is %s", c.Record.State)
	case c.Caller.ID.IsZero() || c.Caller.ID != c.Record.SPIFFEID:
		return launch, refuse("spiffe_id", "lock 1: caller is %q, want %q", c.Caller.ID, c.Record.SPIFFEID)
	}
	switch c.Record.Evidence {
	case store.EvidenceNotRequired:
		return Launch{}, nil
	case store.EvidenceRequired:
		if c.Malformed != nil {
			return launch, refuse("form", "lock 2: %w", c.Malformed)
		}
		if err := appraised(c); err != nil {
			return launch, fmt.Errorf("lock 2: %w", err)
		}
		return launch, nil
	}
	return launch, refuse("state", "lock 2: evidence is %q on the record", c.Record.Evidence)
}

func appraised(c Case) error {
	verdict := appraise.Appraise(appraise.Request{
		Evidence: c.Evidence,
		Values:   c.Values,
		ReportData: evidence.KeyRelease(c.Request.Nonce, c.Record.DiskUUID,
			c.Caller.SPKI, c.Request.HPKEPublicKey[:]),
		Collateral: c.Collateral,
		Memo:       c.Memo,
		Now:        c.Now,
		Revocation: appraise.RequireRevocation,
	})
	if verdict.LacksCRL() {
		return fmt.Errorf("%w: %w", ErrCannotJudge, verdict.Err())
	}
	if !verdict.Trusted() {
		refusal := &Refusal{err: verdict.Err()}
		for _, check := range verdict.Checks {
			if !check.OK {
				refusal.Checks = append(refusal.Checks, check.Name)
			}
		}
		if verdict.LacksCertificate() {
			refusal.err = fmt.Errorf("%w: %w", ErrNoCertificate, refusal.err)
		}
		if refusal.err == nil {
			return refuse("verdict", "the verdict is not trusted")
		}
		return refusal
	}
	if verdict.Report.ReportID == (snp.ReportID{}) {
		return refuse("REPORT_ID", "REPORT_ID is all zero, want that of a launch")
	}
	return nil
}

// CheckApart refuses a second record whose key one launch could get as well as the first: both
// records have the same SPIFFE ID and accept a common measurement. CheckApart lets the second
// record pass if it has the owner's statement that both disks belong to one VM. The record of a
// volume always has that statement, because a VM with a volume also has a root disk.
func CheckApart(fresh, old store.Record, freshValues, oldValues refval.Values) error {
	if fresh.DiskUUID == old.DiskUUID || fresh.SPIFFEID != old.SPIFFEID || fresh.SameVM || old.Volume != nil && old.SameVM {
		return nil
	}
	if fresh.Evidence != store.EvidenceRequired || old.Evidence != store.EvidenceRequired {
		return fmt.Errorf("disk %s has the same SPIFFE ID %s, and without evidence one VM could have both keys", old.DiskUUID, old.SPIFFEID)
	}
	taken := map[snp.Measurement]bool{}
	for _, m := range oldValues.Measurements {
		taken[m.Digest] = true
	}
	for _, m := range freshValues.Measurements {
		if taken[m.Digest] {
			return fmt.Errorf("disk %s has the same SPIFFE ID %s and accepts the same measurement %s, so one VM could have both keys", old.DiskUUID, old.SPIFFEID, m.Digest)
		}
	}
	return nil
}
