package server

import (
	"crypto/rand"
	"crypto/sha256"
	"net"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/keyapi"
	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp/snptest"
)

type ev = evidence.Evidence

func nodeAttestation() [64]byte { return evidence.NodeAttestation(evidence.Nonce{1}) }

func digestOf(a ask) pins.Digest { return sha256.Sum256(keyapi.Encode(a.request)) }

func TestNoncesAreBounded(t *testing.T) {
	n, now := newNonces(rand.Reader), snptest.Now()
	caller := func(i int) acl.Caller {
		return acl.Caller{ID: vmID, SPKI: []byte{byte(i), byte(i >> 8), byte(i >> 16)}}
	}
	mine := acl.Caller{ID: vmID, SPKI: []byte("mine")}
	var first keyapi.Nonce
	for i := range noncesPerSVID + 1 {
		x, err := n.issue(mine, now)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = x
		}
	}
	if n.take(mine, first, now) {
		t.Error("a caller's oldest nonce outlives its allowance")
	}
	if n.count != noncesPerSVID {
		t.Errorf("count is %d, want %d", n.count, noncesPerSVID)
	}
	for i := 0; n.count < noncesTogether; i++ {
		if _, err := n.issue(caller(i), now); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.issue(caller(1<<20), now); codeOf(err) != keyapi.CodeBusy {
		t.Errorf("got error %v, want code busy", err)
	}
	now = now.Add(nonceLifetime)
	if _, err := n.issue(caller(1<<20), now); err != nil {
		t.Error(err)
	}
	if n.count != 1 || len(n.outstanding) != 1 {
		t.Errorf("after their lifetime %d nonces of %d callers are kept, want 1 of 1", n.count, len(n.outstanding))
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

func TestLimitConnections(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitConnections(inner, 1)
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	for range 2 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	one := <-accepted
	select {
	case <-accepted:
		t.Fatal("accepted a second connection")
	case <-time.After(20 * time.Millisecond):
	}
	one.Close()
	one.Close() // twice gives one slot back
	two := <-accepted
	l.Close()
	if _, ok := <-accepted; ok {
		t.Error("accepted a third connection")
	}
	two.Close()
}
