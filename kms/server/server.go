// Package server answers the guests that ask the key server for the key of a disk.
//
// A caller is a workload of the server's trust domain and uses mutual TLS. The answer is a key,
// or one word (keyapi.Code); only the log has the reason for a refusal. Without an SVID of the
// trust domain a peer cannot complete the TLS handshake. There is one exception: if the peer asks
// for the TLS server name of volume commits, the server requests no certificate, because a commit
// key authenticates each commit.
package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence/kept"
	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/pins"
)

// Limits of what peers can make the server hold.
const (
	maxConnections = 1024     // others wait in the kernel, or replace a quiet connection
	maxStrangers   = 256      // of these, before their first request
	maxQueue       = 512      // waiting in the kernel: a handshake with a peer that stopped waiting is wasted
	maxReleases    = 256      // in progress at once
	maxCommits     = 64       // in progress at once
	maxHeader      = 16 << 10 // bytes
)

// Time limits.
const (
	headerTimeout = 10 * time.Second // including the TLS handshake
	readTimeout   = 10 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 30 * time.Second
	commitTimeout = 5 * time.Second // to send a commit
	shutdownGrace = 10 * time.Second
)

// Config says what a server serves. Every field must be set.
type Config struct {
	// ID is the server's own SPIFFE ID. Callers are members of its trust domain.
	ID spiffeid.ID
	// SVID and Bundle are read for each connection and each request, so they may rotate.
	SVID   x509svid.Source
	Bundle x509bundle.Source
	// Ledger holds the records.
	Ledger *ledger.Ledger
	// Collateral returns what an appraisal needs besides the certificates in the evidence.
	Collateral func() (appraise.Collateral, error)
	// Kept stores evidence that lacks its certificate. Required; it may store nothing.
	Kept *kept.Dir
	// Answered gets each answer: the request ("nonce", "release", "commit"), the code ("" if
	// there was no refusal), and the time that the answer took.
	Answered func(request string, code keyapi.Code, took time.Duration)
	// Refused gets each refusal: the disk (zero if unknown), and the checks that failed.
	Refused func(disk pins.UUID, checks []string)
	Clock   func() time.Time
	Rand    io.Reader
	Log     *slog.Logger
}

// Server is a key server.
type Server struct {
	Config
	nonces     nonces
	callers    callers
	refusals   *limiter
	values     *valuesCache
	collateral collateralCache
	memo       appraise.Memo // caches the verification of the roots' signatures
	slots      chan struct{} // one for each release in progress
	commits    chan struct{} // one for each commit in progress
}

// New makes a server. It panics if a field of c is not set.
func New(c Config) *Server {
	if c.ID.IsZero() || c.SVID == nil || c.Bundle == nil || c.Ledger == nil || c.Collateral == nil || c.Kept == nil || c.Answered == nil || c.Refused == nil ||
		c.Clock == nil || c.Rand == nil || c.Log == nil {
		panic("server: internal error: New with an incomplete Config")
	}
	return &Server{
		Config:   c,
		nonces:   nonces{c.Ledger.Records.Keys().Nonce, c.Rand},
		refusals: newLimiter(),
		values:   newValuesCache(),
		slots:    make(chan struct{}, maxReleases),
		commits:  make(chan struct{}, maxCommits),
	}
}

// Serve answers on listener, which it closes, until ctx is done. It then lets requests in
// progress finish.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	if err := shortenQueue(listener, maxQueue); err != nil {
		listener.Close()
		return fmt.Errorf("serving: %w", err)
	}
	limited := limitConnections(listener, maxConnections, maxStrangers)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler:           s.handler(),
		TLSConfig:         s.tlsConfig(),
		Protocols:         &protocols,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnState:         limited.state,
		ErrorLog:          log.New(peerLog{s.Log}, "", 0),
	}
	defer s.noteLeftOut()
	ticker := time.NewTicker(leftOutInterval)
	defer ticker.Stop()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				s.noteLeftOut()
			}
		}
	}()
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), shutdownGrace)
		defer cancel()
		stopped <- server.Shutdown(grace)
	})
	err := server.ServeTLS(limited, "", "")
	if stop() { // the listener failed before ctx was done
		return fmt.Errorf("serving: %w", err)
	}
	if err := <-stopped; err != nil {
		return fmt.Errorf("shutting down: %w", err)
	}
	return nil
}

// peerLog receives the messages of net/http. A message that peers cause at will, such as a
// failed handshake, is for debugging. A panic of ours is an error.
type peerLog struct{ log *slog.Logger }

func (l peerLog) Write(line []byte) (int, error) {
	level := slog.LevelDebug
	if bytes.HasPrefix(line, []byte("http: panic serving")) {
		level = slog.LevelError
	}
	l.log.Log(context.Background(), level, "http", "line", string(bytes.TrimSpace(line)))
	return len(line), nil
}

// tlsConfig is mutual TLS 1.3 with SVIDs of the trust domain. Sessions are not resumed: every
// connection shows a certificate, which is verified then.
func (s *Server) tlsConfig() *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		GetCertificate: tlsconfig.GetCertificate(valid{s}),
		ClientAuth:     tls.RequireAnyClientCert,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := s.callers.verify(state.PeerCertificates, s.ID.TrustDomain(), s.Bundle, s.Clock())
			return err
		},
	}
	commit := &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, NextProtos: []string{"http/1.1"},
		GetCertificate: tlsconfig.GetCertificate(valid{s}),
	}
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if hello.ServerName == keyapi.CommitServerName {
			return commit, nil // without an SVID, caller refuses every other request
		}
		return nil, nil
	}
	return config
}

// valid returns the server's SVID only while it is valid. A guest that sees an expired SVID
// takes the server for another one and ends its boot. If the handshake breaks off instead, the
// guest tries again.
type valid struct{ server *Server }

// GetX509SVID implements x509svid.Source.
func (v valid) GetX509SVID() (*x509svid.SVID, error) {
	svid, err := v.server.SVID.GetX509SVID()
	if err != nil {
		return nil, err
	}
	if until, now := svid.Certificates[0].NotAfter, v.server.Clock(); now.After(until) {
		return nil, fmt.Errorf("the key server's own SVID expired at %s: is its SPIRE agent alive?", until.Format(time.RFC3339))
	}
	return svid, nil
}

// handler routes the requests. Every other request gets 404 or 405.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+keyapi.PathNonce, s.serve("nonce", s.nonce))
	mux.HandleFunc("POST /v1/disks/{uuid}/release", s.serve("release", s.release))
	mux.HandleFunc("POST /v1/disks/{uuid}/commit", s.serveCommit)
	return mux
}

// caller verifies the caller's SVID at the time of this request. If the SVID expired or its
// root left the bundle since the connection began, caller refuses it.
func (s *Server) caller(r *http.Request) (acl.Caller, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return acl.Caller{}, errors.New("verifying the caller: peer has no SVID")
	}
	v, err := s.callers.verify(r.TLS.PeerCertificates, s.ID.TrustDomain(), s.Bundle, s.Clock())
	if err != nil {
		return acl.Caller{}, err
	}
	return v.Caller, v.unfit
}
