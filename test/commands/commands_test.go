package commands

import (
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// use is one flag of one command.
type use struct{ command, name, help string }

// thing returns the help of a flag without the text in parentheses, which holds the
// default and details of the command.
func (u use) thing() string {
	thing, _, _ := strings.Cut(u.help, " (")
	return thing
}

// conflicts lists flags of one name with two meanings, and meanings with two names.
func conflicts(all []use) []string {
	var found []string
	things, names := map[string]use{}, map[string]use{} // :: name -> its first use; thing -> its first use
	for _, u := range all {
		if first, ok := things[u.name]; !ok {
			things[u.name] = u
		} else if first.thing() != u.thing() {
			found = append(found, fmt.Sprintf("--%s is %q in %q and %q in %q", u.name, first.thing(), first.command, u.thing(), u.command))
		}
		if first, ok := names[u.thing()]; !ok {
			names[u.thing()] = u
		} else if first.name != u.name {
			found = append(found, fmt.Sprintf("%q is --%s in %q and --%s in %q", u.thing(), first.name, first.command, u.name, u.command))
		}
	}
	return found
}

// TestTrees walks the trees of all programs that have flags: the owner's side and
// the guest's.
func TestTrees(t *testing.T) {
	bin := build(t)
	pages := helpOf(t, bin)
	t.Run("one name for one thing", func(t *testing.T) {
		for _, conflict := range conflicts(uses(pages)) {
			t.Error(conflict)
		}
	})
	t.Run("one word for one thing", func(t *testing.T) {
		folder := regexp.MustCompile(`(?i)\bfolders?\b`)
		for command, help := range pages {
			if folder.MatchString(help) {
				t.Errorf("%s --help says folder, want directory", command)
			}
		}
	})
	t.Run("exit statuses", func(t *testing.T) { testStatuses(t, bin, pages) })
	t.Run("the walk sees the ends of the trees", func(t *testing.T) {
		seen := map[string]bool{}
		for _, u := range uses(pages) {
			seen[u.command+" --"+u.name] = true
		}
		for _, want := range []string{"rootvouch measure id-block check --id-auth", "rootvouch keys put --key", "rootvouch spire entries --kms", "rootvouch-kms audit verify --log-key", "attestd --boot-log", "fetchkey --disk-uuid"} {
			if !seen[want] {
				t.Errorf("the walk did not see %q, but %d others", want, len(seen))
			}
		}
	})
}

// TestConflictsCanBeFound checks that the test finds known conflicts.
func TestConflictsCanBeFound(t *testing.T) {
	good := []use{{"a", "disk", "path of a disk (of a VM)"}, {"b", "disk", "path of a disk"}, {"b", "uuid", "UUID of a disk"}}
	if got := conflicts(good); len(got) > 0 {
		t.Errorf("got %q, want nothing", got)
	}
	for _, bad := range []use{{"c", "disk", "UUID of another disk"}, {"c", "disk-uuid", "UUID of a disk (default: none)"}} {
		if got := conflicts(append(slices.Clone(good), bad)); len(got) != 1 {
			t.Errorf("%+v: got %q, want one conflict", bad, got)
		}
	}
}

var (
	flagLine    = regexp.MustCompile(`(?m)^ +(?:-\w, +)?--([a-z0-9-]+)(?: \S+)?  +(.+)$`)
	guestFlag   = regexp.MustCompile(`(?m)^  -([a-z0-9-]+)(?: \S+)?\n    \t(.+)$`) // as package flag prints it
	commandLine = regexp.MustCompile(`(?m)^  ([a-z0-9-]+) +\S.*$`)
)

func uses(pages map[string]string) []use {
	var all []use
	for _, command := range slices.Sorted(maps.Keys(pages)) {
		_, flags, _ := strings.Cut(pages[command], "\nFlags:\n")
		for _, m := range append(flagLine.FindAllStringSubmatch(flags, -1), guestFlag.FindAllStringSubmatch(pages[command], -1)...) {
			if m[1] != "help" && m[1] != "version" {
				all = append(all, use{command, m[1], m[2]})
			}
		}
	}
	return all
}

// build builds the programs that have flags into a directory.
func build(t *testing.T) (bin string) {
	t.Helper()
	bin = t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./cmd/rootvouch", "./cmd/rootvouch-spire", "./cmd/rootvouch-kms", "./cmd/attestd", "./cmd/fetchkey")
	build.Dir = needs.Repository(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// helpOf returns the help of each command of the programs.
func helpOf(t *testing.T, bin string) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, program := range []string{"rootvouch", "rootvouch-kms"} {
		walk(t, bin, pages, program)
	}
	for _, program := range []string{"attestd", "fetchkey"} {
		out, err := exec.Command(filepath.Join(bin, program), "-help").CombinedOutput()
		if _, refused := errors.AsType[*exec.ExitError](err); err != nil && !refused { // fetchkey's status 0 says that a key was written
			t.Fatalf("%s -help: %v", program, err)
		}
		pages[program] = string(out)
	}
	return pages
}

func walk(t *testing.T, bin string, pages map[string]string, words ...string) {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, words[0]), append(slices.Clone(words[1:]), "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v --help: %v\n%s", words, err, out)
	}
	command := strings.Join(words, " ")
	pages[command] = string(out)
	_, rest, ok := strings.Cut(string(out), "\nAvailable Commands:\n")
	if command == "rootvouch spire" && !ok {
		t.Fatalf("rootvouch spire --help lists no commands:\n%s", out)
	}
	list, _, _ := strings.Cut(rest, "\n\n")
	for _, m := range commandLine.FindAllStringSubmatch(list, -1) {
		if m[1] != "help" && m[1] != "completion" {
			walk(t, bin, pages, append(slices.Clone(words), m[1])...)
		}
	}
}
