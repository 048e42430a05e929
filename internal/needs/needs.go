// Package needs declares what a test requires: a tool, a stock part, the vectors, or the time
// for a VM boot.
//
// If something is missing, the test skips itself and says so. Under `make test`
// (ROOTVOUCH_TEST=full) the set-up has run, so a missing requirement is a failure. Only the
// further vectors in ../shared/vectors, which are not part of the repository, stay optional: no
// claim of docs/THREATS.md depends on them, and test/docs checks that.
package needs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Full reports whether this is `make test`, where nothing may be missing.
func Full() bool { return os.Getenv("ROOTVOUCH_TEST") == "full" }

// Boot skips a test that boots a VM or runs stock servers, unless this is `make test`.
func Boot(t testing.TB) {
	t.Helper()
	if !Full() {
		t.Skip("SKIPPED: boots a VM or runs stock servers; make test runs it")
	}
}

// Matrix skips a test that boots one of many machines, unless this is `make vm` or `make
// attack`.
func Matrix(t testing.TB) {
	t.Helper()
	Boot(t)
	if os.Getenv("ROOTVOUCH_VM") != "all" {
		t.Skip("SKIPPED: boots one machine of many; make vm and make attack run it")
	}
}

// Root skips a test that needs root to make namespaces or to change owners.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: runs as root only")
	}
}

// Tool returns the path of an installed command.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "the command "+name)
	}
	return path
}

// Part returns the one file in the cache of scripts/setup that matches the
// pattern, such as "kernel/boot/vmlinuz-*".
func Part(t testing.TB, pattern string) string {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(Cache(t), pattern))
	if len(found) != 1 {
		missing(t, "the stock part "+pattern)
		return ""
	}
	return found[0]
}

// Cache is the directory of scripts/setup.
func Cache(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("ROOTVOUCH_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "rootvouch")
}

// Binary returns the path of a command that `make build` made, such as
// "rootvouch" or "guest/init".
func Binary(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Repository(t), "bin", name)
	if _, err := os.Stat(path); err != nil {
		missing(t, "bin/"+name)
	}
	return path
}

// Vectors returns a path below the further vectors of others. Without them it skips the test.
func Vectors(t testing.TB, path string) string {
	t.Helper()
	full := filepath.Join(Repository(t), "..", "shared", "vectors", path)
	if _, err := os.Stat(full); err != nil {
		t.Skipf("SKIPPED: no test vectors at ../shared/vectors/%s", path)
	}
	return full
}

// Repository is the directory of go.mod.
func Repository(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test's directory")
		}
		dir = parent
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if Full() {
		t.Fatalf("%s is missing; scripts/setup and make build make it", what)
	}
	t.Skipf("SKIPPED: %s is missing; make test makes it", what)
}
