package server

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// caller speaks the key API by hand.
type caller struct {
	r    *rig
	svid *x509svid.SVID
	http *http.Client
}

func (r *rig) caller(svid *x509svid.SVID) *caller {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	tlsconfig.HookMTLSClientConfig(config, svid, r.ca.Bundle(), tlsconfig.AuthorizeID(kmsID))
	c := &caller{r, svid, &http.Client{Transport: &http.Transport{TLSClientConfig: config}}}
	r.t.Cleanup(c.http.CloseIdleConnections)
	return c
}

func (c *caller) post(path string, body []byte) (int, []byte, error) {
	response, err := c.http.Post("https://"+c.r.address+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, data, err
}

func (c *caller) nonce() evidence.Nonce {
	c.r.t.Helper()
	status, data, err := c.post(keyapi.PathNonce, keyapi.Encode(keyapi.NonceRequest{Version: 1}))
	if err != nil || status != http.StatusOK {
		c.r.t.Fatalf("asking for a nonce: status %d, %s, %v", status, data, err)
	}
	reply, err := keyapi.Decode[keyapi.NonceReply](data)
	if err != nil {
		c.r.t.Fatal(err)
	}
	return reply.Nonce
}

// ask is a release request under way.
type ask struct {
	recipient *keyapi.Recipient
	request   keyapi.ReleaseRequest
	disk      pins.UUID
}

// ask makes a request that binds what it should; change comes before the evidence.
func (c *caller) ask(launch func([64]byte) (evidence.Evidence, error), change ...func(*ask)) ask {
	c.r.t.Helper()
	recipient, err := keyapi.NewRecipient()
	if err != nil {
		c.r.t.Fatal(err)
	}
	a := ask{recipient, keyapi.ReleaseRequest{Version: 1, Nonce: c.nonce(), HPKEPublicKey: recipient.PublicKey()}, diskOne.DiskUUID}
	for _, f := range change {
		f(&a)
	}
	spki := c.svid.Certificates[0].RawSubjectPublicKeyInfo
	e, err := launch(evidence.KeyRelease(a.request.Nonce, a.disk, spki, a.request.HPKEPublicKey[:]))
	if err != nil {
		c.r.t.Fatal(err)
	}
	if a.request.Evidence, err = e.Encode(); err != nil {
		c.r.t.Fatal(err)
	}
	return a
}

// send sends a request and returns the code of the refusal, or "" and the key.
func (c *caller) send(a ask) (keyapi.Code, *keyapi.Released) {
	c.r.t.Helper()
	status, data, err := c.post(keyapi.ReleasePath(a.disk), keyapi.Encode(a.request))
	if err != nil {
		c.r.t.Fatal(err)
	}
	if status != http.StatusOK {
		reply, err := keyapi.Decode[keyapi.ErrorReply](data)
		if err != nil {
			c.r.t.Fatalf("status %d: %v", status, err)
		}
		if bytes.Contains(data, keyOne) || statusOf(reply.Error) != status {
			c.r.t.Errorf("status %d with %s", status, data)
		}
		return reply.Error, nil
	}
	reply, err := keyapi.Decode[keyapi.ReleaseReply](data)
	if err != nil {
		c.r.t.Fatal(err)
	}
	released, err := a.recipient.Open(a.request.Nonce, a.disk, reply.Sealed)
	if err != nil {
		c.r.t.Fatal(err)
	}
	return "", released
}

// want sends a request and wants a code; "" is a key.
func (c *caller) want(a ask, want keyapi.Code) {
	c.r.t.Helper()
	got, released := c.send(a)
	if got != want {
		c.r.t.Errorf("got %q, want %q; the log ends with %s", got, want, c.r.events(1)[0].Summary().What)
	}
	if got == "" && !bytes.Equal(released.Key[:], keyOne) {
		c.r.t.Errorf("got key %x, want %x", released.Key, keyOne)
	}
}

func (r *rig) auditLog() string { return r.book.Text(r.t) }

// events verifies the log and returns the events from the n-th last on.
func (r *rig) events(n int) []audit.Leaf {
	r.t.Helper()
	all := r.book.Leaves(r.t)
	return all[max(0, len(all)-n):]
}

// refused is what the newest leaf says about a refusal.
func (r *rig) refused() audit.AboutRefusal {
	r.t.Helper()
	return newest[audit.AboutRefusal](r)
}

func newest[B audit.Body](r *rig) B {
	r.t.Helper()
	last := r.events(1)[0]
	about, ok := last.About.(B)
	if !ok {
		r.t.Errorf("log has %+v, want %T", last, about)
	}
	return about
}

func (r *rig) leases(disk pins.UUID) []store.Lease {
	r.t.Helper()
	all, err := r.store.Leases(r.t.Context(), disk)
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}
