package attest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// Expectation holds everything that Judge compares an answer with.
type Expectation struct {
	Values     refval.Values
	Collateral appraise.Collateral
	Revocation appraise.RevocationMode
	Now        time.Time
}

// Result is the judgement on an answer. The zero value is not trusted.
type Result struct {
	// Err is the error of an answer that has not the right form. The other fields
	// are then zero.
	Err error
	// Verdict is the verdict on the evidence. The evidence binds the nonce, the
	// connection and the boot log.
	Verdict appraise.Verdict
	// Emulated says that the reference values name an emulated platform.
	Emulated bool
	// BootLog is the VM's own account of what PID 1 did, and BootLogDigest its
	// SHA-256. The account proves nothing, but a contradiction with the reference
	// values is a reason to refuse. If the verdict is not authentic, anyone can
	// have written the boot log. It is then not compared and not shown, and must
	// not be stored.
	BootLog       bootlog.Log
	BootLogDigest pins.Digest
	// Disk are comparisons of the boot log with the reference values.
	Disk []appraise.Check
	// Instance is the check that this VM got the disk's key. It is nil if the check
	// was not requested.
	Instance *appraise.Check
	// Kept is the time as of which stored evidence was judged. It is nil for a
	// fresh answer.
	Kept *time.Time
	// Notes say what a reader must know, besides the verdict's own notes.
	Notes []string
}

// Trusted reports whether every check passed.
func (r Result) Trusted() bool {
	if r.Err != nil || !r.Verdict.Trusted() || r.Instance != nil && !r.Instance.OK {
		return false
	}
	for _, c := range r.Disk {
		if !c.OK {
			return false
		}
	}
	return true
}

// Judge judges an answer.
func Judge(a Answer, x Expectation) Result {
	_, emulated := x.Values.RootOfTrust.Emulated()
	r := Result{Emulated: emulated, BootLogDigest: pins.Digest(sha256.Sum256(a.BootLog))}
	e, err := appraise.Read(a.Evidence, evidence.Plain)
	if err != nil {
		return Result{Emulated: emulated, Err: err}
	}
	if r.BootLog, err = bootlog.Decode(a.BootLog); err != nil {
		return Result{Emulated: emulated, Err: err}
	}
	r.Verdict = appraise.Appraise(appraise.Request{
		Evidence:   e,
		Values:     x.Values,
		ReportData: evidence.OwnerAttestation(a.Nonce, a.TLSKey, r.BootLogDigest),
		Collateral: x.Collateral,
		Now:        x.Now,
		Revocation: x.Revocation,
	})
	if !r.Authentic() {
		r.Notes = append(r.Notes, "boot log: not looked at: the evidence does not vouch for it")
		return r
	}
	r.compareDisk(x.Values)
	for _, v := range r.BootLog.Volumes {
		r.Notes = append(r.Notes, describeVolume(v))
	}
	return r
}

// describeVolume describes the freshness of a volume at its opening, as the boot
// log has it.
func describeVolume(v bootlog.Volume) string {
	what := map[bootlog.Freshness]string{
		bootlog.New:      "it was new",
		bootlog.Fresh:    fmt.Sprintf("it was as it was closed, generation %d", v.Generation),
		bootlog.Unclean:  fmt.Sprintf("it was not closed: FRESHNESS UNKNOWN since generation %d", v.Generation),
		bootlog.Accepted: fmt.Sprintf("the operator accepted what it held: FRESHNESS UNKNOWN since generation %d", v.Generation),
	}[v.Freshness]
	return fmt.Sprintf("volume %s on %s: %s", v.UUID, v.MountPoint, what)
}

// Authentic reports whether the evidence is authentic. Authentic evidence binds the
// boot log. The result does not depend on the reference values.
func (r Result) Authentic() bool { return r.Err == nil && r.Verdict.Authentic() }

// compareDisk compares the boot log with the pins of the reference values. It
// accepts another digest of the header, as after a rekey.
func (r *Result) compareDisk(v refval.Values) {
	want, ok := v.Pins.Value()
	if !ok {
		r.Notes = append(r.Notes, "disk: not compared: the reference values have no pins")
		return
	}
	compare := func(name, got, want string) {
		var err error
		if got != want {
			err = fmt.Errorf("boot log says %s, want %s", got, want)
		}
		r.Disk = append(r.Disk, appraise.NewCheck(appraise.Disk, name, got, want, err))
	}
	compare("verity root hash", r.BootLog.RootHash.String(), want.RootHash.String())
	compare("disk UUID", r.BootLog.DiskUUID.String(), want.DiskUUID.String())
	if r.BootLog.HeaderSHA256 != want.HeaderSHA256 {
		r.Notes = append(r.Notes, fmt.Sprintf("LUKS2 header: boot log says %s, the reference values say %s: right only if the disk was rekeyed", r.BootLog.HeaderSHA256, want.HeaderSHA256))
	}
}

// Launch is one launch that got a disk's key, as the KMS has logged it.
type Launch struct {
	ReportID   snp.ReportID
	Generation uint64 // of the key
	Time       time.Time
}

// CheckInstance compares the REPORT_ID of the evidence with the launches that got
// the key of a disk. Evidence alone identifies the kind of VM that answers. The
// comparison shows that this VM got the disk's key, and not a twin with the same
// measured bytes.
func (r *Result) CheckInstance(disk pins.UUID, launches []Launch) {
	got, err := r.launchOf(disk, launches)
	c := appraise.NewCheck(appraise.Disk, "instance", got, fmt.Sprintf("a launch that got the key of disk %s", disk), err)
	r.Instance = &c
}

// launchOf returns a text that describes the launch of the evidence.
func (r *Result) launchOf(disk pins.UUID, launches []Launch) (string, error) {
	if !r.Authentic() || r.Verdict.Report == nil {
		return "", errors.New("there is no authentic report")
	}
	if r.BootLog.DiskUUID != disk {
		return "", fmt.Errorf("boot log says disk %s, want %s", r.BootLog.DiskUUID, disk)
	}
	id := r.Verdict.Report.ReportID
	i := slices.IndexFunc(launches, func(l Launch) bool { return l.ReportID == id })
	if i < 0 {
		return "", fmt.Errorf("REPORT_ID is %s, which is none of the %d launches that got the key of disk %s", id, len(launches), disk)
	}
	l := launches[i]
	got := fmt.Sprintf("REPORT_ID %s, release %d of %d, %s, key generation %d", id, i+1, len(launches), l.Time.UTC().Format(time.RFC3339), l.Generation)
	if l.Generation != r.BootLog.KeyGeneration {
		return got, fmt.Errorf("boot log says key generation %d, the KMS says %d", r.BootLog.KeyGeneration, l.Generation)
	}
	return got, nil
}
