package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// event is a line of `go test -json` (go doc test2json, go help buildjson).
type event struct {
	Time        time.Time
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	Test        string
	Elapsed     float64 // seconds
	Output      string
	FailedBuild string
}

// results holds the results of the events so far.
type results struct {
	total   int
	ended   []*unit
	open    map[string]*unit            // :: package -> its results while its tests run
	builds  map[string]*strings.Builder // :: import path -> output of the compiler or vet
	skipped map[string]int              // :: reason -> tests
}

// unit is a package and its tests.
type unit struct {
	path    string // of the package
	name    string // the path in its module
	started time.Time
	elapsed float64 // seconds
	action  string  // pass, fail or skip, once the package has ended
	cached  bool
	tests   int // top-level tests that ended
	skipped int
	order   []string                    // tests that began and have not passed
	output  map[string]*strings.Builder // :: test, or "" for the package -> its output
	build   string                      // the import path whose build failed
}

func newResults(total int) *results {
	return &results{total: total, open: map[string]*unit{}, builds: map[string]*strings.Builder{}, skipped: map[string]int{}}
}

// take reads a line of go test and returns the text to print at once. A line that
// is no event is printed unchanged.
func (r *results) take(line []byte) string {
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		return string(line)
	}
	switch e.Action {
	case "build-output":
		write(r.builds, e.ImportPath, e.Output)
		return ""
	case "build-fail":
		write(r.builds, e.ImportPath, "")
		return ""
	}
	if e.Package == "" {
		return ""
	}
	u := r.open[e.Package]
	if u == nil {
		u = &unit{path: e.Package, name: short(e.Package), started: e.Time, output: map[string]*strings.Builder{}}
		r.open[e.Package] = u
	}
	if e.Test != "" {
		r.takeTest(u, e)
		return ""
	}
	switch e.Action {
	case "output":
		write(u.output, "", e.Output)
		u.cached = u.cached || strings.HasPrefix(e.Output, "ok ") && strings.Contains(e.Output, "\t(cached)")
	case "pass", "fail", "skip":
		u.action, u.elapsed, u.build = e.Action, e.Elapsed, e.FailedBuild
		delete(r.open, e.Package)
		r.ended = append(r.ended, u)
		return r.line(u)
	}
	return ""
}

// takeTest keeps the output of a test until the test passes.
func (r *results) takeTest(u *unit, e event) {
	switch e.Action {
	case "run":
		u.order = append(u.order, e.Test)
	case "output":
		if !marker(e.Output) {
			write(u.output, e.Test, e.Output)
		}
	case "skip":
		u.skipped++
		r.skipped[reason(u.output[e.Test])]++
		u.forget(e.Test)
	case "pass":
		u.forget(e.Test)
	}
	if !strings.Contains(e.Test, "/") && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
		u.tests++
	}
}

func (u *unit) forget(test string) {
	delete(u.output, test)
	u.order = slices.DeleteFunc(u.order, func(name string) bool { return name == test })
}

// marker reports whether a line of output only names the test of the next lines.
func marker(line string) bool {
	return slices.ContainsFunc([]string{"=== RUN ", "=== PAUSE ", "=== CONT ", "=== NAME "}, func(prefix string) bool {
		return strings.HasPrefix(line, prefix)
	})
}

// reason returns why a test was skipped: its log, without file and line.
func reason(output *strings.Builder) string {
	if output == nil {
		return "no reason given"
	}
	for line := range strings.Lines(output.String()) {
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			if _, text, ok = strings.Cut(text, ": "); ok {
				if text = strings.TrimPrefix(strings.TrimSpace(text), "SKIPPED: "); text != "" {
					return text
				}
			}
		}
	}
	return "no reason given"
}

// line returns the line for a package that ended: go test's own line, which other
// tools read, the number of packages that have ended, of how many, and the results
// of the tests.
func (r *results) line(u *unit) string {
	if u.action == "skip" {
		return fmt.Sprintf("?   \t%s\t[no test files]\n", u.path)
	}
	word, took := "ok  ", fmt.Sprintf("%.3fs", u.elapsed)
	what := count(u.tests, "test")
	if u.skipped > 0 {
		what += fmt.Sprintf(", %d skipped", u.skipped)
	}
	if u.cached {
		took = "(cached)"
	}
	if u.action == "fail" {
		word, what = "FAIL", strings.Join(u.bad(), ", ")
	}
	return fmt.Sprintf("%s\t%s\t%s\t[%d/%d: %s]\n", word, u.path, took, len(r.ended), r.total, what)
}

// bad names what failed in a package: the tests at whose end no other test is to blame.
func (u *unit) bad() []string {
	if u.build != "" {
		return []string{"the build failed"}
	}
	var leaves []string
	for _, test := range u.order {
		if !slices.ContainsFunc(u.order, func(other string) bool { return strings.HasPrefix(other, test+"/") }) {
			leaves = append(leaves, test)
		}
	}
	if len(leaves) == 0 {
		return []string{"no test, but the package"}
	}
	return leaves
}

// running names the packages whose tests run, the longest first, each with the test
// that began last.
func (r *results) running(now time.Time) string {
	units := slices.SortedFunc(maps.Values(r.open), func(a, b *unit) int { return a.started.Compare(b.started) })
	var each []string
	for _, u := range units {
		text := fmt.Sprintf("%s %s", u.name, now.Sub(u.started).Round(time.Second))
		if n := len(u.order); n > 0 {
			text += " (" + u.order[n-1] + ")"
		}
		each = append(each, text)
	}
	if len(each) == 0 {
		return "test: building\n"
	}
	return "test: running: " + strings.Join(each, ", ") + "\n"
}

func (r *results) failures() int {
	n := 0
	for _, u := range r.ended {
		if u.action == "fail" {
			n++
		}
	}
	return n + len(r.open)
}

// short is a package's path in its module.
func short(pkg string) string {
	parts := strings.Split(pkg, "/")
	if len(parts) > 3 {
		return path.Join(parts[3:]...)
	}
	return pkg
}

func write(to map[string]*strings.Builder, key, text string) {
	if to[key] == nil {
		to[key] = &strings.Builder{}
	}
	to[key].WriteString(text)
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
