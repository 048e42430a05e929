package commands

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// everywhere are the statuses that any command may end with.
var everywhere = []int{0, 1, 64, 130}

var (
	statusRow   = regexp.MustCompile("(?m)^\\| (?:`([a-z -]+)`[^|]*)?\\| ([0-9]+) \\| .+ \\|$")
	statusHelp  = regexp.MustCompile(`(?is)\bexit status\b(.*?)(?:\n\n|$)`)
	statusGuest = regexp.MustCompile(`\b[0-9]{1,3}\b`)
)

// documented reads the second table of docs/exit-status.md: the statuses of each command.
func documented(page string) map[string][]int {
	rows := map[string][]int{}
	command := ""
	for _, m := range statusRow.FindAllStringSubmatch(page, -1) {
		if m[1] != "" {
			command = m[1]
		}
		if n, err := strconv.Atoi(m[2]); err == nil && command != "" {
			rows[command] = append(rows[command], n)
		}
	}
	return rows
}

// special are the statuses that a help names and that not every command has.
func special(help string) []int {
	long, _, _ := strings.Cut(help, "\nUsage:")
	var found []int
	for _, m := range statusHelp.FindAllStringSubmatch(long, -1) {
		for _, text := range statusGuest.FindAllString(m[1], -1) {
			if n, err := strconv.Atoi(text); err == nil && !slices.Contains(everywhere, n) {
				found = append(found, n)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// testStatuses holds docs/exit-status.md against the help of each command, and against what
// the programs do.
func testStatuses(t *testing.T, bin string, pages map[string]string) {
	page, err := os.ReadFile(filepath.Join(needs.Repository(t), "docs", "exit-status.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := documented(string(page))
	for command, help := range pages {
		name := strings.TrimPrefix(command, "rootvouch ")
		want := special(help)
		var got []int
		for _, n := range rows[name] {
			if !slices.Contains(everywhere, n) {
				got = append(got, n)
			}
		}
		if command != "fetchkey" && !slices.Equal(got, want) {
			t.Errorf("docs/exit-status.md has statuses %v of %q, and its help has %v", got, command, want)
		}
		if statusHelp.MatchString(help) && rows[name] == nil {
			t.Errorf("%q has statuses in its help, and no row in docs/exit-status.md", command)
		}
	}
	for name := range rows {
		if pages["rootvouch "+name] == "" && pages[name] == "" {
			t.Errorf("docs/exit-status.md has a row of %q, which is no command", name)
		}
	}
	for _, c := range []struct {
		want    int
		command string
	}{
		{0, "rootvouch version"},
		{64, "rootvouch" + " nothing"},
		{64, "rootvouch-kms nothing"},
		{64, "rootvouch-spire nothing"},
		{64, "rootvouch spire nothing"},
		{64, "rootvouch attest"},
		{2, "rootvouch attest --address 127.0.0.1:1 --refval none.json --collateral-dir none"},
		{64, "rootvouch report show none"},
		{3, "rootvouch report show text"},
		{64, "rootvouch refval check none"},
		{1, "rootvouch refval check text"},
		{64, "rootvouch vm run --platform emulated"},
		{64, "rootvouch-kms serve"},
		{1, "rootvouch-kms serve --config text"},
		{1, "fetchkey"},
		{2, "fetchkey -help"},
		{1, "attestd"},
	} {
		words := strings.Fields(c.command)
		cmd := exec.Command(filepath.Join(bin, words[0]), words[1:]...)
		cmd.Dir = t.TempDir()
		if err := os.WriteFile(filepath.Join(cmd.Dir, "text"), []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		if ended, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || cmd.ProcessState.ExitCode() != c.want {
			t.Errorf("%s: %v (%v), want status %d\n%s", c.command, err, ended, c.want, out)
		}
	}
}

// TestStatusesCanBeFound holds the readers to a help and a table.
func TestStatusesCanBeFound(t *testing.T) {
	if got := special("Does.\n\nExit status: 0 well, 3 ill,\n4 worse, 64 usage.\n\nWaits 7 s.\n\nUsage:\n  exit status 9"); !slices.Equal(got, []int{3, 4}) {
		t.Errorf("got %v, want 3 and 4", got)
	}
	got := documented("| 0 | general |\n\n| `a b` | 1 | no |\n| | 3 | ill |\n| `c` (in the guest) | 2 | help |\n")
	if len(got) != 2 || !slices.Equal(got["a b"], []int{1, 3}) || !slices.Equal(got["c"], []int{2}) {
		t.Errorf("got %v", got)
	}
}
