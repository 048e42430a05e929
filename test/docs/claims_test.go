package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// A citation is one test that a claim names.
type citation struct {
	line int
	text string // its text in the document
	// pkg ends the path of a package; name is a test or fuzz target, or empty for
	// all tests of the package; sub is a subtest, or empty.
	pkg, name, sub string
	prefix         bool // name is the beginning of several names
}

// spans matches text in backticks.
var spans = regexp.MustCompile("`([^`]+)`")

// citations reads the last cell of every row of a table that is headed "shown by".
// A span is "pkg.TestX", "pkg.TestX/sub", "TestX" or "/sub", the latter two of
// the package and test before it, or a package alone.
func citations(document string) []citation {
	var all []citation
	claims, line := false, 0
	for text := range strings.Lines(document) {
		line++
		cells := strings.Split(strings.Trim(strings.TrimSpace(text), "|"), "|")
		if !strings.HasPrefix(text, "|") {
			claims = false
			continue
		}
		last := strings.TrimSpace(cells[len(cells)-1])
		if last == "shown by" {
			claims = true
			continue
		}
		if !claims || strings.Trim(last, "-: ") == "" {
			continue
		}
		before := citation{}
		found := spans.FindAllStringSubmatch(last, -1)
		if found == nil {
			all = append(all, citation{line: line, text: last})
		}
		for _, span := range found {
			before = parse(span[1], before)
			before.line = line
			all = append(all, before)
		}
	}
	return all
}

// isTest reports whether go test runs functions of that name.
var isTest = regexp.MustCompile(`^(Test|Fuzz|Example)[A-Z0-9_]?\w*$`)

// parse reads one span; before is the citation before it in the row.
func parse(text string, before citation) citation {
	c := citation{text: text}
	rest := strings.TrimSuffix(text, "…")
	c.prefix = rest != text
	if sub, ok := strings.CutPrefix(rest, "/"); ok {
		c.pkg, c.name, c.sub = before.pkg, before.name, sub
		return c
	}
	dot := strings.LastIndexByte(rest, '.')
	switch function, sub, _ := strings.Cut(rest[dot+1:], "/"); {
	case isTest.MatchString(function):
		c.pkg, c.name, c.sub = before.pkg, function, sub
		if dot >= 0 {
			c.pkg = rest[:dot]
		}
	default:
		c.pkg = rest
	}
	return c
}

// TestClaims checks each citation against the sources.
func TestClaims(t *testing.T) {
	root := needs.Repository(t)
	document, err := os.ReadFile(filepath.Join(root, "docs", "THREATS.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := citations(string(document))
	if len(all) < 100 {
		t.Errorf("docs/THREATS.md names %d tests; were its tables found?", len(all))
	}
	suites := parseSuites(t, root)
	for _, c := range all {
		for _, problem := range suites.check(c) {
			t.Errorf("docs/THREATS.md:%d: %s: %s", c.line, c.text, problem)
		}
	}
}

// TestHelpersDoNotSkip checks that shared helpers skip tests only through
// internal/needs, which decides whether a part may be missing.
func TestHelpersDoNotSkip(t *testing.T) {
	for _, s := range parseSuites(t, needs.Repository(t)) {
		if !strings.HasPrefix(s.dir, "test/") {
			continue
		}
		for name, f := range s.functions {
			if f.helper && f.skips != "" {
				t.Errorf("%s.%s calls %s", s.dir, name, f.skips)
			}
		}
	}
}

// TestCitations reads every form of a citation.
func TestCitations(t *testing.T) {
	got := citations("| claim | shown by |\n|---|---|\n| a | `x.TestA`, `FuzzB`, `y/z.TestC/sub_test`, `/other` |\n| b | `w.TestD…`, `test/w` |\n| c | nothing |\n\n| asset | what |\n| d | `not.TestThis` |\n")
	want := []citation{
		{3, "x.TestA", "x", "TestA", "", false}, {3, "FuzzB", "x", "FuzzB", "", false}, {3, "y/z.TestC/sub_test", "y/z", "TestC", "sub_test", false},
		{3, "/other", "y/z", "TestC", "other", false}, {4, "w.TestD…", "w", "TestD", "", true}, {4, "test/w", "test/w", "", "", false}, {5, "nothing", "", "", "", false},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
}

// TestCheckCanFail checks that the checks fail for bad citations.
func TestCheckCanFail(t *testing.T) {
	s := suites{{dir: "a/b", functions: map[string]*function{
		"TestGood":    {test: true, literals: map[string]bool{"a case": true}},
		"TestSkips":   {test: true, calls: []string{"helper"}},
		"helper":      {skips: "t.Skip"},
		"TestVectors": {test: true, skips: "needs.Vectors"},
	}}, {dir: "c/b"}}
	for _, c := range []struct {
		citation
		want string
	}{
		{citation{pkg: "a/b", name: "TestGood", sub: "a_case"}, ""},
		{citation{pkg: "a/b", name: "TestG", prefix: true}, ""},
		{citation{pkg: "a/b", name: "TestGood", sub: "another"}, "no subtest"},
		{citation{pkg: "a/b", name: "TestAbsent"}, "no such test"},
		{citation{pkg: "a/b", name: "helper"}, "no such test"},
		{citation{pkg: "a/b", name: "TestSkips"}, "helper may skip it: t.Skip"},
		{citation{pkg: "a/b", name: "TestVectors"}, "TestVectors may skip it: needs.Vectors"},
		{citation{pkg: "a/b"}, "may skip it"},
		{citation{pkg: "b", name: "TestGood"}, "two packages"},
		{citation{pkg: "x", name: "TestGood"}, "no such package"},
		{citation{}, "no test is named"},
	} {
		got := strings.Join(s.check(c.citation), "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%+v: got %q, want %q", c.citation, got, c.want)
		}
	}
}
