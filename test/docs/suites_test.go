package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A suite holds the tests of one package.
type suite struct {
	dir       string               // below the repository
	functions map[string]*function // :: name -> function of a test file, or of a helper package
	scripts   map[string]bool      // :: file names in testdata/script, without suffix
}

type function struct {
	test     bool
	helper   bool            // not in a test file
	calls    []string        // names of functions and methods that it mentions
	skips    string          // the call that may skip a test in full mode
	literals map[string]bool // its strings: names of subtests are among them
}

type suites []*suite

// parseSuites reads every test file of the repository, and the helpers below test.
func parseSuites(t *testing.T, root string) suites {
	t.Helper()
	byDir := map[string]*suite{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		if e.IsDir() && (strings.HasPrefix(e.Name(), ".") && path != root || e.Name() == "bin" || e.Name() == "out" || e.Name() == "tools") {
			return fs.SkipDir
		}
		if base, ok := strings.CutSuffix(e.Name(), ".txtar"); ok {
			s := suiteOf(byDir, strings.TrimSuffix(dir, "/testdata/script"))
			s.scripts[base] = true
			return nil
		}
		isTestFile := strings.HasSuffix(path, "_test.go")
		if !isTestFile && !(strings.HasSuffix(path, ".go") && strings.HasPrefix(dir, "test/")) {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		suiteOf(byDir, dir).add(file, !isTestFile)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var all suites
	for _, s := range byDir {
		all = append(all, s)
	}
	return all
}

func suiteOf(byDir map[string]*suite, dir string) *suite {
	if byDir[dir] == nil {
		byDir[dir] = &suite{dir: dir, functions: map[string]*function{}, scripts: map[string]bool{}}
	}
	return byDir[dir]
}

// add adds the functions of a file. It ignores the receiver of a method, so two
// methods of one name count as one.
func (s *suite) add(file *ast.File, helper bool) {
	for _, declaration := range file.Decls {
		f, ok := declaration.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		found := s.functions[f.Name.Name]
		if found == nil {
			found = &function{literals: map[string]bool{}, helper: helper}
			s.functions[f.Name.Name] = found
		}
		found.test = f.Recv == nil && isTest.MatchString(f.Name.Name)
		ast.Inspect(f.Body, found.look)
	}
}

// look notes the relevant parts of one node of a function's body.
func (f *function) look(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.Ident:
		f.calls = append(f.calls, n.Name)
	case *ast.BasicLit:
		if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
			f.literals[text] = true
		}
	case *ast.SelectorExpr:
		x, ok := n.X.(*ast.Ident)
		if ok && x.Name == "needs" && n.Sel.Name == "Vectors" || slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, n.Sel.Name) {
			f.skips = n.Sel.Name
			if ok {
				f.skips = x.Name + "." + n.Sel.Name
			}
		}
	}
	return true
}

// check returns the faults of a citation.
func (all suites) check(c citation) []string {
	if c.pkg == "" {
		return []string{"no test is named"}
	}
	s, problem := all.find(c.pkg)
	if problem != "" {
		return []string{problem}
	}
	var problems []string
	found := false
	for name, f := range s.functions {
		if !f.test || c.name != "" && name != c.name && !(c.prefix && strings.HasPrefix(name, c.name)) {
			continue
		}
		found = true
		if skips := s.skips(name); skips != "" {
			problems = append(problems, skips)
		}
	}
	if !found {
		return append(problems, "no such test in "+s.dir)
	}
	if c.sub != "" && !s.hasSubtest(c.sub) {
		problems = append(problems, "no subtest of that name in "+s.dir)
	}
	return problems
}

// find returns the suite whose directory ends in pkg.
func (all suites) find(pkg string) (*suite, string) {
	var found []*suite
	for _, s := range all {
		if s.dir == pkg {
			return s, ""
		}
		if strings.HasSuffix(s.dir, "/"+pkg) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return nil, "no such package with tests: " + pkg
	case 1:
		return found[0], ""
	}
	return nil, fmt.Sprintf("two packages end in %s: %s and %s", pkg, found[0].dir, found[1].dir)
}

// skips returns which function that a test reaches may skip it, or "".
func (s *suite) skips(test string) string {
	seen := map[string]bool{test: true}
	for queue := []string{test}; len(queue) > 0; queue = queue[1:] {
		f := s.functions[queue[0]]
		if f.skips != "" {
			return queue[0] + " may skip it: " + f.skips
		}
		for _, name := range f.calls {
			if s.functions[name] != nil && !seen[name] {
				seen[name] = true
				queue = append(queue, name)
			}
		}
	}
	return ""
}

// hasSubtest reports whether the package has a string that names the subtest, as
// package testing rewrites it, or a script of that name.
func (s *suite) hasSubtest(sub string) bool {
	if s.scripts[sub] {
		return true
	}
	for _, f := range s.functions {
		for text := range f.literals {
			if strings.ReplaceAll(text, " ", "_") == sub {
				return true
			}
		}
	}
	return false
}
