package cli

import (
	"fmt"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/internal/command"
)

// ExplainMeasurement adds a hint to err, the error of a verdict, if the measurement differs:
// how to find out why. It adds none if the report is not authentic, because then the
// measurement proves nothing.
func ExplainMeasurement(v appraise.Verdict, err error) error {
	if err == nil || v.Report == nil || v.Outcome() == appraise.NotAuthentic {
		return err
	}
	for _, c := range v.Checks {
		if c.Name == "measurement" && !c.OK {
			return command.WithHint(err, fmt.Sprintf("rootvouch measure explain --got %s, with the flags that the reference values were measured with, says which input differs", v.Report.Measurement))
		}
	}
	return err
}
