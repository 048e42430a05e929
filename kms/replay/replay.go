// Package replay reads a key server's log, and judges its releases again.
//
// It needs only the log's directory, and nothing else of the server: the inputs of each
// decision are on its leaf or stand beside the log.
package replay

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/history"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// Read calls visit with every leaf of a tree, and verifies all that needs no judgment: each
// leaf hashes to the root, and follows the leaf before it in its lane.
func Read(dir tlogdir.Dir, t tlogdir.Tree, visit func(index int64, leaf audit.Leaf, data []byte) error) error {
	lanes := audit.Lanes{}
	return dir.Read(t, 0, func(index int64, data []byte) error {
		leaf, err := lanes.Next(data)
		if err != nil {
			return fmt.Errorf("leaf %d: %w", index, err)
		}
		if first := index == 0; first != (leaf.Event == audit.Init) {
			return fmt.Errorf("leaf %d: event is %q, want %q in the first leaf and in no other", index, leaf.Event, audit.Init)
		}
		return visit(index, leaf, data)
	})
}

// CheckContents verifies that all contents that a leaf names stand beside the log.
func CheckContents(dir tlogdir.Dir, leaf audit.Leaf, seen map[pins.Digest]bool) error {
	wanted := leaf.About.Contents()
	if release, ok := leaf.About.(audit.AboutRelease); ok && release.Proof != nil && !seen[release.Proof.Collateral] {
		list, err := collateralList(dir, release.Proof.Collateral)
		if err != nil {
			return err
		}
		wanted = append(append(wanted, list.Certificates...), list.CRLs...)
	}
	for _, digest := range wanted {
		if seen[digest] {
			continue
		}
		if _, err := dir.Blob(digest); err != nil {
			return err
		}
		seen[digest] = true
	}
	return nil
}

func collateralList(dir tlogdir.Dir, digest pins.Digest) (audit.CollateralList, error) {
	data, err := dir.Blob(digest)
	if err != nil {
		return audit.CollateralList{}, err
	}
	return audit.DecodeCollateral(data)
}

// Judge checks the releases of a log, leaf by leaf, against its records, against each other,
// and against the evidence.
type Judge struct {
	// Releases counts the releases that were judged. Appraised counts those that had evidence.
	Releases, Appraised int

	dir        tlogdir.Dir
	window     time.Duration
	disks      map[pins.UUID]*records
	volumes    map[pins.UUID]*history.Volume
	released   map[launch]audit.AboutRelease // :: the first release
	when       map[launch]time.Time
	values     map[pins.Digest]refval.Values
	collateral map[pins.Digest]appraise.Collateral
	memo       appraise.Memo
}

// records are the records of one disk, as the log shows them.
type records struct {
	history.Records
	// bounded are the times of releases while the record had a limit.
	bounded []time.Time
}

type launch struct {
	disk   pins.UUID
	report snp.ReportID
}

// NewJudge makes a Judge. For window after a release, an identical request may be answered
// again.
func NewJudge(dir tlogdir.Dir, window time.Duration) *Judge {
	return &Judge{dir: dir, window: window, disks: map[pins.UUID]*records{}, volumes: map[pins.UUID]*history.Volume{}, released: map[launch]audit.AboutRelease{},
		when: map[launch]time.Time{}, values: map[pins.Digest]refval.Values{}, collateral: map[pins.Digest]appraise.Collateral{}}
}

// Next takes the next leaf. The error says why a release should not have happened.
func (j *Judge) Next(leaf audit.Leaf) error {
	switch about := leaf.About.(type) {
	case audit.AboutChange:
		j.disk(about.Disk).Change(leaf.Event, about)
		j.volume(about.Disk).Register(leaf.Event, about, leaf.Time)
	case audit.AboutRelease:
		j.Releases++
		if err := j.release(leaf, about); err != nil {
			return err
		}
		return j.opened(leaf, about)
	case audit.AboutVolume:
		return j.said(leaf, about)
	}
	return nil
}

func (j *Judge) disk(disk pins.UUID) *records {
	if j.disks[disk] == nil {
		j.disks[disk] = &records{}
	}
	return j.disks[disk]
}

func (j *Judge) release(leaf audit.Leaf, about audit.AboutRelease) error {
	d := j.disk(about.Disk)
	if d.Current == nil {
		return fmt.Errorf("disk %s has no record", about.Disk)
	}
	r := *d.Current
	if d.Staged != nil && d.Staged.Generation == about.Generation {
		r = *d.Staged
	}
	switch {
	case r.State != string(store.Enabled):
		return fmt.Errorf("record of disk %s is %s", about.Disk, r.State)
	case r.Generation != about.Generation:
		return fmt.Errorf("generation is %d, want %d", about.Generation, r.Generation)
	case (about.Proof != nil) != (store.EvidenceRule(r.Evidence) == store.EvidenceRequired):
		return fmt.Errorf("evidence is %q on the record, but the leaf has a proof: %t", r.Evidence, about.Proof != nil)
	case about.Proof != nil && !r.Accepts(about.Proof.ReferenceValues, about.Proof.Time):
		return fmt.Errorf("reference values are %s, want %s", about.Proof.ReferenceValues, r.ReferenceValues)
	}
	if err := d.within(leaf, r.MaxReleases); err != nil {
		return err
	}
	if err := j.once(leaf, about); err != nil {
		return err
	}
	id, err := spiffeid.FromString(about.SPIFFEID)
	if err != nil {
		return err
	}
	owner, err := spiffeid.FromString(r.SPIFFEID)
	if err != nil {
		return err
	}
	x := acl.Case{
		Caller: acl.Caller{ID: id},
		Record: store.Record{Header: pins.Header{DiskUUID: about.Disk, HeaderSHA256: r.Header}, SPIFFEID: owner,
			Evidence: store.EvidenceRule(r.Evidence), State: store.Enabled, Generation: r.Generation},
		Memo: &j.memo,
	}
	if about.Proof != nil {
		j.Appraised++
		if err := j.complete(&x, *about.Proof); err != nil {
			return err
		}
	}
	decided, err := acl.Decide(x)
	if err != nil {
		return err
	}
	if decided.ReportID != about.ReportID {
		return fmt.Errorf("REPORT_ID is %s on the leaf, want %s as in the report", about.ReportID, decided.ReportID)
	}
	return nil
}

// within checks a release against the record's limit.
func (d *records) within(leaf audit.Leaf, most uint32) error {
	if most == 0 || leaf.Event != audit.Release {
		return nil
	}
	hour := leaf.Time.Add(-time.Hour)
	d.bounded = append(slices.DeleteFunc(d.bounded, func(t time.Time) bool { return !t.After(hour) }), leaf.Time)
	if len(d.bounded) > int(most) {
		return fmt.Errorf("%d releases within an hour, want at most %d", len(d.bounded), most)
	}
	return nil
}

// once verifies that a launch got the key once, and got it again only for the same request.
func (j *Judge) once(leaf audit.Leaf, about audit.AboutRelease) error {
	if about.Proof == nil {
		return nil
	}
	key := launch{about.Disk, about.ReportID}
	before, again := j.released[key]
	switch {
	case leaf.Event == audit.Release && again:
		return fmt.Errorf("launch %s already had the key of disk %s", about.ReportID, about.Disk)
	case leaf.Event == audit.Release:
		j.released[key], j.when[key] = about, leaf.Time
	case !again:
		return fmt.Errorf("launch %s was answered again but never had the key of disk %s", about.ReportID, about.Disk)
	case before.SHA256 != about.SHA256:
		return errors.New("the request that was answered again differs from the first")
	case leaf.Time.Sub(j.when[key]) > j.window:
		return fmt.Errorf("it was answered again after %s, want at most %s", leaf.Time.Sub(j.when[key]), j.window)
	}
	return nil
}

// complete adds the inputs on the leaf and beside the log.
func (j *Judge) complete(x *acl.Case, p audit.Proof) error {
	x.Now, x.Caller.SPKI = p.Time, p.SPKI
	x.Request = keyapi.ReleaseRequest{Version: keyapi.Version, Nonce: p.Nonce, HPKEPublicKey: p.HPKEPublicKey}
	e := evidence.Evidence{Report: p.Report}
	for _, digest := range p.Certificates {
		der, err := j.dir.Blob(digest)
		if err != nil {
			return err
		}
		e.Certificates = append(e.Certificates, der)
	}
	x.Evidence, x.Malformed = appraise.Parse(e, evidence.Plain)
	var err error
	if x.Values, err = j.valuesOf(p.ReferenceValues); err != nil {
		return err
	}
	x.Collateral, err = j.collateralOf(p.Collateral)
	return err
}

func (j *Judge) valuesOf(digest pins.Digest) (refval.Values, error) {
	if v, ok := j.values[digest]; ok {
		return v, nil
	}
	data, err := j.dir.Blob(digest)
	if err != nil {
		return refval.Values{}, err
	}
	v, err := refval.Decode(data)
	if err == nil {
		j.values[digest] = v
	}
	return v, err
}

func (j *Judge) collateralOf(digest pins.Digest) (appraise.Collateral, error) {
	if c, ok := j.collateral[digest]; ok {
		return c, nil
	}
	list, err := collateralList(j.dir, digest)
	if err != nil {
		return appraise.Collateral{}, err
	}
	var c appraise.Collateral
	for _, digest := range list.Certificates {
		der, err := j.dir.Blob(digest)
		if err != nil {
			return appraise.Collateral{}, err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return appraise.Collateral{}, err
		}
		c.Certificates = append(c.Certificates, cert)
	}
	for _, digest := range list.CRLs {
		der, err := j.dir.Blob(digest)
		if err != nil {
			return appraise.Collateral{}, err
		}
		crl, err := x509.ParseRevocationList(der)
		if err != nil {
			return appraise.Collateral{}, err
		}
		c.CRLs = append(c.CRLs, crl)
	}
	j.collateral[digest] = c
	return c, nil
}
