package arch

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath string
	Dir        string
	Standard   bool
	Imports    []string
	GoFiles    []string
}

// load lists this module's packages and all they need, without tests.
func load(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,Standard,Imports,GoFiles", "./...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]goPackage{}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// matches reports whether path is named by a pattern of the table.
func matches(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	}
	return path == pattern
}

func anyMatches(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

// roomOf finds the room of a directory of this module: the first that names it.
func roomOf(dir string) (room, bool) {
	for _, r := range rooms {
		if anyMatches(r.packages, dir) {
			return r, true
		}
	}
	return room{}, false
}

func TestImports(t *testing.T) {
	all := load(t)
	for path, p := range all {
		dir, ours := strings.CutPrefix(path, module+"/")
		if !ours {
			continue
		}
		r, ok := roomOf(dir)
		if !ok {
			t.Errorf("%s has no room in the table", dir)
			continue
		}
		for _, imported := range p.Imports {
			if to, ours := strings.CutPrefix(imported, module+"/"); ours {
				inside := r.within && anyMatches(r.packages, to)
				if !inside && !anyMatches(r.uses, to) && !anyMatches(ground, to) {
					t.Errorf("%s (%s) imports %s, which the table does not allow", dir, r.name, to)
				}
			}
			if anyMatches(r.neverDirect, imported) {
				t.Errorf("%s (%s) imports %s itself", dir, r.name, imported)
			}
		}
		for _, chain := range reach(all, path, r.never) {
			t.Errorf("%s (%s) must never reach %s, but does: %s", dir, r.name, chain[len(chain)-1], strings.Join(chain, " > "))
		}
		if r.pure {
			refuseClock(t, dir, p)
		}
	}
}

// TestGrantsAreUsed holds each granted import against the code: a grant that
// no import uses stays open for any later one.
func TestGrantsAreUsed(t *testing.T) {
	all := load(t)
	used := map[string]bool{}
	for path, p := range all {
		dir, ours := strings.CutPrefix(path, module+"/")
		r, ok := roomOf(dir)
		if !ours || !ok {
			continue
		}
		for _, imported := range p.Imports {
			for _, grant := range r.uses {
				if matches(grant, strings.TrimPrefix(imported, module+"/")) {
					used[r.name+" "+grant] = true
				}
			}
		}
	}
	for _, r := range rooms {
		for _, grant := range r.uses {
			// Tests' imports are not listed, and the top floor's are all tests'.
			if grant != "..." && !used[r.name+" "+grant] {
				t.Errorf("%s: the grant %q is used by nobody", r.name, grant)
			}
		}
	}
}

// TestTableRunsByFloor checks that a room's grants name rooms above it in the
// table, which is below it in the house.
func TestTableRunsByFloor(t *testing.T) {
	for dir := range ourDirs(load(t)) {
		at := slices.IndexFunc(rooms, func(r room) bool { return anyMatches(r.packages, dir) })
		for i, r := range rooms {
			if i < at && anyMatches(r.uses, dir) {
				t.Errorf("%s uses %s of the later room %s", r.name, dir, rooms[at].name)
			}
		}
	}
}

// TestKeyServerIsWhole checks that what must never reach the key server is held
// against all of it.
func TestKeyServerIsWhole(t *testing.T) {
	for dir := range ourDirs(load(t)) {
		r, _ := roomOf(dir)
		if r.name == "role: the key server" && !strings.HasPrefix(dir, "cmd/") && !anyMatches(keyServer, module+"/"+dir) {
			t.Errorf("keyServer does not name %s", dir)
		}
	}
}

// ourDirs are the directories of this module that hold packages.
func ourDirs(all map[string]goPackage) map[string]bool {
	found := map[string]bool{}
	for path := range all {
		if dir, ours := strings.CutPrefix(path, module+"/"); ours {
			found[dir] = true
		}
	}
	return found
}

// reach returns the shortest chain from a package to each forbidden one. Chains
// end at the standard library.
func reach(all map[string]goPackage, from string, never []string) [][]string {
	var found [][]string
	seen := map[string]bool{from: true}
	for queue := [][]string{{from}}; len(queue) > 0; queue = queue[1:] {
		chain := queue[0]
		p := all[chain[len(chain)-1]]
		if p.Standard {
			continue
		}
		for _, next := range p.Imports {
			if seen[next] {
				continue
			}
			seen[next] = true
			longer := append(slices.Clone(chain), next)
			if anyMatches(never, next) || anyMatches(never, strings.TrimPrefix(next, module+"/")) {
				found = append(found, longer)
				continue
			}
			queue = append(queue, longer)
		}
	}
	return found
}

// refuseClock finds calls of the clock in a package that must not have one.
func refuseClock(t *testing.T, dir string, p goPackage) {
	for _, file := range p.GoFiles {
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, filepath.Join(p.Dir, file), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			selector, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := selector.X.(*ast.Ident); ok && x.Name == "time" &&
				slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}, selector.Sel.Name) {
				t.Errorf("%s/%s reaches for the clock: time.%s", dir, file, selector.Sel.Name)
			}
			return true
		})
	}
}

// TestTableCanFail holds the test itself to a case that must be found.
func TestTableCanFail(t *testing.T) {
	all := map[string]goPackage{
		"a": {Imports: []string{"b", "fmt"}}, "b": {Imports: []string{"net/http"}},
		"net/http": {Standard: true, Imports: []string{"crypto/tls"}}, "fmt": {Standard: true},
	}
	if got := reach(all, "a", []string{"net/..."}); len(got) != 1 || strings.Join(got[0], ">") != "a>b>net/http" {
		t.Errorf("got %v, want the chain a>b>net/http", got)
	}
	if got := reach(all, "a", []string{"crypto/tls"}); len(got) != 0 {
		t.Errorf("got %v, want nothing: the standard library's own imports do not count", got)
	}
}
