package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// columns is the width of wrapped prose (CONTRIBUTING.md).
const columns = 100

// long returns the numbers of the lines of prose in a document that are too long.
// Tables, headings, code and a line of one word have no other place to break.
func long(document string) []int {
	var found []int
	code, line := false, 0
	for text := range strings.Lines(document) {
		line++
		text = strings.TrimSuffix(text, "\n")
		if strings.HasPrefix(strings.TrimSpace(text), "```") {
			code = !code
		}
		if code || strings.HasPrefix(text, "|") || strings.HasPrefix(text, "#") {
			continue
		}
		if utf8.RuneCountInString(text) > columns && len(strings.Fields(strings.TrimLeft(text, " -*"))) > 1 {
			found = append(found, line)
		}
	}
	return found
}

// TestDocumentsAreWrapped checks every document but CHANGELOG.md, where an entry
// is one line so that two changes merge.
func TestDocumentsAreWrapped(t *testing.T) {
	root := needs.Repository(t)
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	if len(all) < 20 {
		t.Fatalf("got %d documents", len(all))
	}
	for _, path := range all {
		if filepath.Base(path) == "CHANGELOG.md" {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(path, root+"/")
		for _, line := range long(string(data)) {
			t.Errorf("%s:%d is longer than %d columns", name, line, columns)
		}
	}
}

// TestReadmeIsShort keeps the README short enough for a newcomer to read at once.
func TestReadmeIsShort(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(needs.Repository(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if words := len(strings.Fields(string(data))); words >= 600 {
		t.Errorf("README.md has %d words, want fewer than 600", words)
	}
}

func TestLong(t *testing.T) {
	x := strings.Repeat("word ", 21)
	got := long("short\n" + x + "\n| " + x + "|\n# " + x + "\n```\n" + x + "\n```\n- " + strings.Repeat("x", 120) + "\n- " + x + "\n")
	if len(got) != 2 || got[0] != 2 || got[1] != 9 {
		t.Errorf("got lines %v, want 2 and 9", got)
	}
}
