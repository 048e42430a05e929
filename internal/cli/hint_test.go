package cli

import (
	"errors"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/snp"
)

// TestExplainMeasurement offers "measure explain" when the measurement differs,
// and keeps the error and its exit status.
func TestExplainMeasurement(t *testing.T) {
	refused := WithStatus(errors.New("refused"), 7)
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
		err := ExplainMeasurement(c.v, refused)
		if got, ok := errors.AsType[statusError](err); !ok || got.ExitCode() != 7 || err.Error() != "refused" {
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
	if err := ExplainMeasurement(appraise.Verdict{Report: report, Checks: []appraise.Check{{Name: "measurement"}}}, nil); err != nil {
		t.Errorf("no error: got %v", err)
	}
}
