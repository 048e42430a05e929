package attack

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// TestRows checks that each row names an existing test and an existing claim.
func TestRows(t *testing.T) {
	root := needs.Repository(t)
	threats, err := os.ReadFile(filepath.Join(root, "docs", "THREATS.md"))
	if err != nil {
		t.Fatal(err)
	}
	id := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	ids, shown := map[string]bool{}, 0
	for _, r := range Rows() {
		if !id.MatchString(r.ID) || ids[r.ID] {
			t.Errorf("ID %q is not one, or there twice", r.ID)
		}
		ids[r.ID] = true
		for _, cell := range []string{r.Input, r.Attack, r.Expected, r.Claim} {
			if cell == "" || strings.Contains(cell, "|") {
				t.Errorf("%s: a cell is %q", r.ID, cell)
			}
		}
		if !bytes.Contains(threats, []byte(r.Claim)) {
			t.Errorf("%s: docs/THREATS.md does not say %q", r.ID, r.Claim)
		}
		if (r.Shown == "") == (r.Hardware == "") {
			t.Errorf("%s: shown by %q, needs hardware for %q: want one of them", r.ID, r.Shown, r.Hardware)
		}
		if r.Shown == "" {
			continue
		}
		shown++
		dir, name, sub := split(r.Shown)
		if !declared(t, filepath.Join(root, dir), name, sub) {
			t.Errorf("%s: there is no test %s in %s, or none with the subtest %q", r.ID, name, dir, sub)
		}
	}
	if shown < 80 {
		t.Errorf("%d rows are shown by tests, want at least 80", shown)
	}
}

// declared reports whether a directory has a test function of that name, and names
// the subtest: in the text of its tests or as a script.
func declared(t *testing.T, dir, name, sub string) bool {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	function, subtest := false, sub == ""
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		function = function || bytes.Contains(text, []byte("\nfunc "+name+"("))
		// The sources have the name of a subtest as a string. The name of a test
		// has underscores in place of its spaces.
		subtest = subtest || strings.Contains(strings.ReplaceAll(string(text), " ", "_"), `"`+sub+`"`)
	}
	if _, err := os.Stat(filepath.Join(dir, "testdata", "script", sub+".txtar")); err == nil {
		subtest = true
	}
	return function && subtest
}

// TestDocument checks that docs/ATTACKS.md has these rows, and that no row has a
// result that no run gives.
func TestDocument(t *testing.T) {
	got, err := os.ReadFile(filepath.Join(needs.Repository(t), "docs", "ATTACKS.md"))
	if err != nil {
		t.Fatal(err)
	}
	results := Results(got)
	for id, result := range results {
		if result != NeedsHardware && !strings.HasPrefix(result, NotRun) && !strings.HasPrefix(result, passed) && id != "attack" {
			t.Errorf("%s: the result is %q", id, result)
		}
	}
	if want := Format(Rows(), results); !bytes.Equal(got, want) {
		t.Error("docs/ATTACKS.md has other rows than Rows: run make attack, or make attack ATTACK=rows-alone for the rows without a run")
	}
}

func TestOutcomes(t *testing.T) {
	got := outcomes(t, []byte(`{"Action":"output","Test":"TestA/x","Output":"    machine.go:1: observed: refused: verify: a|b\n"}
not JSON
{"Action":"pass","Test":"TestA/x"}
{"Action":"fail","Test":"TestA"}
{"Action":"skip","Test":"TestB"}
{"Action":"pass"}
`))
	want := map[string]string{"TestA/x": "as expected: refused: verify: a/b", "TestA": "FAILED", "TestB": "not run: the test was skipped"}
	for name, result := range want {
		if got[name] != result {
			t.Errorf("%s: got %q, want %q", name, got[name], result)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
}

func TestPattern(t *testing.T) {
	row := func(shown string) Row { return Row{Shown: shown} }
	for want, rows := range map[string][]Row{
		"^(TestA|TestB)$":         {row("boot.TestA/one"), row("boot.TestB")},
		"^(TestA)$":               {row("boot.TestA/one"), row("boot.TestA")},
		`^(TestA)$/^(one|t\.wo)$`: {row("boot.TestA/one/in"), row("boot.TestA/t.wo")},
	} {
		var names []string
		for _, r := range rows {
			if _, name, _ := split(r.Shown); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		if got := pattern(names, rows); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
