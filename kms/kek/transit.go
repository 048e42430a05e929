package kek

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Transit is a key in a server with the transit API of Vault and OpenBao. The key's type is
// aes256-gcm96, which takes associated data.
type Transit struct {
	Address   string `json:"address"`         // https://host:port
	Mount     string `json:"mount,omitempty"` // absent: transit
	Key       string `json:"key"`
	TokenFile string `json:"token_file"`        // read at each request
	CAFile    string `json:"ca_file,omitempty"` // PEM; absent: the system's
}

const (
	transitLimit = 20 * time.Second
	defaultMount = "transit"
	// maxTransitReply bounds an answer in bytes.
	maxTransitReply = 64 << 10
)

func (t Transit) check() error {
	u, err := url.Parse(t.Address)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("transit: address is %q, want https://host:port", t.Address)
	case t.Key == "" || strings.ContainsAny(t.Key, "/?#%"):
		return fmt.Errorf("transit: key is %q, want a name", t.Key)
	case strings.ContainsAny(t.Mount, "?#%"):
		return fmt.Errorf("transit: mount is %q, want a path", t.Mount)
	case t.TokenFile == "":
		return errors.New("transit: token_file is empty")
	}
	return nil
}

// transit is a client of such a server.
type transit struct {
	Transit
	client *http.Client
	bad    error // the error that makes it unusable
}

func newTransit(t Transit) *transit {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	var bad error
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		config.RootCAs = x509.NewCertPool()
		if err == nil && !config.RootCAs.AppendCertsFromPEM(pem) {
			err = fmt.Errorf("%s has no certificate", t.CAFile)
		}
		bad = err
	}
	if t.Mount == "" {
		t.Mount = defaultMount
	}
	return &transit{t, &http.Client{
		Timeout: transitLimit,
		Transport: &http.Transport{
			TLSClientConfig: config, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
		},
		// A redirect would send the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, bad}
}

// transitRequest is the body of an encrypt or decrypt. Bytes are in base64.
type transitRequest struct {
	Plaintext      []byte `json:"plaintext,omitempty"`
	Ciphertext     string `json:"ciphertext,omitempty"`
	AssociatedData []byte `json:"associated_data"`
}

// transitReply answers it.
type transitReply struct {
	Data struct {
		Plaintext  []byte `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
	} `json:"data"`
	Errors []string `json:"errors"`
}

// Seal implements Sealer. The server uses its own randomness.
func (t *transit) Seal(_ io.Reader, secret []byte, about AAD) ([]byte, error) {
	reply, err := t.ask("encrypt", transitRequest{Plaintext: secret, AssociatedData: about})
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(reply.Data.Ciphertext, "vault:") {
		return nil, fmt.Errorf("transit %s: ciphertext begins with %.10q, want \"vault:\"", t.Address, reply.Data.Ciphertext)
	}
	return []byte(reply.Data.Ciphertext), nil
}

// Open implements Sealer.
func (t *transit) Open(sealed []byte, about AAD) ([]byte, error) {
	reply, err := t.ask("decrypt", transitRequest{Ciphertext: string(sealed), AssociatedData: about})
	if err != nil {
		return nil, err
	}
	return reply.Data.Plaintext, nil
}

// Close implements io.Closer.
func (t *transit) Close() error {
	t.client.CloseIdleConnections()
	return nil
}

func (t *transit) ask(what string, r transitRequest) (transitReply, error) {
	reply, err := t.post(what, r)
	if err != nil {
		return transitReply{}, fmt.Errorf("transit %s: %w", t.Address, err)
	}
	return reply, nil
}

func (t *transit) post(what string, r transitRequest) (reply transitReply, err error) {
	if t.bad != nil {
		return reply, t.bad
	}
	token, err := os.ReadFile(t.TokenFile)
	if err != nil {
		return reply, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return reply, err
	}
	defer clear(body)
	address := strings.TrimSuffix(t.Address, "/") + "/v1/" + strings.Trim(t.Mount, "/") + "/" + what + "/" + url.PathEscape(t.Key)
	request, err := http.NewRequest(http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return reply, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Vault-Token", strings.TrimSpace(string(token)))
	response, err := t.client.Do(request)
	if err != nil {
		if in, ok := errors.AsType[*url.Error](err); ok {
			err = in.Err
		}
		return reply, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxTransitReply))
	defer clear(data)
	if err != nil {
		return reply, fmt.Errorf("reading the answer: %w", err)
	}
	if err := json.Unmarshal(data, &reply); err != nil {
		return reply, fmt.Errorf("status %s, and the answer is not JSON", response.Status)
	}
	said := strings.Join(reply.Errors, "; ")
	switch {
	case response.StatusCode == http.StatusOK:
		return reply, nil
	case what == "decrypt" && response.StatusCode == http.StatusBadRequest && strings.Contains(said, "message authentication failed"):
		return reply, ErrWrongKey
	}
	return reply, fmt.Errorf("status %s: %.500q", response.Status, said)
}
