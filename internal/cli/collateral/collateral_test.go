package collateral

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/cli/report"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
	"github.com/rootvouch/rootvouch/snp/snphost"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// collateral runs "rootvouch collateral".
func collateral(args ...string) (string, error) {
	cmd := New()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

// hostFile is what "host identify" says of the signer's host.
func hostFile(t *testing.T, s *snptest.Signer) string {
	t.Helper()
	report := s.Unsigned(t, [64]byte{})
	data, err := snphost.Identity{Version: 1, Product: snp.Genoa, CPUID: snp.Genoa.Example(), ChipIDs: []snp.ChipID{report.ChipID},
		CurrentTCB: report.CurrentTCB, ReportedTCB: report.ReportedTCB, Initialized: true}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "host.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%s has %d files, %v", dir, len(entries), err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// TestCollateral fetches from a stand-in of AMD's service, packs what came, and
// verifies a report with nothing else.
func TestCollateral(t *testing.T) {
	dir, s := snptest.Files(t)
	crl := s.CRL(t).Raw
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/Genoa/crl"):
			_, _ = w.Write(crl)
		case strings.HasSuffix(r.URL.Path, "/Genoa/cert_chain"):
			_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: s.Chain.ASK.Raw})
			_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: s.Chain.ARK.Raw})
		case strings.HasSuffix(r.URL.Path, "/Genoa/"+s.ChipID.String()):
			_, _ = w.Write(s.Chain.VCEK.Raw)
		default:
			http.NotFound(w, r)
		}
	}))
	defer service.Close()
	cache := t.TempDir()
	out, err := collateral("fetch", "--collateral-dir", cache, "--report", dir+"/report.bin", "--base-url", service.URL, "--roots", dir+"/ark.der")
	if err != nil || !strings.Contains(out, "VCEK of a Genoa") || !strings.Contains(out, "CRL 1") {
		t.Fatalf("fetch: %v\n%s", err, out)
	}
	fromHost := t.TempDir()
	out, err = collateral("fetch", "--collateral-dir", fromHost, "--host", hostFile(t, s), "--base-url", service.URL, "--roots", dir+"/ark.der")
	if err != nil || !strings.Contains(out, "VCEK of a Genoa") || !strings.Contains(out, "CRL 1") {
		t.Fatalf("fetch by the host's own word: %v\n%s", err, out)
	}
	for _, name := range names(t, cache) {
		want, err := os.ReadFile(filepath.Join(cache, name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(fromHost, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s by the host's word is not what it is by a report: %v", name, err)
		}
	}
	packed := filepath.Join(dir, "packed.pem")
	if out, err := collateral("pack", "--collateral-dir", cache, "--out", packed); err != nil || !strings.Contains(out, "3 certificates, 1 revocation list") {
		t.Fatalf("pack: %v\n%s", err, out)
	}
	if _, err := collateral("pack", "--collateral-dir", cache, "--out", packed); err == nil {
		t.Error("pack overwrites its output")
	}
	data, err := os.ReadFile(packed)
	if err != nil {
		t.Fatal(err)
	}
	if certs, crls, err := kds.Parse(data, false); err != nil || len(certs) != 3 || len(crls) != 1 {
		t.Errorf("packed: %d certificates, %d CRLs, %v", len(certs), len(crls), err)
	}
	var text bytes.Buffer
	code := command.Main(report.New(), []string{"verify", "--report", dir + "/report.bin", "--leaf", dir + "/leaf.der", "--chain", packed,
		"--refval", dir + "/refval.json", "--at", snptest.Now().Format("2006-01-02T15:04:05Z07:00"),
		"--report-data", hex.EncodeToString(append([]byte{7}, make([]byte, 63)...))}, &text, &text)
	if code != 0 {
		t.Errorf("verify with the packed collateral: status %d\n%s", code, &text)
	}
	for _, args := range [][]string{
		{"fetch", "--collateral-dir", cache}, {"fetch", "--collateral-dir", cache, "--host", dir + "/refval.json"}, {"fetch", "--product", "Genoa"}, {"fetch", "--collateral-dir", cache + "/absent", "--product", "Genoa"},
		{"fetch", "--collateral-dir", cache, "--product", "Rome"}, {"fetch", "--collateral-dir", cache, "--product", "Genoa", "--base-url", "host"},
		{"fetch", "--collateral-dir", cache, "--product", "Turin", "--base-url", service.URL}, {"pack", "--collateral-dir", t.TempDir(), "--out", packed + "2"},
	} {
		if out, err := collateral(args...); err == nil {
			t.Errorf("%v: accepted\n%s", args, out)
		}
	}
}

// stopAt is output that ends a command when a text has come.
type stopAt struct {
	bytes.Buffer
	text string
	stop context.CancelFunc
}

func (s *stopAt) Write(p []byte) (int, error) {
	n, err := s.Buffer.Write(p)
	if strings.Contains(s.String(), s.text) {
		s.stop()
	}
	return n, err
}

// TestEvery goes on after a round that failed, until it is stopped, and takes no command
// line that cannot be meant.
func TestEvery(t *testing.T) {
	run := func(text string, args ...string) (string, error) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		out := &stopAt{text: text, stop: stop}
		cmd := New()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetOut(out)
		cmd.SetErr(out)
		cmd.SetArgs(append([]string{"fetch", "--collateral-dir", t.TempDir()}, args...))
		err := cmd.ExecuteContext(ctx)
		return out.String(), err
	}
	service := httptest.NewServer(http.NotFoundHandler())
	defer service.Close()
	if out, err := run("again in 10m0s", "--product", "Genoa", "--every", "12h", "--base-url", service.URL); err != nil || !strings.Contains(out, "again in 10m0s") {
		t.Errorf("a round that fails: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"--product", "Genoa", "--every", "59m"}, {"--product", "Rome", "--every", "12h"}, {"--every", "12h"}} {
		if out, err := run("again in", args...); err == nil {
			t.Errorf("%q: accepted\n%s", args, out)
		}
	}
}
