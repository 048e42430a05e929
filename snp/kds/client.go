package kds

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/rootvouch/rootvouch/snp"
)

// AMDBaseURL is AMD's key distribution service (57230).
const AMDBaseURL = "https://kdsintf.amd.com"

// Config says where a [Client] asks, and how long it waits. A zero duration means
// the default in parentheses.
type Config struct {
	// BaseURL is AMDBaseURL or a mirror with the same paths. Required.
	BaseURL string
	// CacheDir keeps the collateral. [LoadDir] can read the directory, so it serves
	// an offline verifier too. If CacheDir is empty, nothing is kept.
	CacheDir string
	// Roots are the ARKs by which the client verifies revocation lists before it
	// keeps them. Nil means AMD's. An appraisal verifies the lists again.
	Roots []*x509.Certificate
	// CRLMaxAge is how long a kept CRL is used without asking again (1 hour).
	CRLMaxAge time.Duration
	// ChipInterval is the least time between two requests for VCEKs of one chip
	// (10 seconds: the service refuses more).
	ChipInterval time.Duration
	// Attempt bounds one exchange (10 seconds). Total bounds all exchanges of one
	// request, with the waits between them (60 seconds).
	Attempt, Total time.Duration
	// HTTP makes the requests. It is required, because the caller chooses the proxy
	// and the roots of TLS.
	HTTP *http.Client
	// Retry, if not nil, is called before each further exchange with the reason and
	// the pause.
	Retry func(why error, pause time.Duration)
	// Now is the clock, Wait sleeps until a time has passed or ctx ends; nil:
	// the real ones.
	Now  func() time.Time
	Wait func(ctx context.Context, d time.Duration) error
}

// Client gets collateral from AMD's service. It joins concurrent equal requests
// into one. Its methods may be called concurrently.
type Client struct {
	config Config
	flight singleflight.Group

	mu   sync.Mutex
	next map[snp.ChipID]time.Time // :: chip -> when it may be asked for again; guarded by mu
}

// NewClient checks config and returns a client.
func NewClient(config Config) (*Client, error) {
	base, err := url.Parse(config.BaseURL)
	if err != nil || base.Host == "" || (base.Scheme != "https" && base.Scheme != "http") || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("making KDS client: base URL is %q, want http(s)://host[/path]", config.BaseURL)
	}
	if config.HTTP == nil {
		return nil, errors.New("making KDS client: no HTTP client")
	}
	config.BaseURL = strings.TrimSuffix(config.BaseURL, "/")
	setDefault(&config.CRLMaxAge, time.Hour)
	setDefault(&config.ChipInterval, 10*time.Second)
	setDefault(&config.Attempt, 10*time.Second)
	setDefault(&config.Total, time.Minute)
	if config.Roots == nil {
		config.Roots = AMDCertificates()
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Wait == nil {
		config.Wait = wait
	}
	return &Client{config: config, next: make(map[snp.ChipID]time.Time)}, nil
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// wait sleeps for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// VCEK returns the certificate of a chip's VCEK at a TCB. It refuses a certificate
// of another chip, TCB or product.
func (c *Client) VCEK(ctx context.Context, product snp.Product, chip snp.ChipID, tcb snp.TCB) (*x509.Certificate, error) {
	path, err := vcekPath(product, chip, tcb)
	if err != nil {
		return nil, fmt.Errorf("getting VCEK: %w", err)
	}
	check := func(data []byte) (any, error) { return checkVCEK(data, product, chip, tcb) }
	name := vcekName(product, chip, tcb)
	if cached, err := c.cached(name, check); err == nil {
		return cached.(*x509.Certificate), nil
	}
	got, err := c.once(ctx, path, func(ctx context.Context, until time.Time) (any, error) {
		if err := c.takeTurn(ctx, chip); err != nil {
			return nil, err
		}
		return c.get(ctx, until, path, name, check)
	})
	if err != nil {
		return nil, fmt.Errorf("getting VCEK: %w", err)
	}
	return got.(*x509.Certificate), nil
}

// Chain returns the certificates above a VCEK or VLEK: ASK or ASVK, then ARK.
func (c *Client) Chain(ctx context.Context, product snp.Product, kind snp.SigningKey) ([]*x509.Certificate, error) {
	path := fmt.Sprintf("/%s/v1/%s/cert_chain", strings.ToLower(kind.String()), product)
	check := func(data []byte) (any, error) { return checkCertChain(data, product, kind) }
	name := fmt.Sprintf("chain-%s-%s.pem", product, kind)
	if cached, err := c.cached(name, check); err == nil {
		return cached.([]*x509.Certificate), nil
	}
	got, err := c.once(ctx, path, func(ctx context.Context, until time.Time) (any, error) {
		return c.get(ctx, until, path, name, check)
	})
	if err != nil {
		return nil, fmt.Errorf("getting certificate chain: %w", err)
	}
	return got.([]*x509.Certificate), nil
}

// CRL returns the revocation list of a product. It uses a kept list for CRLMaxAge.
// After that it asks the service; if the service cannot be reached, it uses the kept
// list until the list's own next update. It refuses a list that is older than the
// kept one.
func (c *Client) CRL(ctx context.Context, product snp.Product, kind snp.SigningKey) (*x509.RevocationList, error) {
	path := fmt.Sprintf("/%s/v1/%s/crl", strings.ToLower(kind.String()), product)
	name := fmt.Sprintf("%s-%s.crl", product, kind)
	var kept *x509.RevocationList
	if cached, err := c.cached(name, func(data []byte) (any, error) { return c.checkCRL(data, product, nil) }); err == nil {
		kept = cached.(*x509.RevocationList)
		if age := c.age(name); age >= 0 && age < c.config.CRLMaxAge && !c.config.Now().After(kept.NextUpdate) {
			return kept, nil
		}
	}
	check := func(data []byte) (any, error) { return c.checkCRL(data, product, kept) }
	got, err := c.once(ctx, path, func(ctx context.Context, until time.Time) (any, error) {
		return c.get(ctx, until, path, name, check)
	})
	if err == nil {
		return got.(*x509.RevocationList), nil
	}
	if kept != nil && !c.config.Now().After(kept.NextUpdate) {
		return kept, nil
	}
	return nil, fmt.Errorf("getting CRL: %w", err)
}

// once runs fetch, or waits for a fetch that already runs under the same key. The
// fetch has its own bound, Total, and is told its end. So a caller that gives up
// does not end the fetch for other callers.
func (c *Client) once(ctx context.Context, key string, fetch func(context.Context, time.Time) (any, error)) (any, error) {
	result := c.flight.DoChan(key, func() (any, error) {
		fetchCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.config.Total)
		defer cancel()
		return fetch(fetchCtx, c.config.Now().Add(c.config.Total))
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-result:
		return r.Val, r.Err
	}
}

// takeTurn waits until the client may ask for a chip again.
func (c *Client) takeTurn(ctx context.Context, chip snp.ChipID) error {
	now := c.config.Now()
	c.mu.Lock()
	for other, at := range c.next { // drop entries whose time has passed
		if !at.After(now) {
			delete(c.next, other)
		}
	}
	at := now
	if next, waits := c.next[chip]; waits {
		at = next
	}
	c.next[chip] = at.Add(c.config.ChipInterval)
	c.mu.Unlock()
	if d := at.Sub(now); d > 0 {
		return c.config.Wait(ctx, d)
	}
	return nil
}
