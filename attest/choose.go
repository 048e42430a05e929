package attest

import (
	"errors"
	"slices"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/refval"
)

// JudgeByOneOf judges an answer by the reference values that trust it, of several: of
// a VM's releases, say. It returns their index with the result. If none does, the
// result is that of the first which have the evidence's measurement, or of the first.
// Without any the index is -1. x.Values is not looked at.
func JudgeByOneOf(a Answer, all []refval.Values, x Expectation) (int, Result) {
	chosen := -1
	var result Result
	for _, i := range order(a, all) {
		x.Values = all[i]
		r := Judge(a, x)
		if r.Trusted() {
			return i, r
		}
		if chosen < 0 {
			chosen, result = i, r
		}
	}
	return chosen, result
}

// order are the indexes of all, those with the evidence's measurement first.
func order(a Answer, all []refval.Values) []int {
	var fit, rest []int
	e, err := appraise.Read(a.Evidence, evidence.Plain)
	for i, v := range all {
		if err == nil && slices.ContainsFunc(v.Measurements, func(m refval.Measurement) bool { return m.Digest == e.Claims().Measurement }) {
			fit = append(fit, i)
		} else {
			rest = append(rest, i)
		}
	}
	return append(fit, rest...)
}

// Why says why the result is not trusted; nil if it is.
func (r Result) Why() error {
	if r.Trusted() {
		return nil
	}
	errs := []error{r.Err, r.Verdict.Err()}
	for _, c := range r.Disk {
		if !c.OK {
			errs = append(errs, c.Err)
		}
	}
	if r.Instance != nil && !r.Instance.OK {
		errs = append(errs, r.Instance.Err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return errors.New("nothing was judged")
}
