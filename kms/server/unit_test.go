package server

import (
	"crypto/rand"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/snptest"
)

type ev = evidence.Evidence

func nodeAttestation() [64]byte { return evidence.NodeAttestation(evidence.Nonce{1}) }

func digestOf(a ask) pins.Digest { return sha256.Sum256(keyapi.Encode(a.request)) }

func TestNoncesAreBounded(t *testing.T) {
	n, now := newNonces(rand.Reader), snptest.Now()
	caller := func(i int) acl.Caller {
		id := spiffeid.RequireFromPathf(kmsID.TrustDomain(), "/vm/%d", i/noncesPerID)
		return acl.Caller{ID: id, SPKI: []byte{byte(i), byte(i >> 8), byte(i >> 16)}}
	}
	mine := acl.Caller{ID: vmID, SPKI: []byte("mine")}
	first := mustIssue(t, n, mine, now)
	for range noncesPerSVID {
		mustIssue(t, n, mine, now)
	}
	if n.take(mine, first, now) {
		t.Error("an SVID's oldest nonce outlives its allowance")
	}
	if n.count != noncesPerSVID {
		t.Errorf("count is %d, want %d", n.count, noncesPerSVID)
	}
	for i := 0; n.count < noncesTogether; i++ {
		mustIssue(t, n, caller(i), now)
	}
	if _, err := n.issue(caller(1<<20), now); codeOf(err) != keyapi.CodeBusy {
		t.Errorf("got error %v, want code busy", err)
	}
	now = now.Add(nonceLifetime)
	mustIssue(t, n, caller(1<<20), now)
	if n.count != 1 || len(n.outstanding) != 1 {
		t.Errorf("after their lifetime %d nonces of %d callers are kept, want 1 of 1", n.count, len(n.outstanding))
	}
}

func mustIssue(t *testing.T, n *nonces, c acl.Caller, now time.Time) evidence.Nonce {
	t.Helper()
	x, err := n.issue(c, now)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestNoncesOfOneID has one SPIFFE ID come with ever new SVIDs, as root in a VM
// can have its agent make them: it drives out its own nonces, nobody else's.
func TestNoncesOfOneID(t *testing.T) {
	n, now := newNonces(rand.Reader), snptest.Now()
	other := acl.Caller{ID: otherID, SPKI: []byte("other")}
	theirs := mustIssue(t, n, other, now)
	caller := func(i int) acl.Caller { return acl.Caller{ID: vmID, SPKI: []byte{byte(i), byte(i >> 8)}} }
	var all []evidence.Nonce
	for i := range 2 * noncesPerID {
		all = append(all, mustIssue(t, n, caller(i), now))
	}
	if n.count != noncesPerID+1 {
		t.Errorf("%d nonces are kept, want %d", n.count, noncesPerID+1)
	}
	for i, x := range all {
		if good := n.take(caller(i), x, now); good != (i >= noncesPerID) {
			t.Errorf("nonce %d of %d: good %v", i, len(all), good)
		}
	}
	if n.take(caller(0), theirs, now) {
		t.Error("another caller's nonce is good")
	}
	if !n.take(other, theirs, now) {
		t.Error("another caller's nonce was driven out")
	}
	if n.count != 0 || len(n.outstanding) != 0 {
		t.Errorf("%d nonces of %d callers are kept, want none", n.count, len(n.outstanding))
	}
}

// TestRefusalsOfADay has one caller be refused twice a second for two days.
func TestRefusalsOfADay(t *testing.T) {
	l, start := newLimiter(), snptest.Now()
	logged, left := 0, uint64(0)
	const half = refusalInterval / 2
	for now := start; now.Before(start.Add(2 * refusalDay)); now = now.Add(half) {
		if suppressed, ok := l.allow("rogue", now); ok {
			logged++
			left += suppressed
		}
	}
	if logged != 2*refusalsPerDay {
		t.Errorf("%d refusals are on the log, want %d", logged, 2*refusalsPerDay)
	}
	suppressed, ok := l.allow("rogue", start.Add(2*refusalDay))
	if all := 2 * int(refusalDay/half); !ok || logged+int(left+suppressed) != all {
		t.Errorf("on the log or counted: %d refusals, want %d", logged+int(left+suppressed), all)
	}
	if _, ok := l.allow("honest", start.Add(refusalDay-half)); !ok {
		t.Error("another caller's refusal is left out")
	}
}

func TestNonceClockSetBack(t *testing.T) {
	n, now := newNonces(rand.Reader), snptest.Now()
	c := acl.Caller{ID: vmID}
	x, err := n.issue(c, now)
	if err != nil {
		t.Fatal(err)
	}
	if n.take(c, x, now.Add(-time.Second)) {
		t.Error("a nonce from the future is good")
	}
}
