package kds_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// service is a stand-in for AMD's service, with an emulated chain.
type service struct {
	*httptest.Server
	signer *snptest.Signer
	asked  atomic.Int64

	mu   sync.Mutex
	crl  []byte                                            // guarded by mu, as is:
	trap func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
}

func newService(t *testing.T, product snp.Product) *service {
	t.Helper()
	s := &service{signer: snptest.New(t, product)}
	s.crl = s.signer.CRL(t).Raw
	s.Server = httptest.NewServer(http.HandlerFunc(s.answer))
	t.Cleanup(s.Close)
	return s
}

func (s *service) answer(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	s.mu.Lock()
	crl, trap := s.crl, s.trap
	s.mu.Unlock()
	if trap != nil && trap(w, r) {
		return
	}
	chain := s.signer.Chain
	hwid := s.signer.ChipID[:]
	fmc := ""
	if s.signer.Product == snp.Turin {
		hwid, fmc = hwid[:8], "fmcSPL=1&"
	}
	tcb := s.signer.TCB
	vcek := fmt.Sprintf("/vcek/v1/%s/%x?%sblSPL=%d&teeSPL=%d&snpSPL=%d&ucodeSPL=%d", s.signer.Product, hwid, fmc, tcb.Bootloader, tcb.TEE, tcb.SNP, tcb.Microcode)
	base := "/vcek/v1/" + string(s.signer.Product)
	switch r.URL.RequestURI() {
	case vcek:
		_, _ = w.Write(chain.VCEK.Raw)
	case base + "/cert_chain":
		for _, c := range []*x509.Certificate{chain.ASK, chain.ARK} {
			_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		}
	case base + "/crl":
		_, _ = w.Write(crl)
	default:
		http.NotFound(w, r)
	}
}

func (s *service) set(crl []byte, trap func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if crl != nil {
		s.crl = crl
	}
	s.trap = trap
}

// clock is a clock that only Wait moves.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	waited []time.Duration
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *clock) Wait(_ context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.waited = c.now.Add(d), append(c.waited, d)
	return nil
}

func newClient(t *testing.T, s *service, change func(*kds.Config)) (*kds.Client, *clock) {
	t.Helper()
	c := &clock{now: snptest.Now()}
	config := kds.Config{
		BaseURL: s.URL, CacheDir: t.TempDir(), Roots: []*x509.Certificate{s.signer.Chain.ARK}, HTTP: s.Client(),
		Attempt: 200 * time.Millisecond, Total: 20 * time.Second, Now: c.Now, Wait: c.Wait,
	}
	if change != nil {
		change(&config)
	}
	client, err := kds.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return client, c
}

func TestClientGets(t *testing.T) {
	for _, p := range []snp.Product{snp.Genoa, snp.Turin} {
		s := newService(t, p)
		client, _ := newClient(t, s, nil)
		for range 2 { // the second time from the cache
			vcek, err := client.VCEK(t.Context(), p, s.signer.ChipID, s.signer.TCB)
			if err != nil || !vcek.Equal(s.signer.Chain.VCEK) {
				t.Fatalf("%s: VCEK: %v", p, err)
			}
			chain, err := client.Chain(t.Context(), p, snp.VCEK)
			if err != nil || len(chain) != 2 || !chain[1].Equal(s.signer.Chain.ARK) {
				t.Fatalf("%s: Chain: %v", p, err)
			}
			if _, err := client.CRL(t.Context(), p, snp.VCEK); err != nil {
				t.Fatalf("%s: CRL: %v", p, err)
			}
		}
		if got := s.asked.Load(); got != 3 {
			t.Errorf("%s: the service was asked %d times, want 3", p, got)
		}
	}
}

func TestCacheServesOffline(t *testing.T) {
	s := newService(t, snp.Genoa)
	dir := t.TempDir()
	client, _ := newClient(t, s, func(c *kds.Config) { c.CacheDir = dir })
	if _, err := client.Chain(t.Context(), snp.Genoa, snp.VCEK); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CRL(t.Context(), snp.Genoa, snp.VCEK); err != nil {
		t.Fatal(err)
	}
	certs, crls, err := kds.LoadDir(dir)
	if err != nil || len(certs) != 2 || len(crls) != 1 {
		t.Errorf("LoadDir: got %d certificates, %d CRLs, %v", len(certs), len(crls), err)
	}
}

func TestThrottled(t *testing.T) {
	s := newService(t, snp.Genoa)
	client, clock := newClient(t, s, nil)
	refusals := 2
	s.set(nil, func(w http.ResponseWriter, _ *http.Request) bool {
		if refusals == 0 {
			return false
		}
		refusals--
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	if _, err := client.VCEK(t.Context(), snp.Genoa, s.signer.ChipID, s.signer.TCB); err != nil {
		t.Fatal(err)
	}
	if len(clock.waited) != 2 || clock.waited[0] != 7*time.Second {
		t.Errorf("waited %v, want 7 s twice", clock.waited)
	}
	s.set(nil, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	other := s.signer.TCB
	other.SNP++
	if _, err := client.VCEK(t.Context(), snp.Genoa, s.signer.ChipID, other); err == nil || !strings.Contains(err.Error(), "giving up") {
		t.Errorf("a service that says to wait an hour: got %v", err)
	}
	if last := clock.waited[len(clock.waited)-1]; last <= 0 || last > 10*time.Second {
		t.Errorf("the second VCEK of a chip waited %s, want up to 10 s", last)
	}
}

// TestAsksUntilBound asks a service that fails and names no time. The client asks
// until a second before the bound.
func TestAsksUntilBound(t *testing.T) {
	s := newService(t, snp.Genoa)
	client, clock := newClient(t, s, func(c *kds.Config) { c.Total = time.Minute })
	s.set(nil, func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	start := clock.Now()
	if _, err := client.CRL(t.Context(), snp.Genoa, snp.VCEK); err == nil || !strings.Contains(err.Error(), "502") {
		t.Fatalf("got %v, want the last failure", err)
	}
	if took, n := clock.Now().Sub(start), s.asked.Load(); took != 59*time.Second || n < 12 || n > 20 {
		t.Errorf("asked %d times within %s, want 12 to 20 times within 59 s", n, took)
	}
}

func TestCoalesced(t *testing.T) {
	s := newService(t, snp.Genoa)
	client, _ := newClient(t, s, func(c *kds.Config) { c.Attempt = 5 * time.Second })
	release := make(chan struct{})
	s.set(nil, func(http.ResponseWriter, *http.Request) bool { <-release; return false })
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if _, err := client.VCEK(t.Context(), snp.Genoa, s.signer.ChipID, s.signer.TCB); err != nil {
				t.Error(err)
			}
		})
	}
	for s.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.VCEK(impatient, snp.Genoa, s.signer.ChipID, s.signer.TCB); err == nil {
		t.Error("a caller that gave up got an answer")
	}
	time.Sleep(20 * time.Millisecond)
	close(release)
	group.Wait()
	if got := s.asked.Load(); got != 1 {
		t.Errorf("the service was asked %d times, want 1", got)
	}
}

// TestLies checks that the client refuses every wrong answer, and keeps none.
func TestLies(t *testing.T) {
	s := newService(t, snp.Genoa)
	other := snptest.New(t, snp.Genoa)
	dir := t.TempDir()
	client, _ := newClient(t, s, func(c *kds.Config) { c.CacheDir, c.ChipInterval = dir, time.Nanosecond })
	for name, body := range map[string][]byte{
		"nothing": nil, "HTML": []byte("<html>"), "ASK": s.signer.Chain.ASK.Raw, "trailing": append(bytes.Clone(s.signer.Chain.VCEK.Raw), 0),
		"too much": make([]byte, 2<<20), "another's chain": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Chain.ASK.Raw}),
		"another's CRL": other.CRL(t).Raw,
	} {
		s.set(nil, func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write(body); return true })
		if _, err := client.VCEK(t.Context(), snp.Genoa, s.signer.ChipID, s.signer.TCB); err == nil {
			t.Errorf("VCEK takes %s", name)
		}
		if _, err := client.Chain(t.Context(), snp.Genoa, snp.VCEK); err == nil {
			t.Errorf("Chain takes %s", name)
		}
		if _, err := client.CRL(t.Context(), snp.Genoa, snp.VCEK); err == nil {
			t.Errorf("CRL takes %s", name)
		}
	}
	s.set(nil, func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write(s.signer.Chain.VCEK.Raw)
		return true
	})
	older := s.signer.TCB
	older.SNP--
	if _, err := client.VCEK(t.Context(), snp.Genoa, s.signer.ChipID, older); err == nil || !strings.Contains(err.Error(), "TCB is") {
		t.Errorf("VCEK of another TCB: got %v", err)
	}
	if _, err := client.VCEK(t.Context(), snp.Genoa, snp.ChipID{1}, s.signer.TCB); err == nil || !strings.Contains(err.Error(), "chip is") {
		t.Errorf("VCEK of another chip: got %v", err)
	}
	if certs, crls, err := kds.LoadDir(dir); err != nil || len(certs)+len(crls) != 0 {
		t.Errorf("a lie was kept: %d certificates, %d CRLs, %v", len(certs), len(crls), err)
	}
}

// TestCRLOverTime follows a list through its cache age, a service that becomes
// unreachable, a service that serves an older list, and the list's next update.
func TestCRLOverTime(t *testing.T) {
	s := newService(t, snp.Genoa)
	client, clock := newClient(t, s, func(c *kds.Config) { c.CRLMaxAge = 10 * time.Minute })
	now := snptest.Now()
	list := func(number int64) []byte {
		return s.signer.CRLAt(t, number, now.Add(-time.Hour), now.Add(time.Hour)).Raw
	}
	get := func() (int64, error) {
		crl, err := client.CRL(t.Context(), snp.Genoa, snp.VCEK)
		if err != nil {
			return 0, err
		}
		return crl.Number.Int64(), nil
	}
	s.set(list(5), nil)
	if n, err := get(); n != 5 || err != nil {
		t.Fatalf("got CRL %d, %v, want 5", n, err)
	}
	s.set(list(6), nil)
	if n, err := get(); n != 5 || err != nil {
		t.Errorf("within its age: got CRL %d, %v, want 5 from the cache", n, err)
	}
	_ = clock.Wait(t.Context(), 11*time.Minute)
	if n, err := get(); n != 6 || err != nil {
		t.Errorf("past its age: got CRL %d, %v, want 6", n, err)
	}
	_ = clock.Wait(t.Context(), 11*time.Minute)
	s.set(list(4), nil)
	if n, err := get(); n != 6 || err != nil {
		t.Errorf("the service went back: got CRL %d, %v, want 6", n, err)
	}
	s.set(nil, func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusNotFound); return true })
	if n, err := get(); n != 6 || err != nil {
		t.Errorf("the service is gone: got CRL %d, %v, want 6", n, err)
	}
	_ = clock.Wait(t.Context(), time.Hour)
	if n, err := get(); err == nil {
		t.Errorf("past its next update: got CRL %d, want an error", n)
	}
}

func TestStalled(t *testing.T) {
	s := newService(t, snp.Genoa)
	client, _ := newClient(t, s, func(c *kds.Config) { c.Attempt, c.Total = 20*time.Millisecond, 500*time.Millisecond })
	done := make(chan struct{})
	defer close(done)
	s.set(nil, func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-done:
		case <-r.Context().Done():
		}
		return true
	})
	start := time.Now()
	if _, err := client.Chain(t.Context(), snp.Genoa, snp.VCEK); err == nil {
		t.Error("a service that stalls gives a chain")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("gave up after %s", took)
	}
}

func TestClientRefuses(t *testing.T) {
	for _, base := range []string{"", "kdsintf.amd.com", "ftp://host", "https://", "https://host?x=1"} {
		if _, err := kds.NewClient(kds.Config{BaseURL: base, HTTP: http.DefaultClient}); err == nil {
			t.Errorf("NewClient takes the base URL %q", base)
		}
	}
	if _, err := kds.NewClient(kds.Config{BaseURL: kds.AMDBaseURL}); err == nil {
		t.Error("NewClient takes no HTTP client")
	}
	s := newService(t, snp.Genoa)
	client, _ := newClient(t, s, nil)
	if _, err := client.VCEK(t.Context(), snp.Genoa, snp.ChipID{}, s.signer.TCB); err == nil || !strings.Contains(err.Error(), "masks it") {
		t.Errorf("VCEK of a masked chip: got %v", err)
	}
	if _, err := client.VCEK(t.Context(), snp.Genoa, s.signer.ChipID, snp.TCB{FMC: 1}); err == nil {
		t.Error("VCEK takes an FMC on Genoa")
	}
	if s.asked.Load() != 0 {
		t.Error("the service was asked nonsense")
	}
}
