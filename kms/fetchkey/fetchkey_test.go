package fetchkey

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

var (
	kmsID = spiffeid.RequireFromString("spiffe://example.org/kms")
	vmID  = spiffeid.RequireFromString("spiffe://example.org/vm")
	disk  = pins.UUID{1}
)

// peer is a key server with one fault at a time.
type peer struct {
	t        testing.TB
	ca       *spiffetest.Authority
	id       spiffeid.ID
	requests atomic.Int64 // for releases
	nonces   atomic.Int64
	reply    func(n int64, request keyapi.ReleaseRequest, w http.ResponseWriter)
	usage    x509.KeyUsage // of its leaf
	// takes says whose SVIDs the peer takes.
	takes   tlsconfig.Authorizer
	address string
	bodies  chan []byte

	tls      *tls.Config
	handler  http.Handler
	mu       sync.Mutex
	stopping func() // ends the server that runs; guarded by mu
}

func newPeer(t testing.TB, change func(*peer)) *peer {
	p := &peer{t: t, ca: spiffetest.New(t), id: kmsID, usage: x509.KeyUsageDigitalSignature, takes: tlsconfig.AuthorizeAny(), bodies: make(chan []byte, 100)}
	p.reply = func(_ int64, q keyapi.ReleaseRequest, w http.ResponseWriter) { w.Write(p.sealed(q, p.released())) }
	if change != nil {
		change(p)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/nonce", func(w http.ResponseWriter, r *http.Request) {
		w.Write(keyapi.Encode(keyapi.NonceReply{Version: 1, Nonce: evidence.Nonce{byte(p.nonces.Add(1))}}))
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
	p.tls = &tls.Config{}
	tlsconfig.HookMTLSServerConfig(p.tls, p.ca.Issue(t, p.id, spiffetest.Usage(p.usage)), p.ca.Bundle(), p.takes)
	p.handler = mux
	p.address = p.serve("127.0.0.1:0")
	t.Cleanup(func() { p.stop() })
	return p
}

// serve listens at an address until stop.
func (p *peer) serve(address string) string {
	listener, err := tls.Listen("tcp", address, p.tls)
	if err != nil {
		p.t.Error(err)
		return ""
	}
	server := &http.Server{Handler: p.handler, ErrorLog: log.New(io.Discard, "", 0)}
	p.mu.Lock()
	p.stopping = func() { server.Close() }
	p.mu.Unlock()
	go server.Serve(listener)
	return listener.Addr().String()
}

func (p *peer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopping()
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
		Disk: disk, Addresses: []string{p.address}, ServerID: kmsID, Patience: 2 * time.Second,
		Identity: func(context.Context) (Identity, error) { return Identity{p.ca.Issue(p.t, vmID), p.ca.Bundle()}, nil },
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
	svid := p.ca.Issue(t, vmID)
	c.Identity = func(context.Context) (Identity, error) { return Identity{svid, p.ca.Bundle()}, nil }
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
		{name: "another server", peer: func(p *peer) { p.id = spiffeid.RequireFromString("spiffe://example.org/kms2") }, config: impatient, step: "nonce", want: `"spiffe://example.org/kms2"`},
		{name: "a leaf that may not sign", peer: func(p *peer) { p.usage = x509.KeyUsageKeyEncipherment }, config: impatient, step: "nonce", want: "lacks digitalSignature"},
		{name: "our SVID is not taken", peer: func(p *peer) { p.takes = tlsconfig.AuthorizeID(kmsID) }, config: impatient, step: "nonce", want: "refuses the TLS connection"},
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
		{name: "unreachable", config: func(c *Config) { c.Addresses, c.Patience = []string{unused(t)}, 200*time.Millisecond }, step: "nonce", want: "connection refused"},
		// Patience for two tries, on a busy machine too.
		{name: "always unavailable", peer: func(p *peer) { p.reply = refuse(503, keyapi.CodeUnavailable) }, config: func(c *Config) { c.Patience = 2 * time.Second }, step: "release", want: "giving up after", tries: -1},
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

func impatient(c *Config) { c.Patience = 200 * time.Millisecond }

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

// TestLostReply: fetchkey sends the same request again after every kind of failure. It asks
// for a new nonce only when the server refuses the old one.
func TestLostReply(t *testing.T) {
	unavailable, stale := refuse(503, keyapi.CodeUnavailable), refuse(409, keyapi.CodeNonce)
	lost := func(_ int64, _ keyapi.ReleaseRequest, w http.ResponseWriter) { hangUp(w) }
	type answer = func(int64, keyapi.ReleaseRequest, http.ResponseWriter)
	for _, c := range []struct {
		name   string
		faults []answer // of the first requests
		nonces int64
	}{
		{"lost more often than once", []answer{lost, lost, lost, lost, lost, lost}, 1},
		{"lost, then not now", []answer{lost, unavailable, unavailable}, 1},
		{"lost, then stale", []answer{lost, stale}, 2},
		{"stale at first", []answer{stale}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeer(t, nil)
			give := p.reply
			p.reply = func(n int64, q keyapi.ReleaseRequest, w http.ResponseWriter) {
				if int(n) <= len(c.faults) {
					c.faults[n-1](n, q, w)
					return
				}
				give(n, q, w)
			}
			config := p.config()
			config.Patience = time.Minute
			if _, err := Fetch(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			want := int64(len(c.faults)) + 1
			if p.nonces.Load() != c.nonces || p.requests.Load() != want {
				t.Errorf("got %d nonces and %d requests, want %d and %d", p.nonces.Load(), p.requests.Load(), c.nonces, want)
			}
			bodies := map[string]bool{}
			for range want {
				bodies[string(<-p.bodies)] = true
			}
			if int64(len(bodies)) != c.nonces {
				t.Errorf("got %d different requests, want one for each of %d nonces", len(bodies), c.nonces)
			}
		})
	}
}

// TestRestart kills the server after it has released and before its reply is out,
// and starts it again: the guest gets the key with the bytes that it sent first.
func TestRestart(t *testing.T) {
	p := newPeer(t, nil)
	give := p.reply
	p.reply = func(n int64, q keyapi.ReleaseRequest, w http.ResponseWriter) {
		if n > 1 {
			give(n, q, w)
			return
		}
		go func() {
			p.stop()
			time.Sleep(200 * time.Millisecond) // a few tries meet nobody
			p.serve(p.address)
		}()
		hangUp(w)
	}
	config := p.config()
	config.Patience = time.Minute
	if _, err := Fetch(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if first, second := <-p.bodies, <-p.bodies; p.nonces.Load() != 1 || !bytes.Equal(first, second) {
		t.Errorf("got %d nonces, requests equal: %t; want one nonce and the same bytes", p.nonces.Load(), bytes.Equal(first, second))
	}
}

// TestAddresses asks the next address when one is dead, is somebody else's, or
// cannot answer now, and gives the release request to all of them as it is.
func TestAddresses(t *testing.T) {
	good := newPeer(t, nil)
	config := good.config()
	impostor := newPeer(t, func(p *peer) { p.id = spiffeid.RequireFromString("spiffe://example.org/kms2") })
	foreign := newPeer(t, nil) // another CA
	config.Addresses = []string{unused(t), impostor.address, foreign.address, good.address}
	if _, err := Fetch(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if n := impostor.nonces.Load() + foreign.nonces.Load(); n != 0 {
		t.Errorf("others got %d requests, want none", n)
	}

	second := newPeer(t, nil)
	first := newPeer(t, func(p *peer) {
		p.ca = second.ca
		p.reply = func(_ int64, _ keyapi.ReleaseRequest, w http.ResponseWriter) { hangUp(w) }
	})
	config = second.config()
	config.Addresses = []string{first.address, second.address}
	if _, err := Fetch(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if got, want := <-second.bodies, <-first.bodies; !bytes.Equal(got, want) {
		t.Error("the second address got another request than the first")
	}
}

func TestEvidenceFits(t *testing.T) {
	if keyapi.MaxEvidenceSize != evidence.MaxSize {
		t.Errorf("keyapi takes %d bytes of evidence, want %d", keyapi.MaxEvidenceSize, evidence.MaxSize)
	}
}
