package attack

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// TestAttacks runs the tests of all rows whose ID matches ROOTVOUCH_ATTACK, a
// regular expression, and writes the results to docs/ATTACKS.md. In `make test` the
// variable is not set, and each test runs in its own package.
func TestAttacks(t *testing.T) {
	pattern := os.Getenv("ROOTVOUCH_ATTACK")
	if pattern == "" {
		t.Skip("SKIPPED: make attack runs the suite and writes its table")
	}
	chosen, err := regexp.Compile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	document := filepath.Join(needs.Repository(t), "docs", "ATTACKS.md")
	old, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	results := Results(old)
	groups := map[string][]Row{} // :: dir -> rows that its tests show
	var dirs []string
	for _, r := range Rows() {
		if r.Shown == "" || !chosen.MatchString(r.ID) {
			continue
		}
		dir, _, _ := split(r.Shown)
		if groups[dir] == nil {
			dirs = append(dirs, dir)
		}
		groups[dir] = append(groups[dir], r)
	}
	for _, dir := range dirs {
		t.Run(dir, func(t *testing.T) {
			seen := runTests(t, dir, groups[dir])
			for _, r := range groups[dir] {
				_, name, sub := split(r.Shown)
				if sub != "" {
					name += "/" + sub
				}
				got, ok := seen[name]
				if !ok {
					got = "FAILED: there is no test " + name
				}
				if results[r.ID] = got; !strings.HasPrefix(got, passed) {
					t.Errorf("%s: %s", r.ID, got)
				}
			}
			write(t, document, results) // a run that is cut short leaves what it saw
		})
	}
	write(t, document, results)
}

func write(t *testing.T, document string, results map[string]string) {
	t.Helper()
	if err := os.WriteFile(document, Format(Rows(), results), 0o644); err != nil {
		t.Fatal(err)
	}
}

// passed begins the result of a test that passed.
const passed = "as expected"

// split splits "directory.TestName/subtest" into its parts.
func split(shown string) (dir, name, sub string) {
	dot := strings.Index(shown, ".Test")
	name, sub, _ = strings.Cut(shown[dot+1:], "/")
	return shown[:dot], name, sub
}

// runTests runs the tests that show rows, and returns the result of each test and
// subtest.
func runTests(t *testing.T, dir string, rows []Row) map[string]string {
	t.Helper()
	var names []string
	for _, r := range rows {
		if _, name, _ := split(r.Shown); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	cmd := exec.Command("go", "test", "-json", "-count=1", "-timeout=80m", "-run", pattern(names, rows), "./"+dir)
	cmd.Dir = needs.Repository(t)
	cmd.Env = append(os.Environ(), "ROOTVOUCH_TEST=full", "ROOTVOUCH_VM=all", "ROOTVOUCH_ATTACK=")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	runErr := cmd.Run()
	seen := outcomes(t, out.Bytes())
	if len(seen) == 0 {
		t.Errorf("running the tests of %s: %v: %s", dir, runErr, strings.TrimSpace(stderr.String()))
	}
	return seen
}

// pattern selects the tests with these names. If the rows are of one test, it selects only the
// subtests that show them.
func pattern(names []string, rows []Row) string {
	selected := "^(" + strings.Join(names, "|") + ")$"
	var subs []string
	for _, r := range rows {
		_, _, sub := split(r.Shown)
		if sub, _, _ = strings.Cut(sub, "/"); sub == "" || len(names) > 1 {
			return selected
		}
		subs = append(subs, regexp.QuoteMeta(sub))
	}
	return selected + "/^(" + strings.Join(subs, "|") + ")$"
}

// outcomes reads the output of go test -json.
func outcomes(t *testing.T, output []byte) map[string]string {
	t.Helper()
	seen, observed, said := map[string]string{}, map[string]string{}, map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(output)); s.Scan(); {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(s.Bytes(), &e) != nil || e.Test == "" {
			continue // the compiler's words
		}
		switch e.Action {
		case "output":
			said[e.Test] += e.Output
			if _, what, ok := strings.Cut(e.Output, "observed: "); ok {
				observed[e.Test] = clean(what)
			}
		case "pass":
			seen[e.Test] = passed
			if what := observed[e.Test]; what != "" {
				seen[e.Test] += ": " + what
			}
		case "fail":
			seen[e.Test] = "FAILED"
			t.Logf("%s says:\n%s", e.Test, said[e.Test])
		case "skip":
			seen[e.Test] = NotRun + ": the test was skipped"
		}
	}
	return seen
}

// clean makes a line fit for a cell of a table.
func clean(s string) string {
	return strings.ReplaceAll(strings.TrimSpace(s), "|", "/")
}
