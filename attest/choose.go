package attest

import (
	"errors"
	"slices"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/refval"
)

// JudgeByOneOf judges an answer by several sets of reference values, such as those of a
// VM's releases. It returns the result by the first set that trusts the answer, and the
// index of that set. If none trusts it, the result is that of the first set with the
// evidence's measurement, or else of the first set. Without sets the index is -1.
// JudgeByOneOf ignores x.Values.
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

// order returns all indexes, those with the evidence's measurement first.
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

// Why returns the reason why the result is not trusted, or nil if it is.
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
