package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

// TestAnnounced: the ledger knows of a release from the nonce on, while it is judged, and until it
// is made or refused. It hears nothing of a peer that gets no nonce. The note of a refusal needs the
// ledger, so the release must not be waited for by then.
func TestAnnounced(t *testing.T) {
	r := newRig(t)
	handler := r.server.handler()
	send := func(svid *x509svid.SVID, path string, body []byte, want int) {
		t.Helper()
		request := httptest.NewRequest(http.MethodPost, "https://kms"+path, bytes.NewReader(body))
		request.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{svid.Certificates[0]}}
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		if answer.Code != want {
			t.Errorf("%s: status is %d, want %d", path, answer.Code, want)
		}
	}
	coming := func(want int, when string) {
		t.Helper()
		if got := r.ledger.Coming(); got != want {
			t.Errorf("%s: %d releases are coming, want %d", when, got, want)
		}
	}
	vm := r.vm()
	good := r.prepared(acl.Caller{ID: vmID, SPKI: vm.Certificates[0].RawSubjectPublicKeyInfo}, 1)
	nonce := keyapi.Encode(keyapi.NonceRequest{Version: keyapi.Version})
	release := keyapi.ReleasePath(diskOne.DiskUUID)

	send(r.ca.Issue(t, otherID), keyapi.PathNonce, nonce, http.StatusForbidden)
	coming(0, "a caller without a record")
	send(vm, keyapi.PathNonce, nonce, http.StatusOK)
	coming(1, "a nonce")
	refused := 0
	r.server.Refused = func(pins.UUID, []string) {
		refused++
		coming(0, "a refusal that is noted")
	}
	send(vm, release, []byte("{}"), http.StatusBadRequest)
	coming(0, "a refused release")
	if refused != 1 {
		t.Errorf("%d releases were refused, want 1", refused)
	}
	judged, collateral := 0, r.server.Collateral
	r.server.Collateral = func() (appraise.Collateral, error) {
		judged++
		coming(1, "a release that is judged")
		return collateral()
	}
	send(vm, release, good, http.StatusOK)
	coming(0, "a release")
	if judged == 0 {
		t.Error("no release was judged")
	}
}
