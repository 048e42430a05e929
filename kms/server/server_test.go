package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/fetchkey"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// TestFetch is the whole way: the guest's own code gets the key.
func TestFetch(t *testing.T) {
	r := newRig(t)
	released, err := fetchkey.Fetch(context.Background(), r.guest(r.vm(), r.launch(1)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(released.Key[:], keyOne) || released.Header != diskOne || released.Generation != 1 || released.KMSID != kmsID.String() {
		t.Errorf("got %+v", released)
	}
	last, said := r.events(1)[0], newest[audit.AboutRelease](r)
	if last.Event != audit.Release || said.Disk != diskOne.DiskUUID || said.SPIFFEID != vmID.String() || said.ReportID != (snp.ReportID{1}) ||
		!bytes.Equal(said.Measurement, measured[:]) || said.Generation != 1 || said.Proof == nil {
		t.Errorf("log has %+v", last)
	}
	if all := r.leases(diskOne.DiskUUID); len(all) != 1 || all[0].Leaf != last.Place || all[0].ReportID != (snp.ReportID{1}) {
		t.Errorf("store has %+v, want leaf %s", all, last.Place)
	}
	// Root in the booted OS asks again, with fresh evidence of the same launch.
	_, err = fetchkey.Fetch(context.Background(), r.guest(r.vm(), r.launch(1)))
	if !errors.Is(err, fetchkey.ErrRefused) || !strings.HasPrefix(err.Error(), "release: ") {
		t.Errorf("second fetch: got error %v, want ErrRefused", err)
	}
	if last := r.refused(); !strings.Contains(last.Reason, ledger.ErrReleased.Error()) {
		t.Errorf("audit log has %+v", last)
	}
	// Another launch of the same VM gets it.
	if _, err := fetchkey.Fetch(context.Background(), r.guest(r.vm(), r.launch(2))); err != nil {
		t.Error(err)
	}
	r.noSecrets()
}

// noSecrets looks for the key in the audit log and the server's log.
func (r *rig) noSecrets() {
	r.t.Helper()
	r.logMu.Lock()
	defer r.logMu.Unlock()
	for _, text := range []string{r.auditLog(), r.log.String()} {
		for _, form := range []string{string(keyOne), hex.EncodeToString(keyOne), base64.StdEncoding.EncodeToString(keyOne)} {
			if strings.Contains(text, form) {
				r.t.Error("a log shows the key")
			}
		}
	}
}

// TestLocks turns one thing at a time wrong. Each refusal looks the same to the
// caller, and says why in the audit log.
func TestLocks(t *testing.T) {
	good := func(r *rig) func([64]byte) (ev, error) { return r.launch(1) }
	for _, c := range []struct {
		name   string
		before func(r *rig)
		caller spiffeid.ID
		launch func(r *rig) func([64]byte) (ev, error)
		change func(a *ask) // before the evidence is made
		after  func(a *ask) // after it
		want   keyapi.Code
		reason string
	}{
		{name: "good", want: ""},
		{name: "another measurement", launch: func(r *rig) func([64]byte) (ev, error) {
			return r.launch(1, func(x *snp.Report) { x.Measurement = otherwise })
		}, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "debugging allowed", launch: func(r *rig) func([64]byte) (ev, error) {
			return r.launch(1, func(x *snp.Report) { x.Policy |= snp.PolicyDebug })
		}, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "VMPL 1", launch: func(r *rig) func([64]byte) (ev, error) {
			return r.launch(1, func(x *snp.Report) { x.VMPL = 1 })
		}, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "no REPORT_ID", launch: func(r *rig) func([64]byte) (ev, error) { return r.launch(0) },
			want: keyapi.CodeDenied, reason: "lock 2: REPORT_ID is all zero"},
		{name: "report for node attestation", launch: func(r *rig) func([64]byte) (ev, error) {
			return func([64]byte) (ev, error) { return r.launch(1)(nodeAttestation()) }
		}, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "another HPKE key than the evidence's", after: func(a *ask) { a.request.HPKEPublicKey[0] ^= 1 },
			want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "no evidence", after: func(a *ask) { a.request.Evidence = nil }, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "broken evidence", after: func(a *ask) { a.request.Evidence = a.request.Evidence[1:] }, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "flipped signature", after: func(a *ask) {
			a.request.Evidence = bytes.Replace(a.request.Evidence, []byte("AAAAAA"), []byte("BAAAAA"), 1)
		}, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "a nonce that was never issued", change: func(a *ask) { a.request.Nonce[0] ^= 1 }, want: keyapi.CodeNonce, reason: "nonce"},
		{name: "no such disk", change: func(a *ask) { a.disk = pins.UUID{9} }, want: keyapi.CodeDenied, reason: "no record"},
		{name: "evidence for another disk", before: func(r *rig) {
			two := r.record(diskTwo)
			two.SameVM = true
			r.mustPut(two, r.values(measured))
		}, after: func(a *ask) { a.disk = diskTwo.DiskUUID }, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "another SPIFFE ID", before: func(r *rig) {
			two := r.record(diskTwo)
			two.SPIFFEID = otherID
			r.mustPut(two, r.values(measured))
		}, caller: otherID, want: keyapi.CodeDenied, reason: "lock 1: "},
		{name: "disabled", before: func(r *rig) {
			if err := r.ledger.SetState(r.t.Context(), audit.Actor{Name: "test"}, diskOne.DiskUUID, store.Disabled); err != nil {
				r.t.Fatal(err)
			}
		}, want: keyapi.CodeDenied, reason: "record is disabled"},
		{name: "disabled, then enabled", before: func(r *rig) {
			for _, s := range []store.State{store.Disabled, store.Enabled} {
				if err := r.ledger.SetState(r.t.Context(), audit.Actor{Name: "test"}, diskOne.DiskUUID, s); err != nil {
					r.t.Fatal(err)
				}
			}
		}, want: ""},
		{name: "emulated evidence, root of trust amd", before: func(r *rig) {
			values := refval.New(refval.AMD(), r.values(measured).Measurements, refval.Product{Name: snp.Genoa, MinimumTCB: refval.Any[snp.TCB]()})
			if err := r.put(r.record(diskOne), values, true); err != nil {
				r.t.Fatal(err)
			}
		}, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "emulated evidence of another ARK", before: func(r *rig) {
			if err := r.put(r.record(diskOne), refval.New(refval.EmulatedARK(pins.Digest{1}), r.values(measured).Measurements), true); err != nil {
				r.t.Fatal(err)
			}
		}, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "VCEK revoked", before: func(r *rig) { r.crl = chip(r.t).CRL(r.t, chip(r.t).Chain.VCEK) }, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "CRL too old", before: func(r *rig) {
			now := snptest.Now()
			r.crl = chip(r.t).CRLAt(r.t, 1, now.Add(-2*time.Hour), now.Add(-time.Hour))
		}, want: keyapi.CodeUnavailable, reason: "cannot judge now"},
		{name: "CRL of another root", before: func(r *rig) { r.crl = snptest.New(r.t, snp.Genoa).CRL(r.t) },
			want: keyapi.CodeUnavailable, reason: "cannot judge now"},
		{name: "CRL too old, and another measurement", before: func(r *rig) {
			now := snptest.Now()
			r.crl = chip(r.t).CRLAt(r.t, 1, now.Add(-2*time.Hour), now.Add(-time.Hour))
		}, launch: func(r *rig) func([64]byte) (ev, error) {
			return r.launch(1, func(x *snp.Report) { x.Measurement = otherwise })
		}, want: keyapi.CodeDenied, reason: "lock 2: "},
		{name: "collateral cannot be read", before: func(r *rig) { r.crl = nil }, want: keyapi.CodeUnavailable, reason: "collateral"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			if c.before != nil {
				c.before(r)
			}
			id, launch, change := c.caller, good, c.change
			if id.IsZero() {
				id = vmID
			}
			if c.launch != nil {
				launch = c.launch
			}
			if change == nil {
				change = func(*ask) {}
			}
			guest := r.caller(r.ca.Issue(t, id))
			a := guest.ask(launch(r), change)
			if c.after != nil {
				c.after(&a)
			}
			guest.want(a, c.want)
			if c.want == "" {
				newest[audit.AboutRelease](r)
				r.book.Judge(t)
				return
			}
			if last := r.refused(); last.Code != string(c.want) || !strings.Contains(last.Reason, c.reason) {
				t.Errorf("audit log has %+v, want a refusal with %q", last, c.reason)
			}
			if all := r.leases(a.disk); len(all) != 0 {
				t.Errorf("store has leases %v", all)
			}
			r.noSecrets()
		})
	}
}

// TestNonce uses nonces wrongly.
func TestNonce(t *testing.T) {
	r := newRig(t)
	one, two := r.caller(r.vm()), r.caller(r.vm())

	a := one.ask(r.launch(1))
	one.want(a, "")
	// A nonce says that evidence is fresh; one release for each launch is the lease's doing.
	one.want(one.ask(r.launch(1), func(b *ask) { b.request.Nonce = a.request.Nonce }), keyapi.CodeDenied)

	stolen := two.ask(r.launch(3), func(b *ask) { b.request.Nonce = one.nonce() })
	two.want(stolen, keyapi.CodeNonce)

	old := one.ask(r.launch(4))
	r.advance(nonceLifetime)
	one.want(old, keyapi.CodeBusy) // a copy of it may be under way
	r.advance(nonceGrace)
	one.want(old, keyapi.CodeNonce)

	ahead := one.ask(r.launch(5))
	r.advance(-nonceSkew - time.Second)
	one.want(ahead, keyapi.CodeNonce)
}

// TestRelay is evidence of a genuine launch that comes with another SVID than the
// one it binds: a stolen or relayed report.
func TestRelay(t *testing.T) {
	r := newRig(t)
	victim, thief := r.caller(r.vm()), r.caller(r.vm())
	nonce := thief.nonce()
	a := victim.ask(r.launch(1), func(a *ask) { a.request.Nonce = nonce })
	thief.want(a, keyapi.CodeDenied)
	if last := r.refused(); !strings.Contains(last.Reason, "lock 2") {
		t.Errorf("audit log has %+v", last)
	}
}

// TestClockBehindTheLog: the server's fault, and no final word to the guest.
func TestClockBehindTheLog(t *testing.T) {
	r := newRig(t)
	guest := r.caller(r.vm())
	guest.want(guest.ask(r.launch(1)), "")
	r.advance(-time.Hour)
	late := guest.ask(r.launch(2))
	guest.want(late, keyapi.CodeUnavailable)
	if last := r.refused(); !strings.Contains(last.Reason, "clock is behind") {
		t.Errorf("log has %+v", last)
	}
	guest.want(guest.ask(r.launch(2)), keyapi.CodeUnavailable) // the refusal's own time changes nothing
	// A change of a record says that the clock is right.
	for _, state := range []store.State{store.Disabled, store.Enabled} {
		if err := r.ledger.SetState(t.Context(), audit.Actor{Name: "test"}, diskOne.DiskUUID, state); err != nil {
			t.Fatal(err)
		}
	}
	guest.want(guest.ask(r.launch(2)), "")
}
