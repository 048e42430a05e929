package server

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/rootvouch/rootvouch/test/spiffetest"
)

// TestVerifiedOnce: what was verified counts no longer than it would if it were verified
// again.
func TestVerifiedOnce(t *testing.T) {
	ca, other := spiffetest.New(t), spiffetest.New(t)
	now := time.Now()
	end := now.Add(time.Hour)
	svid := ca.Issue(t, vmID, spiffetest.Until(end)).Certificates
	bundle := x509bundle.New(vmID.TrustDomain())
	bundle.AddX509Authority(ca.Certificate)
	var c callers
	verify := func(certs []*x509.Certificate, at time.Time) error {
		t.Helper()
		v, err := c.verify(certs, vmID.TrustDomain(), bundle, at)
		if err == nil && v.ID != vmID {
			t.Errorf("it is %s, want %s", v.ID, vmID)
		}
		return err
	}
	for range 2 {
		if err := verify(svid, now); err != nil {
			t.Error(err)
		}
	}
	if len(c.verified) != 1 {
		t.Errorf("%d SVIDs are remembered, want 1", len(c.verified))
	}
	if verify(svid, end.Add(time.Second)) == nil {
		t.Error("it counts after its end")
	}
	if verify(svid, svid[0].NotBefore.Add(-time.Second)) == nil {
		t.Error("it counts before its beginning")
	}
	if verify(other.Issue(t, vmID).Certificates, now) == nil {
		t.Error("another CA's SVID counts")
	}
	changed := *svid[0]
	changed.Raw = append([]byte{}, changed.Raw...)
	changed.Raw[len(changed.Raw)-1] ^= 1
	changed.Signature = append([]byte{}, changed.Signature...)
	changed.Signature[len(changed.Signature)-1] ^= 1
	if verify([]*x509.Certificate{&changed}, now) == nil {
		t.Error("a changed SVID counts")
	}
	bundle.AddX509Authority(other.Certificate)
	if err := verify(svid, now); err != nil {
		t.Errorf("with one root more: %v", err)
	}
	bundle.RemoveX509Authority(ca.Certificate)
	if verify(svid, now) == nil {
		t.Error("it counts after its root left the bundle")
	}
}
