// Package attestd answers the owner of a booted VM: it takes a nonce and returns
// evidence, bound to the TLS connection that carries it.
//
// attestd makes its TLS key when it starts. No CA signs the key. Instead, the
// REPORT_DATA of each answer binds the public key of this connection. So an
// attacker between owner and VM cannot answer in the VM's name.
//
// An answer does not show that the OS that booted still runs. Root inside the VM can
// ask the AMD-SP for the same report, and can stop this process and answer in its
// place.
package attestd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"time"

	"github.com/rootvouch/rootvouch/attest/attestapi"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/pins"
)

// Limits on the load from strangers.
const (
	maxConnections     = 32      // at once
	maxPeerConnections = 8       // of one peer
	maxWaiting         = 4       // requests for the AMD-SP, the one under way included
	maxPeerWaiting     = 2       // of one peer
	maxHeader          = 8 << 10 // bytes

	readTimeout  = 5 * time.Second  // for the TLS handshake, and for a whole request
	writeTimeout = 75 * time.Second // a host may throttle the AMD-SP for a minute
	stopTimeout  = 2 * time.Second
)

// Config holds the inputs of attestd. Every field is required.
type Config struct {
	// BootLog is the encoded boot log of this VM.
	BootLog []byte
	// Evidence asks the AMD-SP for a report over reportData.
	Evidence func(reportData [64]byte) (evidence.Evidence, error)
	// Rand makes the TLS key.
	Rand io.Reader
	// Now is the time at which the TLS certificate is made. Verifiers ignore it.
	Now time.Time
	// Log gets a line when the AMD-SP gives no evidence. It gets at most
	// maxFailures lines of bounded length, because the log is in memory. Clients
	// get their own errors, which are not logged.
	Log *slog.Logger
}

// Server answers requests until its context ends.
type Server struct {
	evidence      func([64]byte) (evidence.Evidence, error)
	failures      failures
	bootLog       []byte
	bootLogDigest pins.Digest
	certificate   tls.Certificate
	spki          []byte // DER of the certificate's public key

	waiting *shares       // a place for each request under way
	asking  chan struct{} // one place: the AMD-SP takes one request at a time
}

// New checks the boot log and makes the TLS key.
func New(c Config) (*Server, error) {
	if _, err := bootlog.Decode(c.BootLog); err != nil {
		return nil, err
	}
	s := &Server{
		evidence:      c.Evidence,
		failures:      failures{log: c.Log},
		bootLog:       c.BootLog,
		bootLogDigest: pins.Digest(sha256.Sum256(c.BootLog)),
		waiting:       newShares(maxWaiting, maxPeerWaiting),
		asking:        make(chan struct{}, 1),
	}
	if err := s.makeCertificate(c.Rand, c.Now); err != nil {
		return nil, fmt.Errorf("making a TLS certificate: %w", err)
	}
	return s, nil
}

// makeCertificate makes a self-signed certificate. The evidence vouches for its
// key.
func (s *Server) makeCertificate(rand io.Reader, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "attestd"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if s.spki, err = x509.MarshalPKIXPublicKey(&key.PublicKey); err != nil {
		return err
	}
	s.certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return nil
}

// Serve answers on the listener until ctx ends, and closes it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+attestapi.Path, s.attest)
	server := &http.Server{
		Handler: mux,
		TLSConfig: &tls.Config{
			Certificates:           []tls.Certificate{s.certificate},
			MinVersion:             tls.VersionTLS13,
			SessionTicketsDisabled: true, // each connection proves the key
		},
		TLSNextProto:   map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 only
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       log.New(io.Discard, "", 0), // a stranger could fill the log with failed handshakes and requests
	}
	server.SetKeepAlivesEnabled(false) // the place is free after one answer
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		stopped <- errors.Join(server.Shutdown(limit), server.Close())
	})
	err := server.ServeTLS(limitConnections(l, maxConnections, maxPeerConnections), "", "")
	if stop() { // ctx has not ended
		return err
	}
	return <-stopped
}

// attest answers one request. Every error goes through refuse.
func (s *Server) attest(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, attestapi.MaxRequest))
	if err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("reading request: %w", err))
		return
	}
	request, err := attestapi.DecodeRequest(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	leave, ok := s.waiting.take(r.RemoteAddr)
	if !ok {
		refuse(w, http.StatusServiceUnavailable, fmt.Errorf("%d requests wait already, or %d of this peer, try again", maxWaiting, maxPeerWaiting))
		return
	}
	defer leave()
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-r.Context().Done():
		return
	}
	answer, err := s.answer(request.Nonce)
	s.failures.note(err)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(answer.Encode()) // the owner may be gone; nothing is left to do
}

func (s *Server) answer(nonce evidence.Nonce) (attestapi.Response, error) {
	e, err := s.evidence(evidence.OwnerAttestation(nonce, s.spki, s.bootLogDigest))
	if err != nil {
		return attestapi.Response{}, err
	}
	encoded, err := e.Encode()
	if err != nil {
		return attestapi.Response{}, err
	}
	return attestapi.Response{Version: attestapi.Version, Evidence: encoded, BootLog: s.bootLog}, nil
}

func refuse(w http.ResponseWriter, status int, err error) {
	text := err.Error()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(attestapi.Problem{Version: attestapi.Version, Error: text[:min(len(text), attestapi.MaxProblem)]}.Encode())
}
