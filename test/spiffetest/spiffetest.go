// Package spiffetest gives tests a trust domain whose CA issues any certificate.
package spiffetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Domain is the trust domain of most tests.
var Domain = spiffeid.RequireTrustDomainFromString("example.org")

// Forever is the expiry of certificates if a test does not set another: in 2242.
var Forever = time.Unix(1<<33, 0)

// An Authority is the CA of a trust domain.
type Authority struct {
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	domain      spiffeid.TrustDomain
}

// New makes an Authority of Domain. It applies each change to the certificate
// before it signs the certificate.
func New(t testing.TB, changes ...func(*x509.Certificate)) *Authority {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, URIs: []*url.URL{Domain.ID().URL()},
	}
	cert, key := certify(t, template, nil, changes)
	return &Authority{cert, key, Domain}
}

// Issue makes an SVID.
func (a *Authority) Issue(t testing.TB, id spiffeid.ID, changes ...func(*x509.Certificate)) *x509svid.SVID {
	t.Helper()
	template := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{id.URL()}}
	cert, key := certify(t, template, a, changes)
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}
}

// Until returns a change that makes a certificate expire at end.
func Until(end time.Time) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotAfter = end }
}

// Usage returns a change that gives a certificate another key usage.
func Usage(usage x509.KeyUsage) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.KeyUsage = usage }
}

// Bundle returns the trust bundle of the domain.
func (a *Authority) Bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(a.domain, []*x509.Certificate{a.Certificate})
}

// PEM returns the CA's certificate in the form that SPIRE and boot.json accept.
func (a *Authority) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw}))
}

// Response returns the answer of a Workload API: a new SVID of each ID, with the
// bundle.
func (a *Authority) Response(t testing.TB, ids ...spiffeid.ID) *workload.X509SVIDResponse {
	t.Helper()
	response := &workload.X509SVIDResponse{}
	for _, id := range ids {
		svid := a.Issue(t, id)
		key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		response.Svids = append(response.Svids, &workload.X509SVID{
			SpiffeId: id.String(), X509Svid: svid.Certificates[0].Raw, X509SvidKey: key, Bundle: a.Certificate.Raw,
		})
	}
	return response
}

// Stream answers FetchX509SVID of a Workload API until the caller disconnects. next
// returns an answer, and a channel that is closed when there is a new answer.
func Stream(stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer, next func() (*workload.X509SVIDResponse, <-chan struct{})) error {
	for {
		answer, changed := next()
		if err := stream.Send(answer); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// certify signs template with a new key, or with issuer's.
func certify(t testing.TB, template *x509.Certificate, issuer *Authority, changes []func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Unix(0, 0), Forever
	for _, change := range changes {
		change(template)
	}
	parent, signer := template, crypto.Signer(key)
	if issuer != nil {
		parent, signer = issuer.Certificate, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}
