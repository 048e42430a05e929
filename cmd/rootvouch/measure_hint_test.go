package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// TestExplainMeasurement offers "measure explain" when the measurement differs,
// and keeps the error and its exit status.
func TestExplainMeasurement(t *testing.T) {
	refused := reportError{errors.New("refused"), exitReportRefused}
	report := &snp.Report{Measurement: snp.Measurement{0xab}}
	for _, c := range []struct {
		name string
		v    appraise.Verdict
		want bool
	}{
		{"another measurement", appraise.Verdict{Report: report, Checks: []appraise.Check{{Name: "measurement"}}}, true},
		{"another policy", appraise.Verdict{Report: report, Checks: []appraise.Check{{Name: "measurement", OK: true}, {Name: "POLICY"}}}, false},
		{"malformed", appraise.Verdict{}, false},
	} {
		err := explainMeasurement(c.v, refused)
		if got, ok := errors.AsType[reportError](err); !ok || got.ExitCode() != exitReportRefused || err.Error() != "refused" {
			t.Errorf("%s: got error %v", c.name, err)
		}
		h, ok := errors.AsType[interface {
			error
			Hint() string
		}](err)
		if ok != c.want || ok && !strings.Contains(h.Hint(), "measure explain --got ab00") {
			t.Errorf("%s: got hint %v, want one: %v", c.name, h, c.want)
		}
	}
	if err := explainMeasurement(appraise.Verdict{Report: report, Checks: []appraise.Check{{Name: "measurement"}}}, nil); err != nil {
		t.Errorf("no error: got %v", err)
	}
}

// TestExplainOffered refuses a genuine report for its measurement alone.
func TestExplainOffered(t *testing.T) {
	dir, s := files(t)
	values, err := refval.New(refval.EmulatedARK(s.Chain.ARKDigest()), []refval.Measurement{{Digest: snp.Measurement{1}, VCPUs: 1, CPUType: "EPYC-v4"}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.json")
	if err := os.WriteFile(other, values, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := newReportCommand()
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
