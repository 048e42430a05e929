package report

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/amdtest"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// report runs "rootvouch report" and returns exit status and output.
func report(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := command.Main(New(), args, &stdout, &stderr)
	return status, stdout.String() + stderr.String()
}

func TestReportVerify(t *testing.T) {
	dir, _ := snptest.Files(t)
	document, err := os.ReadFile(dir + "/evidence.json")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("spaced.json", append([]byte("\n  "), append(document, '\n')...))
	var indented bytes.Buffer
	if err := json.Indent(&indented, document, "", " "); err != nil {
		t.Fatal(err)
	}
	write("indented.json", indented.Bytes())
	data := hex.EncodeToString(append([]byte{7}, make([]byte, 63)...))
	at := snptest.Now().Format(time.RFC3339)
	base := "verify --report D/report.bin --leaf D/leaf.der --chain D/chain.pem --refval D/refval.json --at " + at
	authenticity := "verify --report D/report.bin --leaf D/leaf.der --chain D/chain.pem --authenticity-only --at " + at
	for _, row := range []struct {
		args string
		code int
		want string
	}{
		{base + " --crl D/fresh.crl --report-data " + data, 0, "verdict: trusted"},
		{base + " --crl D/fresh.crl", 4, "REPORT_DATA: not checked"},
		{base + " --crl D/fresh.crl", 4, "verdict: freshness unknown"},
		{base + " --accept-unknown-revocation --report-data " + data, 0, "revocation: not checked"},
		{"verify --report D/evidence.json --crl D/fresh.crl --refval D/refval.json --at " + at, 4, "verdict: freshness unknown"},
		{"verify --report D/evidence.json --crl D/fresh.crl --refval D/refval.json --at " + at + " --report-data " + data, 0, "verdict: trusted"},
		{"verify --report D/spaced.json --crl D/fresh.crl --refval D/refval.json --at " + at + " --report-data " + data, 0, "verdict: trusted"},
		{"verify --report D/indented.json --crl D/fresh.crl --refval D/refval.json --at " + at, 3, "canonical"},
		{authenticity + " --crl D/fresh.crl --roots D/ark.der", 0, "verdict: authentic"},
		{strings.Replace(base, "report.bin", "debug.bin", 1) + " --crl D/fresh.crl", 1, "FAILED  guest policy debug"},
		{base, 2, "FAILED  revocation"},
		{base + " --crl D/stale.crl", 2, "stale"},
		{base + " --crl D/revoked.crl", 2, "was revoked"},
		{base + " --crl D/fresh.crl --report-data " + strings.Repeat("00", 64), 2, "FAILED  REPORT_DATA"},
		{authenticity + " --crl D/fresh.crl", 2, "which is not AMD's ARK"},
		{strings.Replace(base, at, "2020-01-01T00:00:00Z", 1) + " --crl D/fresh.crl", 2, "FAILED  validity"},
		{strings.Replace(base, "--chain D/chain.pem ", "", 1) + " --crl D/fresh.crl", 2, "FAILED  chain"},
		{strings.Replace(base, "report.bin", "short.bin", 1), 3, "got 1183 bytes, want 1184"},
		{strings.Replace(base, "leaf.der", "bad.der", 1), 3, "bad.der"},
		{strings.Replace(base, "refval.json", "bad.json", 1), 3, "bad.json"},
		{base + " --crl D/bad.der", 3, "bad.der"},
		{base + " --kind azure-hcl", 3, "HCL"},
		{base + " --authenticity-only", 64, "exactly one"},
		{base + " --crl D/fresh.crl --accept-unknown-revocation", 64, "at most one"},
		{base + " --report-data 00", 64, "64 bytes in hex"},
		{base + " --kind tdx", 64, "plain or azure-hcl"},
		{base + " --crl D/absent.crl", 64, "no such file"},
		{base + " --frob", 64, "unknown flag"},
		{base + " extra", 64, "got argument"},
		{"verify --report D/report.bin --leaf D/leaf.der", 64, "exactly one"},
		{"verify --refval D/refval.json", 64, "--report is missing"},
		{"verify --report D/report.bin --refval D/refval.json", 64, "--leaf is missing"},
		{base + " --report-data=", 64, "--report-data is empty"},
	} {
		code, out := report(t, strings.Fields(strings.ReplaceAll(row.args, "D/", dir+"/"))...)
		if code != row.code || !strings.Contains(out, row.want) {
			t.Errorf("%s\ngot status %d, want %d and %q in\n%s", row.args, code, row.code, row.want, out)
		}
	}
}

func TestReportVerifyJSON(t *testing.T) {
	dir, _ := snptest.Files(t)
	code, out := report(t, "verify", "--report", dir+"/report.bin", "--leaf", dir+"/leaf.der", "--chain", dir+"/chain.pem",
		"--refval", dir+"/refval.json", "--crl", dir+"/fresh.crl", "--at", snptest.Now().Format(time.RFC3339), "--json",
		"--report-data", hex.EncodeToString(append([]byte{7}, make([]byte, 63)...)))
	var verdict struct {
		Trusted bool
		Outcome string
		Checks  []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(out), &verdict); err != nil {
		t.Fatal(err)
	}
	if code != 0 || !verdict.Trusted || verdict.Outcome != "accepted" || len(verdict.Checks) < 20 {
		t.Errorf("got status %d and %+v", code, verdict)
	}
}

func TestReportShow(t *testing.T) {
	dir, s := snptest.Files(t)
	document, err := os.ReadFile(dir + "/evidence.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, before := range map[string]string{"spaces.json": "\n \t", "mark.json": "\xef\xbb\xbf", "both.json": "\xef\xbb\xbf\r\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), append([]byte(before), document...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"report.bin", "evidence.json", "spaces.json", "mark.json", "both.json"} {
		code, out := report(t, "show", dir+"/"+name)
		if code != 0 || !strings.Contains(out, s.ChipID.String()) || !strings.Contains(out, "fmc=0 bootloader=10 tee=1 snp=23 microcode=84") {
			t.Errorf("%s: got status %d and\n%s", name, code, out)
		}
		code, out = report(t, "show", "--json", dir+"/"+name)
		var got struct {
			Report struct{ Measurement snp.Measurement }
		}
		if err := json.Unmarshal([]byte(out), &got); code != 0 || err != nil || got.Report.Measurement[0] != 0x4d {
			t.Errorf("%s --json: got status %d, %v and\n%s", name, code, err, out)
		}
	}
	for args, want := range map[string]int{"show " + dir + "/short.bin": 3, "show": 64, "show " + dir + "/absent": 64} {
		if code, out := report(t, strings.Fields(args)...); code != want {
			t.Errorf("%s: got status %d, want %d\n%s", args, code, want, out)
		}
	}
}

// TestReportVectors verifies real reports with nothing but their leaf: AMD's
// certificates are built in.
func TestReportVectors(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, v := range amdtest.Vectors(t) {
		if v.Leaf == nil {
			continue
		}
		want := 2
		switch {
		case v.Valid:
			want = 0
		case v.Malformed:
			want = 3
		}
		code, out := report(t, "verify", "--report", file("report", v.Report), "--leaf", file("leaf", v.Leaf),
			"--at", v.CheckTime.Format(time.RFC3339), "--authenticity-only", "--accept-unknown-revocation")
		if code != want {
			t.Errorf("%s: got status %d, want %d\n%s", v.Name, code, want, out)
		}
	}
	azure := amdtest.Find(t, "trustee-azure-v0")
	code, out := report(t, "verify", "--report", file("hcl", amdtest.HCL(t, azure.Name)), "--leaf", file("leaf", azure.Leaf), "--crl", file("crl", amdtest.CRL(t)),
		"--at", "2025-07-01T00:00:00Z", "--authenticity-only", "--report-data", strings.Repeat("00", 64))
	if code != 0 {
		t.Errorf("Azure HCL blob: got status %d\n%s", code, out)
	}
	genoa := amdtest.Find(t, "trustee-azure-genoa")
	code, out = report(t, "verify", "--report", file("hcl", amdtest.HCL(t, genoa.Name)), "--leaf", file("leaf", genoa.Leaf),
		"--authenticity-only", "--accept-unknown-revocation", "--at", "2026-06-01T00:00:00Z")
	if code != 0 || !strings.Contains(out, "verdict: authentic") {
		t.Errorf("Azure HCL blob of version 2: got status %d\n%s", code, out)
	}
	milan := amdtest.Find(t, "cmc-milan")
	code, out = report(t, "verify", "--report", file("report", append(milan.Report, make([]byte, 32)...)), "--leaf", file("leaf", milan.Leaf),
		"--at", "2022-05-26T00:00:00Z", "--authenticity-only", "--accept-unknown-revocation")
	if code != 3 {
		t.Errorf("wrong size: got status %d, want 3\n%s", code, out)
	}
}

// TestExplainOffered refuses a genuine report for its measurement alone.
func TestExplainOffered(t *testing.T) {
	dir, s := snptest.Files(t)
	values, err := refval.New(refval.EmulatedARK(s.Chain.ARKDigest()), []refval.Measurement{{Digest: snp.Measurement{1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC-v4"}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.json")
	if err := os.WriteFile(other, values, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := New()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetOut(io.Discard)
	cmd.SetArgs([]string{"verify", "--report", filepath.Join(dir, "evidence.json"), "--crl", filepath.Join(dir, "fresh.crl"),
		"--refval", other, "--at", snptest.Now().Format(time.RFC3339)})
	err = cmd.Execute()
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); !ok || !strings.Contains(h.Hint(), "measure explain --got ") {
		t.Errorf("got %v, want the offer of measure explain", err)
	}
}
