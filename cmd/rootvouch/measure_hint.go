package main

import (
	"fmt"

	"github.com/rootvouch/rootvouch/appraise"
)

// hinted is an error with advice.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }
func (h hinted) Hint() string  { return h.hint }

// explainMeasurement adds to err, the error of a verdict, how to find out why
// the measurement differs, if it does.
func explainMeasurement(v appraise.Verdict, err error) error {
	if err == nil || v.Report == nil {
		return err
	}
	for _, c := range v.Checks {
		if c.Name == "measurement" && !c.OK {
			return hinted{err, fmt.Sprintf("rootvouch measure explain --got %s, with the flags that the reference values were measured with, says which input differs", v.Report.Measurement)}
		}
	}
	return err
}
