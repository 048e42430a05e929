// Package acl decides whether a caller may have the key of a disk.
//
// Two locks (docs/DESIGN.md): the caller's SPIFFE ID is the one on the record, and
// its evidence, which binds this very request, satisfies the record's reference
// values. It is pure: it changes nothing, and every error is a refusal.
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

// Caller is who asks, as its verified SVID says.
type Caller struct {
	ID spiffeid.ID
	// SPKI is the SVID's public key, DER SubjectPublicKeyInfo.
	SPKI []byte
}

// Case is what is to be decided.
type Case struct {
	Caller     Caller
	Record     store.Record
	Values     refval.Values // of Record; not looked at where evidence is not required
	Request    keyapi.ReleaseRequest
	Collateral appraise.Collateral
	Memo       *appraise.Memo // may be nil
	Now        time.Time
}

// Launch is the launch that the evidence is of. It is zero where no evidence was
// looked at.
type Launch struct {
	ReportID    pins.Digest
	Measurement snp.Measurement
}

// Decide returns nil when both locks open. The launch is what the evidence says,
// also with an error: then it may be forged.
func Decide(c Case) (Launch, error) {
	e, malformed := evidence.Decode(c.Request.Evidence)
	launch := claimed(e)
	switch {
	case c.Record.State != store.Enabled:
		return launch, fmt.Errorf("record is %s", c.Record.State)
	case c.Caller.ID.IsZero() || c.Caller.ID != c.Record.SPIFFEID:
		return launch, fmt.Errorf("lock 1: caller is %q, want %q", c.Caller.ID, c.Record.SPIFFEID)
	}
	switch c.Record.Evidence {
	case store.EvidenceNotRequired:
		return Launch{}, nil
	case store.EvidenceRequired:
		if malformed != nil {
			return launch, fmt.Errorf("lock 2: %w", malformed)
		}
		if err := appraised(c, e); err != nil {
			return launch, fmt.Errorf("lock 2: %w", err)
		}
		return launch, nil
	}
	return launch, fmt.Errorf("lock 2: evidence is %q on the record", c.Record.Evidence)
}

// ParseLaunch says of which launch evidence claims to be. Nothing is verified.
func ParseLaunch(document []byte) (Launch, error) {
	e, err := evidence.Decode(document)
	if err != nil {
		return Launch{}, err
	}
	launch := claimed(e)
	if launch == (Launch{}) {
		return Launch{}, errors.New("evidence has no report of a launch")
	}
	return launch, nil
}

// claimed is the launch of a report as it is; zero where there is none.
func claimed(e evidence.Evidence) Launch {
	r, err := snp.ParseReport(e.Report)
	if err != nil {
		return Launch{}
	}
	return Launch{ReportID: pins.Digest(r.ReportID), Measurement: r.Measurement}
}

func appraised(c Case, e evidence.Evidence) error {
	verdict := appraise.Appraise(appraise.Request{
		Evidence: e,
		Kind:     evidence.Plain,
		Values:   c.Values,
		ReportData: evidence.KeyRelease(evidence.Nonce(c.Request.Nonce), c.Record.DiskUUID,
			c.Caller.SPKI, c.Request.HPKEPublicKey[:]),
		Collateral: c.Collateral,
		Memo:       c.Memo,
		Now:        c.Now,
		Revocation: appraise.RequireRevocation,
	})
	if !verdict.Trusted() {
		if err := verdict.Err(); err != nil {
			return err
		}
		return errors.New("the verdict is not trusted")
	}
	if verdict.Report.ReportID == (snp.ReportID{}) {
		return errors.New("REPORT_ID is all zero, want that of a launch")
	}
	return nil
}

// CheckApart refuses a second record that one launch could use for another disk:
// the same SPIFFE ID, and a measurement that both accept. The owner's word that
// both disks belong to one VM, on the new record, lets it pass.
func CheckApart(fresh, old store.Record, freshValues, oldValues refval.Values) error {
	if fresh.DiskUUID == old.DiskUUID || fresh.SPIFFEID != old.SPIFFEID || fresh.SameVM {
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
