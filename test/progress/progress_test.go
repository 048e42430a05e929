package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// module writes a Go module with the given files, and keeps `go test` to it.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	t.Setenv("GOFLAGS", "")
	t.Setenv("GOWORK", "off")
	dir := t.TempDir()
	files["go.mod"] = "module example.org/a/m\n\ngo 1.26\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func testFile(pkg, body string) string {
	return "package " + pkg + "\n\nimport \"testing\"\n\n" + body + "\n"
}

// try runs the program, and returns what it printed and its error.
func try(t *testing.T, history string, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	err := run(context.Background(), args, &out, history)
	return out.String(), err
}

func wantLines(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, text := range want {
		if !strings.Contains(out, text) {
			t.Errorf("no %q in:\n%s", text, out)
		}
	}
}

func TestPasses(t *testing.T) {
	history := filepath.Join(t.TempDir(), "cache", "times.json")
	dir := module(t, map[string]string{
		"one/one_test.go": testFile("one", "func TestA(t *testing.T) { t.Log(\"chatter\") }\nfunc TestB(t *testing.T) { t.Skip(\"SKIPPED: no such tool\") }"),
		"two/two_test.go": testFile("two", "func TestC(t *testing.T) { t.Run(\"x\", func(t *testing.T) { t.Skip() }) }"),
		"none/none.go":    "package none\n",
	})
	out, err := try(t, history, "--", dir)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantLines(t, out, "test: 3 packages; no earlier run", "ok  \texample.org/a/m/one\t", "/3: 2 tests, 1 skipped]\n", "/3: 1 test, 1 skipped]\n", "?   \texample.org/a/m/none\t[no test files]\n",
		"\nskipped: 2 tests\n     1  no reason given\n     1  no such tool\n", "\nslowest:\n", "total: 3 tests in 2 packages (0 unchanged since an earlier run), 1 without tests;", "; all well\n")
	if strings.Contains(out, "chatter") {
		t.Errorf("the output of a test that passed is shown:\n%s", out)
	}
	again, err := try(t, history, "--", dir)
	if err != nil {
		t.Fatalf("%v\n%s", err, again)
	}
	wantLines(t, again, "test: 3 packages; about ", "\t(cached)\t", "(2 unchanged since an earlier run)")
}

// TestFailures has every way in which the tests of a package fail. Each failure is
// reported when its package ends, and shown in full.
func TestFailures(t *testing.T) {
	cases := []struct{ pkg, text, told, shown string }{
		{
			"subtest", "func TestA(t *testing.T) {\n\tt.Run(\"sub\", func(t *testing.T) { t.Log(\"first\"); t.Error(\"second\") })\n\tt.Run(\"good\", func(t *testing.T) { t.Log(\"chatter\") })\n}",
			"TestA/sub", "\n=== subtest TestA/sub\n    subtest_test.go:6: first\n    subtest_test.go:6: second\n",
		},
		{"compiler", "func TestA(t *testing.T) { undefined() }", "the build failed", "undefined: undefined"},
		{"vet", "func TestA(t *testing.T) { t.Errorf(\"%d\", \"text\") }", "the build failed", "wrong type string"},
		{"syntax", "func {", "the build failed", "expected"},
		{"imports", "import _ \"example.org/a/m/no\"", "the build failed", "example.org/a/m/no"},
		{"limit", "func TestA(t *testing.T) {}\nfunc TestB(t *testing.T) { select {} }", "TestB", "panic: test timed out after 3s"},
		{"panics", "func TestA(t *testing.T) { panic(\"oh\") }", "TestA", "panic: oh"},
		{"exits", "func TestMain(m *testing.M) { m.Run(); panic(\"end\") }\nfunc TestA(t *testing.T) {}", "no test, but the package", "panic: end"},
	}
	files := map[string]string{"good/good_test.go": testFile("good", "func TestA(t *testing.T) {}")}
	for _, c := range cases {
		files[c.pkg+"/"+c.pkg+"_test.go"] = testFile(c.pkg, c.text)
	}
	out, err := try(t, "", "-timeout", "3s", "--", module(t, files))
	if err == nil {
		t.Errorf("no error; it printed:\n%s", out)
	}
	for _, c := range cases {
		wantLines(t, out, "FAIL\texample.org/a/m/"+c.pkg+"\t", ": "+c.told+"]\n", c.shown)
	}
	wantLines(t, out, ": 1 test]\n", "FAILED: 8 packages\n")
	if strings.Contains(out, "chatter") {
		t.Errorf("the output of a test that passed is shown:\n%s", out)
	}
}

// TestNothing: a module without tests is a failure.
func TestNothing(t *testing.T) {
	if out, err := try(t, "", "--", module(t, map[string]string{})); err == nil {
		t.Errorf("no error; it printed:\n%s", out)
	}
}

// TestSecondModule: if one module fails, the others still run, and the result is a
// failure.
func TestSecondModule(t *testing.T) {
	bad := module(t, map[string]string{"one/one_test.go": testFile("one", "func TestA(t *testing.T) { t.Fatal(\"oh\") }")})
	good := module(t, map[string]string{"two/two_test.go": testFile("two", "func TestA(t *testing.T) {}")})
	out, err := try(t, "", "--", bad, good)
	if err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("got error %v, want one of %s", err, bad)
	}
	wantLines(t, out, ": TestA]\n", ": 1 test]\n", "total: 2 tests in 2 packages")
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"-v"}, {"-v", "--"}} {
		if _, err := try(t, "", args...); err == nil || !strings.Contains(err.Error(), "usage") {
			t.Errorf("%q: got error %v, want the usage", args, err)
		}
	}
	if _, err := try(t, "", "--", filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a directory that is not there: no error")
	}
}

// TestRunning names what runs and for how long.
func TestRunning(t *testing.T) {
	r := newResults(2)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if got := r.running(now); got != "test: building\n" {
		t.Errorf("got %q", got)
	}
	for _, line := range []string{
		`{"Time":"2026-01-01T00:00:00Z","Action":"start","Package":"example.org/a/m/long"}`,
		`{"Time":"2026-01-01T00:00:01Z","Action":"run","Package":"example.org/a/m/long","Test":"TestA"}`,
		`{"Time":"2026-01-01T00:00:30Z","Action":"start","Package":"example.org/a/m/b"}`,
	} {
		if got := r.take([]byte(line)); got != "" {
			t.Errorf("%s prints %q", line, got)
		}
	}
	if got, want := r.running(now.Add(time.Minute)), "test: running: long 1m0s (TestA), b 30s\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := r.take([]byte("no event\n")); got != "no event\n" {
		t.Errorf("a line that is no event prints %q", got)
	}
	if got := r.failures(); got != 2 {
		t.Errorf("%d failures, want 2: packages that have not ended", got)
	}
}

func TestOrder(t *testing.T) {
	for _, c := range [][2]string{
		{"m/a m/test/e2e m/z", "m/test/e2e m/a m/z"},
		{"m/test/e2e m/a", "m/test/e2e m/a"},
		{"m/a m/test/e2e/b", "m/a m/test/e2e/b"},
		{"", ""},
	} {
		if got := strings.Join(order(strings.Fields(c[0])), " "); got != c[1] {
			t.Errorf("%s: got %s, want %s", c[0], got, c[1])
		}
	}
}
