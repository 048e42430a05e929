package attestd

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/attest/attestapi"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/pins"
)

func bootLog(t testing.TB) []byte {
	t.Helper()
	data, err := bootlog.Log{Version: 1, DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{2}, RootHash: pins.Digest{3},
		KeyGeneration: 1, KMSSPIFFEID: "spiffe://example.org/kms", Verification: "full", Steps: []bootlog.Step{{Name: "start"}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// start serves on the loopback until the test ends. The evidence is REPORT_DATA
// itself.
func start(t *testing.T, ask func([64]byte) (evidence.Evidence, error)) (address string) {
	t.Helper()
	return startLogging(t, ask, slog.DiscardHandler)
}

func startLogging(t *testing.T, ask func([64]byte) (evidence.Evidence, error), log slog.Handler) (address string) {
	t.Helper()
	s, err := New(Config{BootLog: bootLog(t), Evidence: ask, Rand: rand.Reader, Now: time.Now(), Log: slog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return l.Addr().String()
}

func echo(data [64]byte) (evidence.Evidence, error) { return evidence.Evidence{Report: data[:]}, nil }

func client() *http.Client { return clientAt("127.0.0.1") }

// clientAt returns a client with a source address of the loopback.
func clientAt(ip string) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true,
		DialContext:       (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).DialContext,
	}}
}

func post(t *testing.T, address, path string, body []byte) (*http.Response, []byte) {
	t.Helper()
	resp, err := client().Post("https://"+address+path, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, data
}

func TestAnswerIsBound(t *testing.T) {
	address := start(t, echo)
	nonce := evidence.Nonce{1, 2, 3}
	resp, data := post(t, address, attestapi.Path, attestapi.Request{Version: 1, Nonce: nonce}.Encode())
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status is %s: %s", resp.Status, data)
	}
	got, err := attestapi.DecodeResponse(data)
	if err != nil {
		t.Fatal(err)
	}
	e, err := evidence.Decode(got.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	want := evidence.OwnerAttestation(nonce, resp.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo, sha256.Sum256(bootLog(t)))
	if !bytes.Equal(e.Report, want[:]) {
		t.Errorf("REPORT_DATA is %x, want %x", e.Report, want)
	}
	if !bytes.Equal(got.BootLog, bootLog(t)) {
		t.Errorf("boot log is %s", got.BootLog)
	}
	if resp.TLS.Version != tls.VersionTLS13 {
		t.Errorf("TLS version is %#x, want 1.3", resp.TLS.Version)
	}
}

// Two starts have two keys.
func TestFreshKey(t *testing.T) {
	var keys [2][]byte
	for i := range keys {
		resp, _ := post(t, start(t, echo), attestapi.Path, attestapi.Request{Version: 1}.Encode())
		keys[i] = resp.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo
	}
	if bytes.Equal(keys[0], keys[1]) {
		t.Error("both have one TLS key")
	}
}

func TestRefuses(t *testing.T) {
	good := attestapi.Request{Version: 1}.Encode()
	fails := func([64]byte) (evidence.Evidence, error) {
		return evidence.Evidence{}, errors.New("asking: " + strings.Repeat("long ", 1000))
	}
	for _, c := range []struct {
		name, path string
		body       []byte
		ask        func([64]byte) (evidence.Evidence, error)
		status     int
	}{
		{"another path", "/v2/attestation", good, echo, http.StatusNotFound},
		{"not a request", attestapi.Path, []byte("{}"), echo, http.StatusBadRequest},
		{"too long", attestapi.Path, make([]byte, 1<<20), echo, http.StatusBadRequest},
		{"device", attestapi.Path, good, fails, http.StatusInternalServerError},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, data := post(t, start(t, c.ask), c.path, c.body)
			if resp.StatusCode != c.status {
				t.Errorf("status is %s, want %d", resp.Status, c.status)
			}
			if c.path != attestapi.Path {
				return
			}
			if p, err := attestapi.DecodeProblem(data); err != nil || p.Error == "" {
				t.Errorf("got problem %v, %v", p, err)
			}
		})
	}
}

// TestTooManyWait sends requests until one peer exceeds its share, and then until
// all places are taken.
func TestTooManyWait(t *testing.T) {
	release := make(chan struct{})
	asked := make(chan struct{}, maxWaiting)
	address := start(t, func(data [64]byte) (evidence.Evidence, error) {
		asked <- struct{}{}
		<-release
		return echo(data)
	})
	request := attestapi.Request{Version: 1}.Encode()
	status := make(chan int, maxWaiting+2)
	ask := func(ip string) {
		go func() {
			resp, err := clientAt(ip).Post("https://"+address+attestapi.Path, "application/json", bytes.NewReader(request))
			if err != nil {
				status <- 0
				return
			}
			resp.Body.Close()
			status <- resp.StatusCode
		}()
	}
	for range maxPeerWaiting + 1 {
		ask("127.0.0.1")
	}
	<-asked
	if got := <-status; got != http.StatusServiceUnavailable {
		t.Errorf("one too many of one peer got status %d, want %d", got, http.StatusServiceUnavailable)
	}
	for range maxWaiting - maxPeerWaiting + 1 {
		ask("127.0.0.2")
	}
	if got := <-status; got != http.StatusServiceUnavailable {
		t.Errorf("one too many of all got status %d, want %d", got, http.StatusServiceUnavailable)
	}
	if len(asked) != 0 {
		t.Error("the AMD-SP was asked two things at once")
	}
	close(release)
	for range maxWaiting {
		if got := <-status; got != http.StatusOK {
			t.Errorf("status is %d, want %d", got, http.StatusOK)
		}
	}
}

func TestNewRefusesBootLog(t *testing.T) {
	if _, err := New(Config{BootLog: []byte("{}"), Rand: rand.Reader}); err == nil {
		t.Error("got no error for a boot log that is none")
	}
}

func TestLimitConnections(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitConnections(inner, 1, 1)
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	for range 2 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	select {
	case <-accepted:
		t.Error("a second connection was accepted beside the first")
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	first.Close() // gives one place back, not two
	(<-accepted).Close()
	l.Close()
	if _, open := <-accepted; open {
		t.Error("accepted after Close")
	}
}
