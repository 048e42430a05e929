package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
)

// TestHostileRequests sends 10,000 requests that are a good one with something changed: no
// key leaves, nothing panics, and the server goes on.
func TestHostileRequests(t *testing.T) {
	r := newRig(t)
	svid := r.vm()
	me := acl.Caller{ID: vmID, SPKI: svid.Certificates[0].RawSubjectPublicKeyInfo}
	handler := r.server.handler()
	send := func(method, path string, body []byte) int {
		request := httptest.NewRequest(method, "https://kms"+path, bytes.NewReader(body))
		request.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{svid.Certificates[0]}}
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		return answer.Code
	}
	random := rand.New(rand.NewPCG(5, 6))
	release := keyapi.ReleasePath(diskOne.DiskUUID)
	good := r.prepared(me, 1)
	statuses := map[int]int{}
	const requests = 10_000
	for i := range requests {
		path, body := release, bytes.Clone(good)
		switch i % 10 {
		case 0: // within the evidence, so that it is judged
			path, body = release, r.changedEvidence(t, random, good)
		case 1:
			body = body[:random.IntN(len(body))]
		case 2:
			at := random.IntN(len(body))
			body = append(body[:at:at], append([]byte{byte(random.Uint32())}, body[at:]...)...)
		case 3:
			a, b := random.IntN(len(body)), random.IntN(len(body))
			body = append(body[:a:a], body[b:]...)
			if a == b {
				body = body[1:]
			}
		case 4:
			body = bytes.Repeat([]byte{"[{\"0,"[random.IntN(5)]}, random.IntN(keyapi.MaxRequestSize+100))
		case 5:
			path = path[:1+random.IntN(len(path)-1)]
		case 6:
			path = strings.Replace(path, path[12:14], string("0123456789abcdefX/."[random.IntN(19)]), 1) + "x"
		default:
			at := random.IntN(len(body))
			body[at] ^= 1 << random.IntN(8)
		}
		status := send([]string{http.MethodPost, http.MethodPost, http.MethodPut}[random.IntN(3)], path, body)
		if status == http.StatusOK || status >= 500 {
			t.Fatalf("request %d to %s: status is %d: %q", i, path, status, body)
		}
		statuses[status]++
	}
	if statuses[http.StatusForbidden] < requests/50 || statuses[http.StatusBadRequest] < requests/5 {
		t.Errorf("statuses are %v: the requests do not reach what they should", statuses)
	}
	if status := send(http.MethodPost, release, good); status != http.StatusOK {
		t.Errorf("the good one: status is %d", status)
	}
	releases := 0
	for _, leaf := range r.book.Leaves(t) {
		if leaf.Event == audit.Release {
			releases++
		}
	}
	if releases != 1 {
		t.Errorf("log has %d releases, want 1", releases)
	}
}

// changedEvidence flips a bit of the report or of a certificate.
func (r *rig) changedEvidence(t *testing.T, random *rand.Rand, good []byte) []byte {
	t.Helper()
	request, err := keyapi.Decode[keyapi.ReleaseRequest](good)
	if err != nil {
		t.Fatal(err)
	}
	e, err := evidence.Decode(request.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	part := e.Report
	if n := random.IntN(2 * len(e.Certificates)); n < len(e.Certificates) {
		part = e.Certificates[n]
	}
	part[random.IntN(len(part))] ^= 1 << random.IntN(8)
	if request.Evidence, err = e.Encode(); err != nil {
		t.Fatal(err)
	}
	return keyapi.Encode(request)
}

// TestSlowBody: a body that does not come whole is no malformed request: the guest asks again.
func TestSlowBody(t *testing.T) {
	for err, want := range map[error]keyapi.Code{os.ErrDeadlineExceeded: keyapi.CodeUnavailable, io.ErrUnexpectedEOF: keyapi.CodeUnavailable, nil: keyapi.CodeMalformed} {
		body := io.Reader(strings.NewReader(strings.Repeat("x", 100)))
		if err != nil {
			body = io.MultiReader(strings.NewReader("x"), iotest.ErrReader(err))
		}
		request := httptest.NewRequest(http.MethodPost, "/", body)
		if _, got := readBody(httptest.NewRecorder(), request, 10); got == nil || codeOf(got) != want {
			t.Errorf("%v: got error %v, code %q, want %q", err, got, codeOf(got), want)
		}
	}
}
