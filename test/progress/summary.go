package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// slowest is the number of packages in the summary.
const slowest = 8

// summarize prints the summary, with the verdict last.
func (r *results) summarize(out io.Writer, took time.Duration) {
	for _, u := range slices.SortedFunc(maps.Values(r.open), func(a, b *unit) int { return cmp.Compare(a.name, b.name) }) {
		u.action = "fail" // go test ended before the package
		r.ended = append(r.ended, u)
	}
	clear(r.open)
	r.printFailed(out)
	r.printSlowest(out)
	if n := sum(r.skipped); n > 0 {
		fmt.Fprintf(out, "\nskipped: %s\n", count(n, "test"))
		reasons := slices.SortedFunc(maps.Keys(r.skipped), func(a, b string) int {
			return cmp.Or(cmp.Compare(r.skipped[b], r.skipped[a]), cmp.Compare(a, b))
		})
		for _, reason := range reasons {
			fmt.Fprintf(out, "%6d  %s\n", r.skipped[reason], reason)
		}
	}
	tests, cached, without := 0, 0, 0
	for _, u := range r.ended {
		tests += u.tests
		if u.cached {
			cached++
		}
		if u.action == "skip" {
			without++
		}
	}
	verdict := "all well"
	if n := r.failures(); n > 0 {
		verdict = "FAILED: " + count(n, "package")
	}
	fmt.Fprintf(out, "\ntotal: %s in %s (%d unchanged since an earlier run), %d without tests; %s; %s\n",
		count(tests, "test"), count(len(r.ended)-without, "package"), cached, without, took.Round(time.Second), verdict)
}

// printFailed prints the output of each failed test and build, whole.
func (r *results) printFailed(out io.Writer) {
	for _, name := range slices.Sorted(maps.Keys(r.builds)) {
		if text := r.builds[name].String(); text != "" {
			fmt.Fprintf(out, "\n=== build of %s\n%s", name, text)
		}
	}
	for _, u := range r.ended {
		if u.action != "fail" {
			continue
		}
		for _, test := range append(slices.Clone(u.order), "") {
			if text := u.output[test]; text != nil {
				fmt.Fprintf(out, "\n=== %s\n%s", strings.TrimSpace(u.name+" "+test), text)
			}
		}
	}
}

func (r *results) printSlowest(out io.Writer) {
	ran := slices.DeleteFunc(slices.Clone(r.ended), func(u *unit) bool { return u.cached || u.action == "skip" })
	slices.SortStableFunc(ran, func(a, b *unit) int { return cmp.Compare(b.elapsed, a.elapsed) })
	if len(ran) == 0 {
		return
	}
	fmt.Fprintln(out, "\nslowest:")
	for _, u := range ran[:min(slowest, len(ran))] {
		fmt.Fprintf(out, "%8.1fs  %s\n", u.elapsed, u.name)
	}
}

func sum(counts map[string]int) int {
	total := 0
	for _, n := range counts {
		total += n
	}
	return total
}
