package server

import (
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

// TestLostReply asks again with the very same request.
func TestLostReply(t *testing.T) {
	r := newRig(t)
	guest := r.caller(r.vm())
	a := guest.ask(r.launch(1))
	guest.want(a, "")
	r.advance(retryWindow)
	guest.want(a, "")
	if last := r.events(1)[0]; last.Event != audit.ReleaseAgain {
		t.Errorf("audit log has %+v, want release again", last)
	}
	// With another SVID, even of the same ID, the very same bytes bind nothing.
	r.caller(r.vm()).want(a, keyapi.CodeDenied)
	// Another request of the same launch is another request.
	guest.want(guest.ask(r.launch(1)), keyapi.CodeDenied)
	// Nor does it help that the record was disabled meanwhile.
	if err := r.ledger.SetState(t.Context(), audit.Actor{Name: "test"}, diskOne.DiskUUID, store.Disabled); err != nil {
		t.Fatal(err)
	}
	guest.want(a, keyapi.CodeDenied)
	if err := r.ledger.SetState(t.Context(), audit.Actor{Name: "test"}, diskOne.DiskUUID, store.Enabled); err != nil {
		t.Fatal(err)
	}
	r.advance(time.Nanosecond)
	guest.want(a, keyapi.CodeDenied)
	r.advance(nonceLifetime)
	guest.want(a, keyapi.CodeNonce)
	if all := r.leases(diskOne.DiskUUID); len(all) != 1 {
		t.Errorf("got %d leases, want 1", len(all))
	}
	r.book.Judge(t)
}

// TestRestart keeps the rule of one release over restarts.
func TestRestart(t *testing.T) {
	r := newRig(t)
	guest := r.caller(r.vm())
	a := guest.ask(r.launch(1))
	guest.want(a, "")
	issued := guest.ask(r.launch(2))
	r.restart()
	guest.want(guest.ask(r.launch(1)), keyapi.CodeDenied)
	guest.want(issued, "") // nonces outlive the process
	guest.want(a, "")      // the reply may have been lost in the crash
	r.advance(retryWindow + 1)
	guest.want(a, keyapi.CodeDenied)

	// The record's key and header change; the launch still had its release.
	if err := r.put(r.record(diskOne), r.values(measured), true); err != nil {
		t.Fatal(err)
	}
	guest.want(guest.ask(r.launch(1)), keyapi.CodeDenied)
	if err := r.ledger.Delete(t.Context(), audit.Actor{Name: "test"}, diskOne.DiskUUID); err != nil {
		t.Fatal(err)
	}
	r.mustPut(r.record(diskOne), r.values(measured))
	guest.want(guest.ask(r.launch(1)), keyapi.CodeDenied)
	_, released := guest.send(guest.ask(r.launch(3)))
	r.book.Judge(t)
	if released == nil || released.Generation != 3 {
		t.Errorf("got %+v, want generation 3", released)
	}
}

// TestCrash stops the server between the transaction and the reply.
func TestCrash(t *testing.T) {
	r := newRig(t)
	guest := r.caller(r.vm())
	a := guest.ask(r.launch(2))
	record, err := r.store.Get(t.Context(), diskOne.DiskUUID)
	if err != nil {
		t.Fatal(err)
	}
	err = r.ledger.Release(t.Context(), ledger.Claim{Record: record, Launch: store.Launch{ReportID: snp.ReportID{2}}, Fresh: true,
		About: audit.AboutRelease{Request: audit.Request{SHA256: digestOf(a)}}})
	if err != nil {
		t.Fatal(err)
	}
	r.restart()
	guest.want(guest.ask(r.launch(2)), keyapi.CodeDenied)
	guest.want(a, "")
}

// TestNoStore lets no key leave when nothing can be written.
func TestNoStore(t *testing.T) {
	r := newRig(t)
	guest := r.caller(r.vm())
	a := guest.ask(r.launch(1))
	db := filepath.Join(r.dir, "kms.db")
	if err := os.Rename(db, db+".away"); err != nil {
		t.Fatal(err)
	}
	if code, _ := guest.send(a); code != keyapi.CodeUnavailable {
		t.Errorf("got code %q, want %q", code, keyapi.CodeUnavailable)
	}
	if err := os.Rename(db+".away", db); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if all := r.leases(diskOne.DiskUUID); len(all) != 0 {
		t.Errorf("store has leases %v", all)
	}
	guest.want(guest.ask(r.launch(1)), "") // the launch did not lose its release
}

func TestEvidenceNotRequired(t *testing.T) {
	r := newRig(t)
	record := r.record(diskTwo)
	record.SPIFFEID, record.Evidence = otherID, store.EvidenceNotRequired
	r.mustPut(record, refval.Values{})
	guest := r.caller(r.ca.Issue(t, otherID))
	for range 2 {
		a := guest.ask(r.launch(0), func(a *ask) { a.disk = diskTwo.DiskUUID })
		a.request.Evidence = nil
		guest.want(a, "")
		guest.want(a, "") // the reply may have been lost
		other := a
		other.recipient, _ = keyapi.NewRecipient()
		other.request.HPKEPublicKey = other.recipient.PublicKey()
		guest.want(other, keyapi.CodeDenied) // the nonce was used
	}
	if last, ok := r.events(2)[0].About.(audit.AboutRelease); !ok || last.Proof != nil || last.ReportID != (snp.ReportID{}) {
		t.Errorf("log has %+v", last)
	}
	if all := r.leases(diskTwo.DiskUUID); len(all) != 2 {
		t.Errorf("got %d leases, want one for each request", len(all))
	}
	r.book.Judge(t)
}

func TestOverlap(t *testing.T) {
	r := newRig(t)
	two := r.record(diskTwo)
	if err := r.put(two, r.values(measured), false); !errors.Is(err, ledger.ErrOverlap) {
		t.Errorf("same SPIFFE ID and measurement: got error %v, want ErrOverlap", err)
	}
	both := r.values(otherwise)
	both.Measurements = append(both.Measurements, r.values(measured).Measurements...)
	if err := r.put(two, both, false); !errors.Is(err, ledger.ErrOverlap) {
		t.Errorf("one measurement in common: got error %v, want ErrOverlap", err)
	}
	blind := two
	blind.Evidence = store.EvidenceNotRequired
	if err := r.put(blind, refval.Values{}, false); !errors.Is(err, ledger.ErrOverlap) {
		t.Errorf("without evidence: got error %v, want ErrOverlap", err)
	}
	if err := r.put(r.record(diskOne), r.values(measured), false); !errors.Is(err, ledger.ErrExists) {
		t.Errorf("same disk: got error %v, want ErrExists", err)
	}
	if err := r.put(two, r.values(otherwise), false); err != nil {
		t.Errorf("another measurement: %v", err)
	}
	two.SameVM = true
	if err := r.put(two, r.values(measured), true); err != nil {
		t.Errorf("same VM: %v", err)
	}
	guest := r.caller(r.vm())
	guest.want(guest.ask(r.launch(1)), "")
	guest.want(guest.ask(r.launch(1), func(a *ask) { a.disk = diskTwo.DiskUUID }), "")
}

// TestRace has many requests of one launch at once: exactly one gets the key.
func TestRace(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[keyapi.Code]int{}
	for range 16 {
		guest := r.caller(r.vm())
		a := guest.ask(r.launch(1))
		wg.Go(func() {
			code, _ := guest.send(a)
			mu.Lock()
			defer mu.Unlock()
			got[code]++
		})
	}
	wg.Wait()
	if got[""] != 1 || got[keyapi.CodeDenied] != 15 {
		t.Errorf("got %v, want one key and 15 denials", got)
	}
}

// TestStrangers are peers that get no further than the handshake, or no nonce.
func TestStrangers(t *testing.T) {
	r := newRig(t)
	post := func(c *caller) (int, error) {
		status, _, err := c.post(keyapi.PathNonce, keyapi.Encode(keyapi.NonceRequest{Version: 1}))
		return status, err
	}
	if status, err := post(r.caller(r.ca.Issue(t, otherID))); status != http.StatusForbidden || err != nil {
		t.Errorf("SPIFFE ID on no record: got status %d, %v, want 403", status, err)
	}
	foreign := spiffeid.RequireFromString("spiffe://example.com/vm")
	if status, err := post(r.caller(r.ca.Issue(t, foreign))); err == nil {
		t.Errorf("another trust domain: got status %d, want no connection", status)
	}
	if status, err := post(r.caller(spiffetest.New(t).Issue(t, vmID))); err == nil {
		t.Errorf("another CA: got status %d, want no connection", status)
	}
	// An SVID that expires while its connection stays open.
	soon := r.caller(r.ca.Issue(t, vmID, spiffetest.Until(snptest.Now().Add(time.Hour))))
	if time.Now().Before(snptest.Now().Add(time.Hour)) {
		soon.nonce()
		r.advance(2 * time.Hour)
		if status, err := post(soon); status != http.StatusForbidden || err != nil {
			t.Errorf("expired SVID: got status %d, %v, want 403", status, err)
		}
	}
}

// TestOwnSVIDExpired: the server breaks the handshake off, which a guest takes for something
// that may pass.
func TestOwnSVIDExpired(t *testing.T) {
	r := newRig(t)
	until := time.Now().Add(time.Hour) // the caller goes by the real clock
	r.svid.Store(r.ca.Issue(t, kmsID, spiffetest.Until(until)))
	r.caller(r.vm()).nonce()
	r.advance(until.Sub(r.clock()))
	_, _, err := r.caller(r.vm()).post(keyapi.PathNonce, keyapi.Encode(keyapi.NonceRequest{Version: 1}))
	if err == nil || !strings.Contains(err.Error(), "remote error: tls: internal error") {
		t.Errorf("got error %v, want the server to break the handshake off", err)
	}
	r.svid.Store(r.ca.Issue(t, kmsID))
	r.caller(r.vm()).nonce()
}

// TestLeavesThatAreNoSVIDs are refused, although their chain is good.
func TestLeavesThatAreNoSVIDs(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		id   spiffeid.ID
		with func(*x509.Certificate)
		want string
	}{
		"no path":           {kmsID.TrustDomain().ID(), func(*x509.Certificate) {}, "has no path"},
		"no key usage":      {vmID, spiffetest.Usage(0), "digitalSignature"},
		"another key usage": {vmID, spiffetest.Usage(x509.KeyUsageKeyAgreement), "digitalSignature"},
	} {
		status, _, err := r.caller(r.ca.Issue(t, c.id, c.with)).post(keyapi.PathNonce, keyapi.Encode(keyapi.NonceRequest{Version: 1}))
		if err != nil || status != http.StatusForbidden {
			t.Errorf("%s: got status %d, %v, want 403", name, status, err)
		}
		if last := r.refused(); !strings.Contains(last.Reason, c.want) {
			t.Errorf("%s: log has %+v, want %q", name, last, c.want)
		}
	}
}

func TestMalformed(t *testing.T) {
	r := newRig(t)
	c := r.caller(r.vm())
	for _, x := range []struct {
		name, path, body string
		want             int
	}{
		{"no JSON", keyapi.PathNonce, "x", 400},
		{"version", keyapi.PathNonce, `{"version":2}`, 400},
		{"white space", keyapi.PathNonce, `{"version": 1}`, 400},
		{"too large", keyapi.PathNonce, strings.Repeat(" ", keyapi.MaxRequestSize+1), 400},
		{"release", keyapi.ReleasePath(diskOne.DiskUUID), `{}`, 400},
		{"no UUID", "/v1/disks/1/release", string(keyapi.Encode(keyapi.ReleaseRequest{Version: 1})), 400},
		{"upper-case UUID", "/v1/disks/" + strings.ToUpper(pins.UUID{0xaa}.String()) + "/release", string(keyapi.Encode(keyapi.ReleaseRequest{Version: 1})), 400},
		{"elsewhere", "/v1/keys", "", 404},
	} {
		t.Run(x.name, func(t *testing.T) {
			status, data, err := c.post(x.path, []byte(x.body))
			if err != nil || status != x.want {
				t.Errorf("got status %d, %s, %v, want %d", status, data, err, x.want)
			}
		})
	}
}

// TestLogSaysWhatWasPut: reference values that are put for one release and put back
// after it show, and so does which of them a release satisfied.
func TestLogSaysWhatWasPut(t *testing.T) {
	r := newRig(t)
	records, err := r.store.List(t.Context(), pins.UUID{}, 10)
	if err != nil || len(records) != 1 {
		t.Fatalf("got %d records, %v, want 1", len(records), err)
	}
	strict := records[0]
	guest := r.caller(r.vm())
	guest.want(guest.ask(r.launch(1)), "")
	if last := newest[audit.AboutRelease](r); last.Proof.ReferenceValues != strict.ReferenceValues || strict.ReferenceValues == (pins.Digest{}) {
		t.Errorf("release says reference values %s, want %s", last.Proof.ReferenceValues, strict.ReferenceValues)
	}
	loose := r.values(snp.Measurement{1})
	loose.GuestPolicy.Debug = refval.AnyBit
	if err := r.put(r.record(strict.Header), loose, true); err != nil {
		t.Fatal(err)
	}
	last := newest[audit.AboutChange](r)
	if last.ReferenceValues == (pins.Digest{}) || last.ReferenceValues == strict.ReferenceValues || last.Header != strict.Header.HeaderSHA256 {
		t.Errorf("put says %+v", last)
	}
}

func TestRefusalsAreBounded(t *testing.T) {
	r := newRig(t)
	c := r.caller(r.vm())
	for range refusalBurst + 20 {
		if status, _, err := c.post(keyapi.PathNonce, []byte("x")); status != 400 || err != nil {
			t.Fatalf("got status %d, %v", status, err)
		}
	}
	if n := strings.Count(r.auditLog(), `"refusal"`); n != refusalBurst {
		t.Errorf("audit log has %d refusals, want %d", n, refusalBurst)
	}
	r.advance(refusalInterval)
	c.post(keyapi.PathNonce, []byte("x"))
	if last := r.refused(); last.Suppressed != 20 {
		t.Errorf("audit log has %+v, want 20 suppressed", last)
	}
	c.post(keyapi.PathNonce, []byte("x"))
	r.server.noteLeftOut()
	if last := newest[audit.AboutLeftOut](r); last.Count != 1 || last.SPIFFEID == "" {
		t.Errorf("audit log has %+v, want a line for the one that was left out", last)
	}
	lines := len(r.auditLog())
	if r.server.noteLeftOut(); len(r.auditLog()) != lines {
		t.Error("what was left out is on the log twice")
	}
}
