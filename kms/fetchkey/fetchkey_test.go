package fetchkey

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

var (
	kmsID = spiffeid.RequireFromString("spiffe://example.org/kms")
	vmID  = spiffeid.RequireFromString("spiffe://example.org/vm")
	disk  = pins.UUID{1}
)

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func mustKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func mustCertificate(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.NotBefore, template.NotAfter = time.Unix(0, 0), time.Unix(1<<33, 0)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newAuthority(t testing.TB) *authority {
	key := mustKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org"}}}
	return &authority{mustCertificate(t, template, template, key, key), key}
}

func (a *authority) issue(t testing.TB, id spiffeid.ID) *x509svid.SVID {
	key := mustKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{id.URL()}}
	return &x509svid.SVID{ID: id, PrivateKey: key, Certificates: []*x509.Certificate{mustCertificate(t, template, a.cert, key, a.key)}}
}

func (a *authority) bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(kmsID.TrustDomain(), []*x509.Certificate{a.cert})
}

// peer is a key server with one fault at a time.
type peer struct {
	t        testing.TB
	ca       *authority
	id       spiffeid.ID
	requests atomic.Int64 // for releases
	nonces   atomic.Int64
	reply    func(n int64, request keyapi.ReleaseRequest, w http.ResponseWriter)
	// takes says whose SVIDs the peer takes.
	takes   tlsconfig.Authorizer
	address string
	bodies  chan []byte
}

func newPeer(t testing.TB, change func(*peer)) *peer {
	p := &peer{t: t, ca: newAuthority(t), id: kmsID, takes: tlsconfig.AuthorizeAny(), bodies: make(chan []byte, 100)}
	p.reply = func(_ int64, q keyapi.ReleaseRequest, w http.ResponseWriter) { w.Write(p.sealed(q, p.released())) }
	if change != nil {
		change(p)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/nonce", func(w http.ResponseWriter, r *http.Request) {
		w.Write(keyapi.Encode(keyapi.NonceReply{Version: 1, Nonce: keyapi.Nonce{byte(p.nonces.Add(1))}}))
	})
	mux.HandleFunc("POST "+keyapi.ReleasePath(disk), func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		p.bodies <- body
		request, err := keyapi.Decode[keyapi.ReleaseRequest](body)
		if err != nil {
			t.Error(err)
		}
		p.reply(p.requests.Add(1), request, w)
	})
	config := &tls.Config{}
	tlsconfig.HookMTLSServerConfig(config, p.ca.issue(t, p.id), p.ca.bundle(), p.takes)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	p.address = listener.Addr().String()
	return p
}

func (p *peer) released() *keyapi.Released {
	return &keyapi.Released{Key: [32]byte(bytes.Repeat([]byte{7}, 32)), Header: pins.Header{DiskUUID: disk, HeaderSHA256: pins.Digest{2}},
		Generation: 1, KMSID: kmsID.String()}
}

func (p *peer) sealed(q keyapi.ReleaseRequest, r *keyapi.Released) []byte {
	sealed, err := keyapi.Seal(q.HPKEPublicKey, q.Nonce, r.Header.DiskUUID, r)
	if err != nil {
		p.t.Error(err)
	}
	return keyapi.Encode(keyapi.ReleaseReply{Version: 1, Sealed: sealed})
}

func (p *peer) config() Config {
	return Config{
		Disk: disk, Address: p.address, ServerID: kmsID, Patience: 2 * time.Second,
		Identity: func(context.Context) (Identity, error) { return Identity{p.ca.issue(p.t, vmID), p.ca.bundle()}, nil },
		Evidence: func(data [64]byte) (evidence.Evidence, error) { return evidence.Evidence{Report: data[:]}, nil },
	}
}

func refuse(status int, code keyapi.Code) func(int64, keyapi.ReleaseRequest, http.ResponseWriter) {
	return func(_ int64, _ keyapi.ReleaseRequest, w http.ResponseWriter) {
		w.WriteHeader(status)
		w.Write(keyapi.Encode(keyapi.ErrorReply{Version: 1, Error: code}))
	}
}

// hangUp ends the connection without a reply.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	conn.Close()
}

func TestFetch(t *testing.T) {
	p := newPeer(t, nil)
	c := p.config()
	var bound [64]byte
	c.Evidence = func(data [64]byte) (evidence.Evidence, error) {
		bound = data
		return evidence.Evidence{Report: []byte("report")}, nil
	}
	svid := p.ca.issue(t, vmID)
	c.Identity = func(context.Context) (Identity, error) { return Identity{svid, p.ca.bundle()}, nil }
	var lines []string
	c.Log = func(line string) { lines = append(lines, line) }
	released, err := Fetch(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if *released != *p.released() {
		t.Errorf("got %+v", released)
	}
	request, err := keyapi.Decode[keyapi.ReleaseRequest](<-p.bodies)
	if err != nil {
		t.Fatal(err)
	}
	want := evidence.KeyRelease(evidence.Nonce{1}, disk, svid.Certificates[0].RawSubjectPublicKeyInfo, request.HPKEPublicKey[:])
	if bound != want {
		t.Errorf("REPORT_DATA is %x, want %x", bound, want)
	}
	if len(lines) != 2 || strings.Contains(strings.Join(lines, ""), "\x07") {
		t.Errorf("logged %q", lines)
	}
}

func TestFetchFails(t *testing.T) {
	for _, c := range []struct {
		name    string
		peer    func(p *peer)
		config  func(c *Config)
		step    string
		want    string
		refused bool
		tries   int64 // releases asked for
	}{
		{name: "denied", peer: func(p *peer) { p.reply = refuse(403, keyapi.CodeDenied) }, step: "release", want: "denied", refused: true, tries: 1},
		{name: "malformed", peer: func(p *peer) { p.reply = refuse(400, keyapi.CodeMalformed) }, step: "release", want: "malformed", refused: true, tries: 1},
		{name: "no such page", peer: func(p *peer) {
			p.reply = func(_ int64, _ keyapi.ReleaseRequest, w http.ResponseWriter) { http.Error(w, "no", 404) }
		}, step: "release", want: "404", refused: true, tries: 1},
		{name: "redirect", peer: func(p *peer) {
			p.reply = func(_ int64, _ keyapi.ReleaseRequest, w http.ResponseWriter) {
				w.Header().Set("Location", "https://"+p.address+"/v1/nonce")
				w.WriteHeader(http.StatusTemporaryRedirect)
			}
		}, step: "release", want: "307", refused: true, tries: 1},
		{name: "another server", peer: func(p *peer) { p.id = spiffeid.RequireFromString("spiffe://example.org/kms2") }, step: "nonce", want: `"spiffe://example.org/kms2"`},
		{name: "our SVID is not taken", peer: func(p *peer) { p.takes = tlsconfig.AuthorizeID(kmsID) }, step: "nonce", want: "TLS connection", refused: true},
		{name: "SVID of another trust domain", config: func(c *Config) { c.ServerID = spiffeid.RequireFromString("spiffe://example.com/kms") }, step: "identity", want: "want one of trust domain example.com"},
		{name: "no identity", config: func(c *Config) {
			c.Identity = func(context.Context) (Identity, error) { return Identity{}, errors.New("no agent") }
		}, step: "identity", want: "no agent"},
		{name: "no report", config: func(c *Config) {
			c.Evidence = func([64]byte) (evidence.Evidence, error) { return evidence.Evidence{}, errors.New("no device") }
		}, step: "evidence", want: "no device"},
		{name: "sealed to another key", peer: func(p *peer) {
			p.reply = func(_ int64, q keyapi.ReleaseRequest, w http.ResponseWriter) {
				other, err := keyapi.NewRecipient()
				if err != nil {
					p.t.Error(err)
				}
				q.HPKEPublicKey = other.PublicKey()
				w.Write(p.sealed(q, p.released()))
			}
		}, step: "reply", want: "not sealed to this request", tries: 1},
		{name: "another disk's header pin", peer: func(p *peer) {
			p.reply = func(_ int64, q keyapi.ReleaseRequest, w http.ResponseWriter) {
				r := p.released()
				r.Header.DiskUUID = pins.UUID{9}
				w.Write(p.sealed(q, r))
			}
		}, step: "reply", want: "not sealed to this request", tries: 1},
		{name: "another server's ID inside", peer: func(p *peer) {
			p.reply = func(_ int64, q keyapi.ReleaseRequest, w http.ResponseWriter) {
				r := p.released()
				r.KMSID += "2"
				w.Write(p.sealed(q, r))
			}
		}, step: "reply", want: `want "spiffe://example.org/kms"`, tries: 1},
		{name: "endless reply", peer: func(p *peer) {
			p.reply = func(_ int64, _ keyapi.ReleaseRequest, w http.ResponseWriter) { w.Write(make([]byte, 1<<20)) }
		}, step: "release", want: "want at most 8192", tries: 1},
		{name: "unreachable", config: func(c *Config) { c.Address, c.Patience = unused(t), 200*time.Millisecond }, step: "nonce", want: "connection refused"},
		{name: "always unavailable", peer: func(p *peer) { p.reply = refuse(503, keyapi.CodeUnavailable) }, config: func(c *Config) { c.Patience = 200 * time.Millisecond }, step: "release", want: "giving up after", tries: -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeer(t, c.peer)
			config := p.config()
			if c.config != nil {
				c.config(&config)
			}
			start := time.Now()
			released, err := Fetch(t.Context(), config)
			var step *StepError
			if released != nil || !errors.As(err, &step) || step.Step != c.step || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, error %v, want one of step %q with %q", released, err, c.step, c.want)
			}
			if errors.Is(err, ErrRefused) != c.refused {
				t.Errorf("error %v is a refusal: %t, want %t", err, !c.refused, c.refused)
			}
			if got := p.requests.Load(); c.tries >= 0 && got != c.tries || c.tries < 0 && got < 2 {
				t.Errorf("asked %d times for a release, want %d", got, c.tries)
			}
			if took := time.Since(start); took > config.Patience+time.Second {
				t.Errorf("took %s, want less than %s", took, config.Patience)
			}
		})
	}
}

// unused is an address at which nobody listens.
func unused(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestLostReply sends the very same request again, and starts anew when the
// server does not know it.
func TestLostReply(t *testing.T) {
	p := newPeer(t, nil)
	give := p.reply
	p.reply = func(n int64, q keyapi.ReleaseRequest, w http.ResponseWriter) {
		if n < 3 {
			hangUp(w)
			return
		}
		give(n, q, w)
	}
	if _, err := Fetch(t.Context(), p.config()); err != nil {
		t.Fatal(err)
	}
	if p.nonces.Load() != 1 || p.requests.Load() != 3 {
		t.Errorf("got %d nonces and %d requests, want 1 and 3", p.nonces.Load(), p.requests.Load())
	}
	first := <-p.bodies
	for range 2 {
		if !bytes.Equal(<-p.bodies, first) {
			t.Error("the request was not sent again as it was")
		}
	}

	p = newPeer(t, nil)
	give = p.reply
	p.reply = func(n int64, q keyapi.ReleaseRequest, w http.ResponseWriter) {
		switch n {
		case 1:
			hangUp(w)
		case 2:
			refuse(409, keyapi.CodeNonce)(n, q, w)
		default:
			give(n, q, w)
		}
	}
	if _, err := Fetch(t.Context(), p.config()); err != nil {
		t.Fatal(err)
	}
	if p.nonces.Load() != 2 || p.requests.Load() != 3 {
		t.Errorf("got %d nonces and %d requests, want 2 and 3", p.nonces.Load(), p.requests.Load())
	}
}

func TestEvidenceFits(t *testing.T) {
	if keyapi.MaxEvidenceSize != evidence.MaxSize {
		t.Errorf("keyapi takes %d bytes of evidence, want %d", keyapi.MaxEvidenceSize, evidence.MaxSize)
	}
}
