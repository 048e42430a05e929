package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/snptest"
)

type ev = evidence.Evidence

func nodeAttestation() [64]byte { return evidence.NodeAttestation(evidence.Nonce{1}) }

func digestOf(a ask) pins.Digest { return sha256.Sum256(keyapi.Encode(a.request)) }

// TestNonces: any server with the key knows a nonce, for its caller and its time.
func TestNonces(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	one, two, other := nonces{key, rand.Reader}, nonces{bytes.Clone(key), rand.Reader}, nonces{bytes.Repeat([]byte{8}, 32), rand.Reader}
	now := snptest.Now()
	c := acl.Caller{ID: vmID, SPKI: []byte("mine")}
	x, err := one.issue(c, now)
	if err != nil {
		t.Fatal(err)
	}
	if y, _ := one.issue(c, now); x == y {
		t.Error("two nonces of one moment are equal")
	}
	flip := func(i int) evidence.Nonce { y := x; y[i] ^= 1; return y }
	for _, row := range []struct {
		name   string
		n      nonces
		caller acl.Caller
		nonce  evidence.Nonce
		at     time.Duration
		want   bool
	}{
		{"itself", one, c, x, 0, true},
		{"another server", two, c, x, time.Second, true},
		{"another key", other, c, x, 0, false},
		{"another ID", one, acl.Caller{ID: otherID, SPKI: c.SPKI}, x, 0, false},
		{"another SVID", one, acl.Caller{ID: vmID, SPKI: []byte("yours")}, x, 0, false},
		{"later", one, c, x, nonceLifetime - 1, true},
		{"too late", one, c, x, nonceLifetime, false},
		{"a clock a little behind", two, c, x, -nonceSkew, true},
		{"a clock set back", one, c, x, -nonceSkew - 1, false},
		{"another time", one, c, flip(7), 0, false},
		{"another chance", one, c, flip(8), 0, false},
		{"another tag", one, c, flip(31), 0, false},
		{"none", one, c, evidence.Nonce{}, 0, false},
	} {
		until, ours := row.n.until(row.caller, row.nonce, now.Add(row.at))
		if got := ours && now.Add(row.at).Before(until); got != row.want {
			t.Errorf("%s: fresh is %t, want %t", row.name, got, row.want)
		}
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

// TestRefusalsAfterTheClockWasSetBack: refusals go on being written down.
func TestRefusalsAfterTheClockWasSetBack(t *testing.T) {
	l, now := newLimiter(), snptest.Now()
	for range refusalBurst {
		l.allow("rogue", now)
	}
	now = now.Add(-24 * time.Hour)
	logged := 0
	for range 100 {
		now = now.Add(refusalInterval)
		if _, ok := l.allow("rogue", now); ok {
			logged++
		}
	}
	if logged < 99 {
		t.Errorf("%d of 100 refusals are on the log", logged)
	}
}

// TestTurns: a request waits for its turn, and for no longer than slotWait.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := make(chan struct{}, 1)
		first, err := take(t.Context(), slots)
		if err != nil {
			t.Fatal(err)
		}
		second := make(chan error)
		go func() {
			_, err := take(t.Context(), slots)
			second <- err
		}()
		synctest.Wait()
		first()
		if err := <-second; err != nil {
			t.Errorf("the second one got %v, want its turn", err)
		}
		if _, err := take(t.Context(), slots); codeOf(err) != keyapi.CodeBusy {
			t.Errorf("the third one got %v, want %s", err, keyapi.CodeBusy)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if _, err := take(ended, slots); codeOf(err) != keyapi.CodeUnavailable {
			t.Errorf("one whose caller has gone got %v, want %s", err, keyapi.CodeUnavailable)
		}
	})
}
