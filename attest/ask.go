// Package attest is the owner's side of attestation: it asks a booted VM for evidence, and
// judges the answer.
package attest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/rootvouch/rootvouch/attest/attestapi"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/bounded"
)

// Answer is the unchecked answer of a VM.
type Answer struct {
	Nonce    evidence.Nonce // the nonce of the request
	TLSKey   []byte         // DER SubjectPublicKeyInfo of the connection that carried the answer
	Evidence []byte         // encoded
	BootLog  []byte         // encoded
}

// ErrProblem matches the errors for a refusal by attestd.
var ErrProblem = errors.New("the VM gives no evidence")

// Ask asks the attestd at address, "host:port", with a nonce that is used once. An
// error means that there is no answer to judge. An error that matches ErrProblem
// came from the VM.
//
// Ask does not verify the TLS certificate: its key was made inside the VM, so no CA
// could sign it. The evidence replaces a CA, because it binds the public key of
// this connection. An attacker in between has another key, which no AMD-SP has
// signed. Trust no byte from the connection until Judge has compared the keys.
//
// If a VM has little processor time, it misses attestd's time limit for a handshake and
// closes the connection without an answer. Ask then asks again, until ctx ends.
//
// Errors have one line, without control characters, whatever bytes the other end
// sent.
func Ask(ctx context.Context, address string, nonce evidence.Nonce) (Answer, error) {
	var cut error // why it asks again
	for {
		a, err := ask(ctx, address, nonce)
		if err == nil {
			return a, nil
		}
		if cut != nil && ctx.Err() != nil {
			return Answer{}, harmless{cut}
		}
		if !errors.Is(err, errCut) || !pause(ctx) {
			return Answer{}, harmless{err}
		}
		cut = err
	}
}

// errCut matches the errors for a connection that the other end accepted and closed
// without an answer.
var errCut = errors.New("the connection was closed without an answer")

// pause waits before the next try, and reports whether there is a next try.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Second):
		return true
	}
}

func ask(ctx context.Context, address string, nonce evidence.Nonce) (Answer, error) {
	client := &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{}).DialContext,
			TLSClientConfig:        &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}, //nolint:gosec // see above
			TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},              // HTTP/1.1 only
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 8 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	body := attestapi.Request{Version: attestapi.Version, Nonce: nonce}.Encode()
	target := url.URL{Scheme: "https", Host: address, Path: attestapi.Path}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(body))
	if err != nil {
		return Answer{}, fmt.Errorf("asking %s: %w", address, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		var inner *url.Error // repeats the address and the method
		if errors.As(err, &inner) {
			err = inner.Err
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
			err = fmt.Errorf("%w: %v", errCut, err)
		}
		return Answer{}, fmt.Errorf("asking %s: %w", address, err)
	}
	defer response.Body.Close()
	data, err := bounded.Read(response.Body, attestapi.MaxResponse)
	if err != nil {
		return Answer{}, fmt.Errorf("reading the answer of %s: %w", address, err)
	}
	if response.StatusCode != http.StatusOK {
		problem, err := attestapi.DecodeProblem(data)
		if err != nil {
			return Answer{}, fmt.Errorf("asking %s: %w: HTTP status is %d", address, ErrProblem, response.StatusCode)
		}
		return Answer{}, fmt.Errorf("asking %s: %w: %q", address, ErrProblem, problem.Error)
	}
	if response.TLS == nil || len(response.TLS.PeerCertificates) == 0 {
		return Answer{}, fmt.Errorf("asking %s: the answer came over no TLS connection", address)
	}
	message, err := attestapi.DecodeResponse(data)
	if err != nil {
		return Answer{}, fmt.Errorf("asking %s: %w", address, err)
	}
	return Answer{
		Nonce:    nonce,
		TLSKey:   response.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo,
		Evidence: message.Evidence,
		BootLog:  message.BootLog,
	}, nil
}
