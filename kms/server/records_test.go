package server

import (
	"slices"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

var owner = audit.Actor{Name: "owner"}

func (r *rig) encode(v refval.Values) []byte {
	r.t.Helper()
	data, err := v.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	return data
}

func other(report *snp.Report) { report.Measurement = otherwise }

// TestOldMeasurement: after an update both launches get the key, until the old one expires.
func TestOldMeasurement(t *testing.T) {
	r := newRig(t)
	update := ledger.Update{Values: r.encode(r.values(otherwise)), KeepBefore: time.Hour}
	if err := r.ledger.Update(t.Context(), owner, diskOne.DiskUUID, update); err != nil {
		t.Fatal(err)
	}
	guest := r.caller(r.vm())
	guest.want(guest.ask(r.launch(1)), "")
	guest.want(guest.ask(r.launch(2, other)), "")
	r.advance(time.Hour)
	guest.want(guest.ask(r.launch(3)), keyapi.CodeDenied)
	if !slices.Contains(r.checks, "measurement") {
		t.Errorf("refused for %q, want measurement among them", r.checks)
	}
	guest.want(guest.ask(r.launch(4, other)), "")
	r.book.Judge(t)
}

// TestStaged: each launch gets the key of the record that its evidence satisfies, until one of
// them goes.
func TestStaged(t *testing.T) {
	r := newRig(t)
	header := pins.Header{DiskUUID: diskOne.DiskUUID, HeaderSHA256: pins.Digest{0xc1}}
	stage := func() {
		t.Helper()
		if _, err := r.ledger.Put(t.Context(), owner, r.record(header), r.encode(r.values(otherwise)), keyOne, ledger.Replace{Beside: true}); err != nil {
			t.Fatal(err)
		}
	}
	stage()
	guest := r.caller(r.vm())
	generation := func() uint64 { return newest[audit.AboutRelease](r).Generation }
	guest.want(guest.ask(r.launch(1)), "")
	if got := generation(); got != 1 {
		t.Errorf("old launch: got generation %d, want 1", got)
	}
	guest.want(guest.ask(r.launch(2, other)), "")
	if got := generation(); got != 2 {
		t.Errorf("new launch: got generation %d, want 2", got)
	}
	if err := r.ledger.Withdraw(t.Context(), owner, diskOne.DiskUUID); err != nil {
		t.Fatal(err)
	}
	guest.want(guest.ask(r.launch(3, other)), keyapi.CodeDenied)
	stage()
	guest.want(guest.ask(r.launch(4, other)), "")
	if err := r.ledger.Confirm(t.Context(), owner, diskOne.DiskUUID, 0); err != nil {
		t.Fatal(err)
	}
	guest.want(guest.ask(r.launch(5)), keyapi.CodeDenied)
	guest.want(guest.ask(r.launch(6, other)), "")
	r.book.Judge(t)
}

// TestCap stops a host that launches an image again and again, until the owner lifts the bound.
func TestCap(t *testing.T) {
	r := newRig(t)
	most := uint32(2)
	if err := r.ledger.Update(t.Context(), owner, diskOne.DiskUUID, ledger.Update{MaxReleases: &most}); err != nil {
		t.Fatal(err)
	}
	guest := r.caller(r.vm())
	guest.want(guest.ask(r.launch(1)), "")
	guest.want(guest.ask(r.launch(2)), "")
	guest.want(guest.ask(r.launch(3)), keyapi.CodeBusy)
	if !slices.Equal(r.checks, []string{"cap"}) || !slices.Equal(r.refused().Checks, []string{"cap"}) {
		t.Errorf("refused for %q, want the cap", r.checks)
	}
	r.restart()
	guest = r.caller(r.vm())
	guest.want(guest.ask(r.launch(3)), keyapi.CodeBusy)
	most++
	if err := r.ledger.Update(t.Context(), owner, diskOne.DiskUUID, ledger.Update{MaxReleases: &most}); err != nil {
		t.Fatal(err)
	}
	guest.want(guest.ask(r.launch(3)), "")
	r.book.Judge(t)
}
