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
	"github.com/rootvouch/rootvouch/pins"
)

// Bounds of one request.
const (
	dialTimeout    = 3 * time.Second
	requestTimeout = 10 * time.Second
	// lostReplies is how often the very same release request is sent again when its
	// reply was lost on the way.
	lostReplies = 3
)

// retryError is a failure that may pass: an unreachable or overloaded server.
type retryError struct{ err error }

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// peerError says that the other end is not the key server.
type peerError struct{ err error }

func (e *peerError) Error() string { return e.err.Error() }
func (e *peerError) Unwrap() error { return e.err }

// client speaks to one key server with one SVID, so that the public key which the
// evidence binds is the one of every connection.
type client struct {
	http *http.Client
	base string
}

func newClient(address string, server spiffeid.ID, id Identity) *client {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	tlsconfig.HookMTLSClientConfig(config, id.SVID, id.Bundles, tlsconfig.AuthorizeID(server))
	verify := config.VerifyPeerCertificate
	config.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
		if err := verify(raw, nil); err != nil {
			return &peerError{err}
		}
		return nil
	}
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

// nonce asks for a nonce.
func (c *client) nonce(ctx context.Context) (keyapi.Nonce, error) {
	data, err := c.post(ctx, keyapi.PathNonce, keyapi.Encode(keyapi.NonceRequest{Version: keyapi.Version}))
	if err != nil {
		return keyapi.Nonce{}, err
	}
	reply, err := keyapi.Decode[keyapi.NonceReply](data)
	return reply.Nonce, err
}

// release asks for the key. A request whose reply got lost is sent again as it is:
// the server answers the very same one again for a short while.
func (c *client) release(ctx context.Context, disk pins.UUID, request keyapi.ReleaseRequest) ([]byte, error) {
	body := keyapi.Encode(request)
	var lost *lostError
	wait := newWaits()
	for {
		data, err := c.post(ctx, keyapi.ReleasePath(disk), body)
		if errors.As(err, &lost) && wait.count < lostReplies && wait.sleep(ctx) {
			continue
		}
		if err != nil {
			return nil, err
		}
		reply, err := keyapi.Decode[keyapi.ReleaseReply](data)
		return reply.Sealed, err
	}
}

// lostError says that a request may have been answered, but no reply came.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// post sends one request and returns the body of a reply with status 200.
func (c *client) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	// Without GetBody net/http does not send a request again by itself.
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
		return nil, &retryError{&lostError{fmt.Errorf("reading the reply: %w", err)}}
	}
	if response.StatusCode != http.StatusOK {
		return nil, refusal(response.StatusCode, data)
	}
	return data, nil
}

// classify tells failures that may pass from those that will not: the other end is
// not who it must be, or does not take our SVID.
func classify(err error) error {
	var peer *peerError
	if errors.As(err, &peer) {
		return fmt.Errorf("verifying the key server: %w", peer)
	}
	// crypto/tls reports an alert that the other end sent under this name.
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return fmt.Errorf("%w the TLS connection: %v", ErrRefused, op.Err)
	}
	if errors.As(err, &op) && op.Op == "dial" {
		return &retryError{fmt.Errorf("connecting: %w", op)}
	}
	return &retryError{&lostError{err}}
}

// refusal gives the meaning of a reply other than 200.
func refusal(status int, data []byte) error {
	reply, err := keyapi.Decode[keyapi.ErrorReply](data)
	if err != nil {
		if status >= 500 {
			return &retryError{fmt.Errorf("HTTP status is %d, want 200", status)}
		}
		return fmt.Errorf("%w: HTTP status is %d, want 200", ErrRefused, status)
	}
	switch reply.Error {
	case keyapi.CodeNonce, keyapi.CodeBusy, keyapi.CodeUnavailable:
		return &retryError{fmt.Errorf("key server cannot answer now: %s (HTTP status %d)", reply.Error, status)}
	}
	return fmt.Errorf("%w: %s (HTTP status %d)", ErrRefused, reply.Error, status)
}
