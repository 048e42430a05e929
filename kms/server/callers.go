package server

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rootvouch/rootvouch/kms/acl"
)

// maxVerified is how many SVIDs the cache holds.
const maxVerified = 4096

// callers caches verified SVIDs, because a handshake and the requests after it show the same
// SVID. An entry is good while the bundle has the same roots and all certificates of its chain
// are valid.
type callers struct {
	mu       sync.Mutex                     // guards the fields below
	roots    []*x509.Certificate            // roots of the bundle that verified all entries
	verified map[[sha256.Size]byte]verified // :: digest of the certificates -> the verified SVID
}

// verified is an SVID that was verified.
type verified struct {
	acl.Caller
	// unfit says why no workload should have this SVID, or is nil. It does not end the
	// handshake, so that the request goes on the log.
	unfit       error
	from, until time.Time // while the entry is good
}

// verify returns the identity of the SVID in these certificates.
func (c *callers) verify(certs []*x509.Certificate, domain spiffeid.TrustDomain, bundles x509bundle.Source, now time.Time) (verified, error) {
	bundle, err := bundles.GetX509BundleForTrustDomain(domain)
	if err != nil {
		return verified{}, fmt.Errorf("verifying the caller: %v", err)
	}
	roots, digest := bundle.X509Authorities(), digestOfCerts(certs)
	if v, ok := c.find(roots, digest); ok && !now.Before(v.from) && !now.After(v.until) {
		return v, nil
	}
	// The bundle is a copy, because the source may change its own meanwhile.
	v, err := verify(certs, domain, x509bundle.FromX509Authorities(domain, roots), now)
	if err != nil {
		return verified{}, fmt.Errorf("verifying the caller: %v", err)
	}
	c.keep(roots, digest, v)
	return v, nil
}

// digestOfCerts is SHA-256 over the certificates. Each is DER, and so contains its length.
func digestOfCerts(certs []*x509.Certificate) (digest [sha256.Size]byte) {
	h := sha256.New()
	for _, cert := range certs {
		h.Write(cert.Raw)
	}
	h.Sum(digest[:0])
	return digest
}

func (c *callers) find(roots []*x509.Certificate, digest [sha256.Size]byte) (verified, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.EqualFunc(c.roots, roots, (*x509.Certificate).Equal) {
		return verified{}, false
	}
	v, ok := c.verified[digest]
	return v, ok
}

func (c *callers) keep(roots []*x509.Certificate, digest [sha256.Size]byte, v verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.verified == nil || len(c.verified) >= maxVerified || !slices.EqualFunc(c.roots, roots, (*x509.Certificate).Equal) {
		c.roots, c.verified = roots, map[[sha256.Size]byte]verified{}
	}
	c.verified[digest] = v
}

func verify(certs []*x509.Certificate, domain spiffeid.TrustDomain, bundle *x509bundle.Bundle, now time.Time) (verified, error) {
	id, chains, err := x509svid.Verify(certs, bundle, x509svid.WithTime(now))
	if err != nil {
		return verified{}, err
	}
	if !id.MemberOf(domain) {
		return verified{}, fmt.Errorf("%s is not a member of trust domain %s", id, domain)
	}
	leaf := certs[0]
	v := verified{Caller: acl.Caller{ID: id, SPKI: leaf.RawSubjectPublicKeyInfo}, from: leaf.NotBefore, until: leaf.NotAfter}
	switch { // X509-SVID, sections 2 and 4.3
	case id.Path() == "":
		v.unfit = fmt.Errorf("verifying the caller: %s has no path, want that of a workload", id)
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		v.unfit = fmt.Errorf("verifying the caller: the SVID of %s lacks the key usage digitalSignature", id)
	}
	for _, cert := range chains[0] {
		if cert.NotBefore.After(v.from) {
			v.from = cert.NotBefore
		}
		if cert.NotAfter.Before(v.until) {
			v.until = cert.NotAfter
		}
	}
	return v, nil
}
