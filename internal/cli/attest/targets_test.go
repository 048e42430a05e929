package attest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snpdevtest"
)

// fleet writes a file of targets.
func fleet(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A fleet of an old and a new release, a stranger and a VM that is down: one line each,
// in the order of the file.
func TestTargets(t *testing.T) {
	sp := snpdevtest.New(t, time.Now())
	first, _ := bootedVM(t, sp.Launch(snp.Measurement{1}, snp.ReportID{7}))
	second, _ := bootedVM(t, sp.Launch(snp.Measurement{2}, snp.ReportID{8}))
	stranger, _ := bootedVM(t, sp.Launch(snp.Measurement{3}, snp.ReportID{9}))
	old, next := snpdevtest.WriteValues(t, sp.Values(snp.Measurement{1})), snpdevtest.WriteValues(t, sp.Values(snp.Measurement{2}))
	line := func(name, address string) string { return fmt.Sprintf("%s %s %s %s", name, address, old, next) }
	run := func(code int, path string, more ...string) []string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		args := append([]string{"--targets", path, "--collateral-dir", sp.Collateral}, more...)
		if got := command.Main(New(), args, &stdout, &stderr); got != code {
			t.Errorf("exit status is %d, want %d\n%s%s", got, code, &stdout, &stderr)
		}
		return strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
	}
	good := fleet(t, "# a fleet", "", line("web1", first), line("web2", second))
	for i, got := range run(0, good) {
		wants := []string{
			"trusted (emulated: NOT CONFIDENTIAL) web1 " + first + " launch 0700000000000000 by " + old,
			"trusted (emulated: NOT CONFIDENTIAL) web2 " + second + " launch 0800000000000000 by " + next,
		}
		if got != wants[i] {
			t.Errorf("line %d is %q, want %q", i, got, wants[i])
		}
	}
	mixed := run(1, fleet(t, line("web1", first), line("stranger", stranger), line("down", "127.0.0.1:1")))
	if len(mixed) != 3 || !strings.HasPrefix(mixed[1], "refused") || !strings.Contains(mixed[1], "measurement") || !strings.HasPrefix(mixed[2], "no-answer down") {
		t.Errorf("got %q", mixed)
	}
	run(2, fleet(t, line("web1", first), line("down", "127.0.0.1:1")))
	for i, text := range run(0, good, "--json") {
		var s struct{ Name, Result, Refval string }
		if err := json.Unmarshal([]byte(text), &s); err != nil || s.Result != "trusted" || s.Refval != []string{old, next}[i] {
			t.Errorf("line %d is %q, error %v", i, text, err)
		}
	}
	for _, c := range []struct {
		path string
		code int
	}{
		{fleet(t, "web1 "+first), 3},
		{fleet(t, "web1 nowhere "+old), 3},
		{fleet(t, line("web1", first), line("web1", second)), 3},
		{fleet(t, "# nobody"), 3},
		{fleet(t, "web1 "+first+" /nonexistent"), 2},
	} {
		var out bytes.Buffer
		if got := command.Main(New(), []string{"--targets", c.path}, &out, &out); got == 0 {
			t.Errorf("exit status is 0: %s", &out)
		}
	}
	run(64, good, "--address", first, "--refval", old)
	run(64, good, "--interval", "0s")
}

// watcher ends a watch when a line says something.
type watcher struct {
	lines  []string
	onLine func(n int)
}

func (w *watcher) Write(data []byte) (int, error) {
	w.lines = append(w.lines, string(data))
	w.onLine(len(w.lines))
	return len(data), nil
}

// --watch says nothing while nothing changes, and a line when a VM does.
func TestWatch(t *testing.T) {
	sp := snpdevtest.New(t, time.Now())
	address, _ := bootedVM(t, sp.Launch(snp.Measurement{1}, snp.ReportID{7}))
	good := snpdevtest.WriteValues(t, sp.Values(snp.Measurement{1}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &watcher{}
	w.onLine = func(n int) {
		switch n {
		case 1: // from now on the chip's certificate is revoked
			sp.Revoke(true)
		case 2:
			cancel()
		}
	}
	cmd := New()
	cmd.SetArgs([]string{"--targets", fleet(t, "web1 "+address+" "+good), "--collateral-dir", sp.Collateral, "--watch", "--interval", "1ms"})
	cmd.SetOut(w)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.ExecuteContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
	if len(w.lines) != 2 || !strings.HasPrefix(w.lines[0], "trusted") || !strings.HasPrefix(w.lines[1], "refused") {
		t.Errorf("lines are %q", w.lines)
	}
}
