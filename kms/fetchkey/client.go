package fetchkey

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/rootvouch/rootvouch/kms/keyapi"
)

// Bounds of one request.
const (
	dialTimeout    = 3 * time.Second
	requestTimeout = 30 * time.Second // a busy server answers in turn
)

// retryError is a failure that may pass: the server is unreachable or cannot answer now,
// another server is at its address, or its TLS stack does not accept our SVID yet.
type retryError struct{ err error }

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// staleError says that the server no longer accepts the nonce. The guest then needs a new nonce
// and new evidence.
type staleError struct{ err error }

func (e *staleError) Error() string { return e.err.Error() }
func (e *staleError) Unwrap() error { return e.err }

// peerError says that the peer is not the key server.
type peerError struct{ err error }

func (e *peerError) Error() string { return e.err.Error() }
func (e *peerError) Unwrap() error { return e.err }

// client speaks to one address of the key server. All clients have the same SVID, so the public
// key that the evidence binds is the one of every connection.
type client struct {
	http *http.Client
	base string
}

func newClient(address string, server spiffeid.ID, id Identity) *client {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	tlsconfig.HookMTLSClientConfig(config, id.SVID, id.Bundles, tlsconfig.AuthorizeID(server))
	verify := config.VerifyPeerCertificate
	config.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
		err := verify(raw, nil)
		if err == nil {
			err = checkLeaf(raw[0])
		}
		if err != nil {
			return &peerError{err}
		}
		return nil
	}
	return newHTTP(address, config)
}

// newHTTP makes a client that verifies the server as config says.
func newHTTP(address string, config *tls.Config) *client {
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &client{
		base: "https://" + address,
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                  nil,
				DialContext:            dialer.DialContext,
				TLSClientConfig:        config,
				TLSHandshakeTimeout:    requestTimeout,
				ResponseHeaderTimeout:  requestTimeout,
				MaxResponseHeaderBytes: 16 << 10,
				MaxConnsPerHost:        1,
				DisableCompression:     true,
			},
			Timeout: requestTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
		},
	}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// checkLeaf refuses a leaf certificate that may not sign. go-spiffe checks this for our own
// SVID but not for the peer's (X509-SVID, section 4.3).
func checkLeaf(der []byte) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("key usage of the leaf lacks digitalSignature")
	}
	return nil
}

// post sends one request and returns the body of a reply with status 200.
func (c *client) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	// Without GetBody net/http does not resend a request by itself.
	request.GetBody = nil
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		c.close()
		return nil, classify(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, keyapi.MaxReplySize+1))
	if err != nil {
		c.close()
		return nil, &retryError{fmt.Errorf("reading the reply: %w", err)}
	}
	if response.StatusCode != http.StatusOK {
		return nil, refusal(response.StatusCode, data)
	}
	return data, nil
}

// classify gives the meaning of an error below HTTP. All these errors may pass: only an answer
// from the key server is final.
func classify(err error) error {
	var peer *peerError
	if errors.As(err, &peer) {
		return &retryError{fmt.Errorf("verifying the key server: %w", peer)}
	}
	var op *net.OpError
	switch {
	// crypto/tls reports an alert from the peer under this name.
	case errors.As(err, &op) && op.Op == "remote error":
		return &retryError{fmt.Errorf("key server refuses the TLS connection: %w", op.Err)}
	case errors.As(err, &op) && op.Op == "dial":
		return &retryError{fmt.Errorf("connecting: %w", op)}
	}
	return &retryError{err}
}

// refusal gives the meaning of a reply whose status is not 200.
func refusal(status int, data []byte) error {
	reply, err := keyapi.Decode[keyapi.ErrorReply](data)
	if err != nil {
		if status >= 500 {
			return &retryError{fmt.Errorf("HTTP status is %d, want 200", status)}
		}
		return fmt.Errorf("%w: HTTP status is %d, want 200", ErrRefused, status)
	}
	switch reply.Error {
	case keyapi.CodeNonce:
		return &staleError{fmt.Errorf("key server refuses the nonce: %s (HTTP status %d)", reply.Error, status)}
	case keyapi.CodeHeld:
		return &retryError{errors.New("another launch has the volume open: wait until it closes the volume, or ask the operator to free it")}
	case keyapi.CodeBusy, keyapi.CodeUnavailable:
		return &retryError{fmt.Errorf("key server cannot answer now: %s (HTTP status %d)", reply.Error, status)}
	}
	return fmt.Errorf("%w: %s (HTTP status %d)", ErrRefused, reply.Error, status)
}
