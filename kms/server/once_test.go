package server

import (
	"errors"
	"net/http"
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
	if err := r.ledger.SetState("test", diskOne.DiskUUID, store.Disabled); err != nil {
		t.Fatal(err)
	}
	guest.want(a, keyapi.CodeDenied)
	if err := r.ledger.SetState("test", diskOne.DiskUUID, store.Enabled); err != nil {
		t.Fatal(err)
	}
	r.advance(time.Nanosecond)
	guest.want(a, keyapi.CodeNonce)
	if all, err := r.store.Releases(diskOne.DiskUUID); err != nil || len(all) != 1 {
		t.Errorf("got %d releases, %v, want 1", len(all), err)
	}
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
	guest.want(issued, keyapi.CodeNonce) // nonces do not outlive the process
	guest.want(a, "")                    // the reply may have been lost in the crash
	r.advance(retryWindow + 1)
	guest.want(a, keyapi.CodeNonce)

	// The record's key and header change; the launch still had its release.
	if err := r.put(r.record(diskOne), r.values(measured), true); err != nil {
		t.Fatal(err)
	}
	guest.want(guest.ask(r.launch(1)), keyapi.CodeDenied)
	if err := r.ledger.Delete("test", diskOne.DiskUUID); err != nil {
		t.Fatal(err)
	}
	r.mustPut(r.record(diskOne), r.values(measured))
	guest.want(guest.ask(r.launch(1)), keyapi.CodeDenied)
	_, released := guest.send(guest.ask(r.launch(3)))
	if released == nil || released.Generation != 3 {
		t.Errorf("got %+v, want generation 3", released)
	}
}

// TestCrash stops the server between the audit log and the store, and between the
// store and the reply.
func TestCrash(t *testing.T) {
	r := newRig(t)
	guest := r.caller(r.vm())
	if _, err := r.audit.Append(audit.Entry{Event: audit.Release, Disk: diskOne.DiskUUID, ReportID: snp.ReportID{1}}); err != nil {
		t.Fatal(err)
	}
	r.restart()
	guest.want(guest.ask(r.launch(1)), "")
	n := 0
	for _, e := range r.events(100) {
		if e.Event == audit.Release && e.ReportID == (snp.ReportID{1}) {
			n++
		}
	}
	if n != 2 {
		t.Errorf("audit log has %d releases, want 2: one that did not happen, one that did", n)
	}

	a := guest.ask(r.launch(2))
	record, err := r.store.Get(diskOne.DiskUUID)
	if err != nil {
		t.Fatal(err)
	}
	err = r.ledger.Release(ledger.Claim{Record: record, ReportID: snp.ReportID{2}, RequestSHA256: digestOf(a), Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	r.restart()
	guest.want(guest.ask(r.launch(2)), keyapi.CodeDenied)
	guest.want(a, "")
}

// TestNoAudit lets no key leave when the audit log fails.
func TestNoAudit(t *testing.T) {
	r := newRig(t)
	guest := r.caller(r.vm())
	a := guest.ask(r.launch(1))
	r.audit.Close()
	guest.want(a, keyapi.CodeUnavailable)
	if all, err := r.store.Releases(diskOne.DiskUUID); err != nil || len(all) != 0 {
		t.Errorf("store has releases %v, %v", all, err)
	}
	r.restart()
	guest.want(guest.ask(r.launch(1)), "") // the launch did not lose its release
}

// TestRollback refuses to start with an audit log that lost what the store knows.
func TestRollback(t *testing.T) {
	r := newRig(t)
	before := r.auditLog()
	guest := r.caller(r.vm())
	guest.want(guest.ask(r.launch(1)), "")
	head, err := r.store.Head()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Verify(strings.NewReader(before), head, nil); err == nil {
		t.Error("an older audit log passes")
	}
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
		guest.want(a, keyapi.CodeNonce)
	}
	if last := r.events(2)[0]; last.Event != audit.Release || last.Evidence != "not-required" || last.ReportID != (snp.ReportID{}) {
		t.Errorf("audit log has %+v", last)
	}
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
	records, err := r.store.List()
	if err != nil || len(records) != 1 {
		t.Fatalf("got %d records, %v, want 1", len(records), err)
	}
	strict := records[0]
	guest := r.caller(r.vm())
	guest.want(guest.ask(r.launch(1)), "")
	if last := r.events(1)[0]; last.ReferenceValuesSHA256 != strict.ReferenceValues || strict.ReferenceValues == (pins.Digest{}) {
		t.Errorf("release says reference values %s, want %s", last.ReferenceValuesSHA256, strict.ReferenceValues)
	}
	loose := r.values(snp.Measurement{1})
	loose.GuestPolicy.Debug = refval.AnyBit
	if err := r.put(r.record(strict.Header), loose, true); err != nil {
		t.Fatal(err)
	}
	last := r.events(1)[0]
	if last.Event != audit.Put || last.ReferenceValuesSHA256 == (pins.Digest{}) || last.ReferenceValuesSHA256 == strict.ReferenceValues ||
		last.LUKS2HeaderSHA256 != strict.Header.HeaderSHA256 {
		t.Errorf("put says %+v", last.Entry)
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
	if last := r.events(1)[0]; last.Suppressed != 20 {
		t.Errorf("audit log has %+v, want 20 suppressed", last)
	}
	c.post(keyapi.PathNonce, []byte("x"))
	r.server.noteLeftOut()
	if last := r.events(1)[0]; last.Suppressed != 1 || last.SPIFFEID == "" {
		t.Errorf("audit log has %+v, want a line for the one that was left out", last)
	}
	lines := len(r.auditLog())
	if r.server.noteLeftOut(); len(r.auditLog()) != lines {
		t.Error("what was left out is on the log twice")
	}
}
