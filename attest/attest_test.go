package attest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/attest/attestapi"
	"github.com/rootvouch/rootvouch/attest/attestd"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
	"github.com/rootvouch/rootvouch/snp/snpdev"
	"github.com/rootvouch/rootvouch/test/snpdevtest"
)

var (
	wanted = snp.Measurement{1, 2}
	id     = snp.ReportID{7}
	disk   = pins.Pins{
		Version:    1,
		Verity:     pins.Verity{RootHash: pins.Digest{3}, Salt: pins.HexBytes{}, DataBlocks: 10, HashOffset: 40960, PayloadOffset: 1 << 20, PayloadSize: 49152},
		Header:     pins.Header{DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{2}},
		Filesystem: pins.EROFS, Init: pins.InitOK,
	}
)

func bootLog() bootlog.Log {
	return bootlog.Log{Version: 1, DiskUUID: disk.DiskUUID, HeaderSHA256: disk.HeaderSHA256, RootHash: disk.RootHash, KeyGeneration: 4,
		KMSSPIFFEID: "spiffe://example.org/kms", Verification: "full", Steps: []bootlog.Step{{Name: "start"}, {Name: "dm-verity", StartMS: 3000, DurationMS: 12}}}
}

// vm is a VM that runs attestd, with an AMD-SP and its owner's expectation.
type vm struct {
	*testing.T
	sp      *snpdevtest.SP
	values  refval.Values
	address string
}

// boot runs a VM until the test ends. change may damage it.
func boot(t *testing.T, change func(*snp.Report, *bootlog.Log)) *vm {
	t.Helper()
	v := &vm{T: t, sp: snpdevtest.New(t, time.Now())}
	v.values = v.sp.Values(wanted)
	v.values.Pins = refval.Exactly(disk)
	launch, log := v.sp.Launch(wanted, id), bootLog()
	if change != nil {
		change(&launch.Report, &log)
	}
	device, err := snpdev.OpenPath(snpdev.VirtioPort, launch.Serve())
	if err != nil {
		t.Fatal(err)
	}
	data, err := log.Encode()
	if err != nil {
		t.Fatal(err)
	}
	server, err := attestd.New(attestd.Config{BootLog: data, Evidence: device.Evidence, Rand: rand.Reader, Now: time.Now(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return v
}

func (v *vm) ask(address string) Answer {
	v.Helper()
	nonce, err := evidence.NewNonce(rand.Reader)
	if err != nil {
		v.Fatal(err)
	}
	a, err := Ask(v.Context(), address, nonce)
	if err != nil {
		v.Fatal(err)
	}
	return a
}

func (v *vm) judge(a Answer) Result {
	v.Helper()
	certs, crls, err := kds.LoadDir(v.sp.Collateral)
	if err != nil {
		v.Fatal(err)
	}
	return Judge(a, Expectation{Values: v.values, Collateral: appraise.Collateral{Certificates: certs, CRLs: crls}, Now: time.Now()})
}

func printed(t *testing.T, r Result) string {
	t.Helper()
	var b strings.Builder
	if err := r.Print(&b, true); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func wantTrusted(t *testing.T, r Result) {
	t.Helper()
	out := printed(t, r)
	if !r.Trusted() || !strings.HasSuffix(out, "\nverdict: trusted\n") {
		t.Errorf("not trusted:\n%s", out)
	}
}

func wantRefused(t *testing.T, r Result, why string) {
	t.Helper()
	out := printed(t, r)
	if r.Trusted() || !strings.HasSuffix(out, "\nverdict: refused\n") || !strings.Contains(out, why) {
		t.Errorf("want a refusal with %q, got:\n%s", why, out)
	}
}

func TestTrusted(t *testing.T) {
	v := boot(t, nil)
	r := v.judge(v.ask(v.address))
	wantTrusted(t, r)
	out := printed(t, r)
	for _, want := range []string{"emulated: NOT CONFIDENTIAL\n", "measurement: " + wanted.String(), "instance: not checked\n",
		"boot log: dm-verity at 3000 ms, 12 ms\n", "verity root hash: " + disk.RootHash.String()} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(`"trusted":true`)) || bytes.Contains(data, []byte(`"instance"`)) {
		t.Errorf("JSON is %s", data)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, why string
		change    func(*snp.Report, *bootlog.Log)
	}{
		{"measurement", "FAILED  measurement", func(r *snp.Report, _ *bootlog.Log) { r.Measurement[0]++ }},
		{"debug", "FAILED  ", func(r *snp.Report, _ *bootlog.Log) { r.Policy |= snp.PolicyDebug }},
		{"root hash", "FAILED  verity root hash", func(_ *snp.Report, l *bootlog.Log) { l.RootHash[0]++ }},
		{"disk", "FAILED  disk UUID", func(_ *snp.Report, l *bootlog.Log) { l.DiskUUID[0]++ }},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := boot(t, c.change)
			wantRefused(t, v.judge(v.ask(v.address)), c.why)
		})
	}
}

// TestMiddleman: an attacker who terminates TLS between owner and VM, and forwards
// everything else, has another key than the evidence.
func TestMiddleman(t *testing.T) {
	v := boot(t, nil)
	target := &url.URL{Scheme: "https", Host: v.address}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	middle := httptest.NewTLSServer(proxy)
	defer middle.Close()
	a := v.ask(strings.TrimPrefix(middle.URL, "https://"))
	wantRefused(t, v.judge(a), "FAILED  REPORT_DATA")
}

// TestChangedAnswer: after any change of an answer, the evidence does not fit it.
func TestChangedAnswer(t *testing.T) {
	v := boot(t, nil)
	good := v.ask(v.address)
	wantTrusted(t, v.judge(good))

	replayed := good
	replayed.Nonce[0]++
	wantRefused(t, v.judge(replayed), "FAILED  REPORT_DATA")

	log := bootLog()
	log.KeyGeneration++
	other := good
	var err error
	if other.BootLog, err = log.Encode(); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, v.judge(other), "FAILED  REPORT_DATA")

	garbage := good
	garbage.Evidence = garbage.Evidence[1:]
	wantRefused(t, v.judge(garbage), "FAILED  form")
	garbage = good
	garbage.BootLog = []byte("{}")
	wantRefused(t, v.judge(garbage), "FAILED  form")
}

// TestUnauthentic: boot log and REPORT_ID of unauthentic evidence are not used.
// Those of evidence that only the policy refuses are still shown.
func TestUnauthentic(t *testing.T) {
	v := boot(t, nil)
	a := v.ask(v.address)
	launches := []Launch{{ReportID: id, Generation: 4, Time: time.Now()}}
	refused := func(a Answer) (Result, string) {
		r := v.judge(a)
		r.CheckInstance(disk.DiskUUID, launches)
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		out := printed(t, r)
		wantRefused(t, r, "FAILED  ")
		return r, out + string(data)
	}
	a.Nonce[0]++
	r, out := refused(a)
	if r.Authentic() || r.Instance.Err == nil || len(r.Disk) > 0 {
		t.Errorf("authentic: %v, instance: %v, disk: %v", r.Authentic(), r.Instance, r.Disk)
	}
	for _, never := range []string{"instance: checked", "boot log: disk", "verity root hash: ", `"boot_log":`, `"key_generation"`} {
		if strings.Contains(out, never) {
			t.Errorf("%q in:\n%s", never, out)
		}
	}
	a.Nonce[0]--
	v.values = v.sp.Values(snp.Measurement{9})
	r, out = refused(a)
	if !r.Authentic() || r.Instance.Err != nil || !strings.Contains(out, "boot log: disk") || !strings.Contains(out, `"boot_log":`) {
		t.Errorf("authentic: %v, instance: %v, in:\n%s", r.Authentic(), r.Instance, out)
	}
}

func TestInstance(t *testing.T) {
	v := boot(t, nil)
	launch := Launch{ReportID: id, Generation: 4, Time: time.Now()}
	before := Launch{ReportID: snp.ReportID{6}, Generation: 3}
	for _, c := range []struct {
		name     string
		disk     pins.UUID
		launches []Launch
		why      string // of the refusal
	}{
		{"that launch", disk.DiskUUID, []Launch{before, launch}, ""},
		{"no launch", disk.DiskUUID, nil, "none of the 0 launches"},
		{"other launches", disk.DiskUUID, []Launch{before}, "none of the 1 launches"},
		{"another disk", pins.UUID{9}, []Launch{launch}, "boot log says disk"},
		{"another generation", disk.DiskUUID, []Launch{{ReportID: id, Generation: 5}}, "key generation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := v.judge(v.ask(v.address))
			r.CheckInstance(c.disk, c.launches)
			if c.why != "" {
				wantRefused(t, r, "instance: refused: ")
				wantRefused(t, r, c.why)
				return
			}
			wantTrusted(t, r)
			if out := printed(t, r); !strings.Contains(out, "instance: checked: REPORT_ID "+id.String()+", release 2 of 2") {
				t.Errorf("got:\n%s", out)
			}
		})
	}
}

// TestScreen checks that the default output fits one screen of 80 columns: the VM,
// five groups, notes and the verdict. Failed checks are shown in full.
func TestScreen(t *testing.T) {
	screen := func(r Result) string {
		var b strings.Builder
		if err := r.Print(&b, false); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	v := boot(t, nil)
	a := v.ask(v.address)
	good := screen(v.judge(a))
	for _, want := range []string{"emulated: NOT CONFIDENTIAL\nVM:        measurement 0102000000000000…", "disk " + disk.DiskUUID.String(),
		"\nhardware:  ok, report format, ", "\nfreshness: ok, REPORT_DATA\n", "\nplatform:  ok, minimum TCB\n", "\nguest:     ok, measurement, ",
		"\ndisk:      ok, verity root hash, disk UUID\n", "\ninstance: not checked\n"} {
		if !strings.Contains(good, want) {
			t.Errorf("no %q in:\n%s", want, good)
		}
	}
	if !strings.HasSuffix(good, "\nverdict: trusted\n") || strings.Count(good, "\n") > 24 {
		t.Errorf("got:\n%s", good)
	}
	for line := range strings.Lines(good) {
		if n := len([]rune(line)) - 1; n > 80 && !strings.HasPrefix(line, "note ") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	v.values.Measurements[0].Digest[0]++
	refused := screen(v.judge(a))
	if !strings.Contains(refused, "\nguest:     FAILED, 1 of ") || !strings.Contains(refused, "\nFAILED  measurement: got "+wanted.String()) ||
		!strings.HasSuffix(refused, "\nverdict: refused\n") {
		t.Errorf("got:\n%s", refused)
	}
	a.Nonce[0]++
	forged := screen(v.judge(a))
	if !strings.Contains(forged, "VM:        unknown: the evidence is not authentic") || strings.Contains(forged, disk.DiskUUID.String()) ||
		!strings.Contains(forged, "\ndisk:      not looked at\n") {
		t.Errorf("got:\n%s", forged)
	}
}

// TestBundle judges a stored answer again, long after its certificates and lists
// have expired. It checks that a changed answer, or one that a later list revokes,
// is refused.
func TestBundle(t *testing.T) {
	v := boot(t, nil)
	a := v.ask(v.address)
	certs, crls, err := kds.LoadDir(v.sp.Collateral)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	data, err := Bundle{Answer: a, Time: at, Collateral: appraise.Collateral{Certificates: certs, CRLs: crls}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	kept := func() Bundle {
		b, err := DecodeBundle(data)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	years := Expectation{Values: v.values, Now: at.AddDate(30, 0, 0)}
	r := kept().Judge(years)
	out := printed(t, r)
	for _, want := range []string{"\nverdict: trusted as of " + at.UTC().Format(time.RFC3339) + "\n", "kept: fresh then: REPORT_DATA holds nonce " + a.Nonce.String(),
		"kept: fresh then: the newest CRL", "the bundle's word"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if out, err := json.Marshal(r); err != nil || !bytes.Contains(out, []byte(`"trusted":false`)) || !bytes.Contains(out, []byte(`"result":"trusted as of `)) {
		t.Errorf("JSON is %s, %v: a kept answer is not called trusted", out, err)
	}
	for name, change := range map[string]func(*Bundle){
		"another nonce":   func(b *Bundle) { b.Answer.Nonce[0]++ },
		"another TLS key": func(b *Bundle) { b.Answer.TLSKey[0]++ },
		"another boot log": func(b *Bundle) {
			b.Answer.BootLog = bytes.Replace(b.Answer.BootLog, []byte(`"full"`), []byte(`"lazy"`), 1)
		},
		"no CRL":       func(b *Bundle) { b.Collateral.CRLs = nil },
		"a later time": func(b *Bundle) { b.Time = b.Time.AddDate(30, 0, 0) },
	} {
		b := kept()
		change(&b)
		if r := b.Judge(years); r.Trusted() {
			t.Errorf("%s: trusted\n%s", name, printed(t, r))
		}
	}
	later, err := v.sp.Chain.CRL(rand.Reader, 99, at.AddDate(1, 0, 0), at.AddDate(2, 0, 0), v.sp.Chain.VCEK.SerialNumber)
	if err != nil {
		t.Fatal(err)
	}
	revokes, err := x509.ParseRevocationList(later)
	if err != nil {
		t.Fatal(err)
	}
	x := years
	x.Collateral.CRLs = []*x509.RevocationList{revokes}
	wantRefused(t, kept().Judge(x), "was revoked")
	if later, err = v.sp.Chain.CRL(rand.Reader, 99, at.AddDate(1, 0, 0), at.AddDate(2, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if revokes, err = x509.ParseRevocationList(later); err != nil {
		t.Fatal(err)
	}
	x.Collateral.CRLs = []*x509.RevocationList{revokes}
	if r := kept().Judge(x); !r.Trusted() {
		t.Errorf("with a later list that revokes nothing: refused\n%s", printed(t, r))
	}
	for name, bad := range map[string][]byte{
		"cut": data[:len(data)-9], "more": append(bytes.Clone(data), '{'), "version": bytes.Replace(data, []byte(`"version": 1`), []byte(`"version": 2`), 1),
		"unknown member": bytes.Replace(data, []byte(`"nonce"`), []byte(`"nonces"`), 1), "too large": make([]byte, MaxBundleSize+1),
	} {
		if _, err := DecodeBundle(bad); err == nil {
			t.Errorf("%s: DecodeBundle takes it", name)
		}
	}
}

func TestNoPins(t *testing.T) {
	v := boot(t, nil)
	v.values.Pins = refval.Any[pins.Pins]()
	r := v.judge(v.ask(v.address))
	wantTrusted(t, r)
	if out := printed(t, r); !strings.Contains(out, "note    disk: not compared") {
		t.Errorf("got:\n%s", out)
	}
}

func TestZeroResult(t *testing.T) {
	if (Result{}).Trusted() {
		t.Error("the zero Result is trusted")
	}
}

// TestAskRefuses: Ask refuses the answer of a server that is no attestd.
func TestAskRefuses(t *testing.T) {
	for _, c := range []struct {
		name, want string
		handler    http.HandlerFunc
	}{
		{"problem", "the AMD-SP is busy", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			w.Write(attestapi.Problem{Version: 1, Error: "the AMD-SP is busy"}.Encode())
		}},
		{"status", "404", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }},
		{"redirect", "307", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}},
		{"garbage", "decoding response", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }},
		{"endless", "more than", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewTLSServer(c.handler)
			defer server.Close()
			_, err := Ask(t.Context(), strings.TrimPrefix(server.URL, "https://"), evidence.Nonce{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
			if c.name == "problem" && !errors.Is(err, ErrProblem) {
				t.Errorf("error %v does not match ErrProblem", err)
			}
		})
	}
	if _, err := Ask(t.Context(), "127.0.0.1:1", evidence.Nonce{}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got error %v", err)
	}
}

// cutting closes the first connections that it takes, as attestd closes those whose
// handshake takes too long.
type cutting struct {
	net.Listener
	left, closed int    // connections to close, and those that were closed
	none         func() // called with the second one that is closed
}

func (c *cutting) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil || c.left <= 0 {
			return conn, err
		}
		c.left--
		conn.Close()
		if c.closed++; c.closed == 2 {
			c.none()
		}
	}
}

// TestAskAgain asks again when the connection was closed, until its time ends.
func TestAskAgain(t *testing.T) {
	for _, c := range []struct {
		name, want string
		left       int
	}{
		{"one is closed", "the AMD-SP is busy", 1},
		{"all are closed", "the connection was closed without an answer", 1 << 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusServiceUnavailable)
				w.Write(attestapi.Problem{Version: 1, Error: "the AMD-SP is busy"}.Encode())
			}))
			limited := &cutting{Listener: server.Listener, left: c.left}
			server.Listener = limited
			server.StartTLS()
			defer server.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			limited.none = cancel
			_, err := Ask(ctx, strings.TrimPrefix(server.URL, "https://"), evidence.Nonce{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}
