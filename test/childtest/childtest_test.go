package childtest

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// asLauncher makes the test binary a launcher that is then killed.
const asLauncher = "ROOTVOUCH_TEST_LAUNCHER"

func TestMain(m *testing.M) {
	if os.Getenv(asLauncher) == "" {
		os.Exit(m.Run())
	}
	child := Tied(exec.Command("sh", "-c", "echo ready; exec sleep 600"))
	child.Stdout = os.Stdout
	fmt.Println(child.Run())
}

// A child ends with its parent that is killed: nobody holds its output any more.
func TestTied(t *testing.T) {
	launcher := Tied(exec.Command(os.Args[0]))
	launcher.Env = append(os.Environ(), asLauncher+"=1")
	pipe, err := launcher.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := launcher.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	launcher.Process.Kill()
	rest, err := io.ReadAll(out) // until the child has ended
	launcher.Wait()
	if err != nil || len(rest) > 0 {
		t.Errorf("the child says %q, %v", rest, err)
	}
}

// TestAllAreTied reads every function of a test or a test's helper that starts a process and
// goes on, or runs QEMU.
func TestAllAreTied(t *testing.T) {
	root := needs.Repository(t)
	found := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case e.IsDir() && (strings.HasPrefix(e.Name(), ".") && name != "." || e.Name() == "testdata"):
			return fs.SkipDir
		case strings.HasSuffix(name, "_test.go"), strings.HasPrefix(name, "test/") && strings.HasSuffix(name, ".go"):
		default:
			return nil
		}
		untied, tied := starts(t, path)
		found += len(untied) + tied
		for _, function := range untied {
			t.Errorf("%s: %s starts a process that outlives the test binary: use childtest.Tied", name, function)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 10 {
		t.Errorf("%d functions start a process, want more: is this the repository?", found)
	}
}

// exempt are directories whose programs are no tests: one runs in a guest, and one runs the tests.
var exempt = map[string]bool{"test/e2e/attacker": true, "test/progress": true}

// starts returns which functions of a file start a process without a tie, and how many tie it.
func starts(t *testing.T, path string) (untied []string, tied int) {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(source), "exec.Command") || exempt[filepath.ToSlash(strings.TrimPrefix(filepath.Dir(path), needs.Repository(t)+"/"))] {
		return nil, 0
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, declaration := range file.Decls {
		f, ok := declaration.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		text := string(source[files.Position(f.Pos()).Offset:files.Position(f.End()).Offset])
		calls := strings.Contains(text, "exec.Command")
		goesOn := strings.Contains(text, ".Start()") || strings.Contains(text, ".StdoutPipe()")
		emulates := strings.Contains(text, `"qemu-system-x86_64"`) || strings.Contains(text, "DefaultQEMU")
		switch {
		case !calls || !goesOn && !emulates:
		case strings.Contains(text, "Tied(") || strings.Contains(text, "Pdeathsig"):
			tied++
		default:
			untied = append(untied, f.Name.Name)
		}
	}
	return untied, tied
}
