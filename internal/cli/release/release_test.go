package release

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/release"
)

func TestEnds(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 500, time.UTC)
	for text, want := range map[string]string{
		"48h": "2026-11-30T12:00:00Z", "now": "2026-11-28T12:00:00Z", "2027-01-01T01:00:00+01:00": "2027-01-01T00:00:00Z", "-1h": "", "soon": "", "0s": "",
	} {
		got, err := parseEnd(text, now)
		if (err != nil) != (want == "") || err == nil && got.Format(time.RFC3339) != want {
			t.Errorf("%q: got %v, error %v, want %q", text, got, err, want)
		}
	}
	if _, err := (&rollout{end: "now"}).target(now); err == nil {
		t.Error("a release that ends now: got no error")
	}
	target, err := (&rollout{oldEnd: "now"}).target(now)
	if err != nil || target.OldEnd == nil || !target.End.IsZero() {
		t.Errorf("got %+v, error %v", target, err)
	}
}

func TestBuildTime(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1764288000")
	if got, err := buildTime(); err != nil || got.Unix() != 1764288000 {
		t.Errorf("got %v, error %v", got, err)
	}
	for _, text := range []string{"yesterday", "-1", "1.5"} {
		t.Setenv("SOURCE_DATE_EPOCH", text)
		if got, err := buildTime(); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

// Flags that cannot be meant are found before anything is built or asked.
func TestRefuses(t *testing.T) {
	vm := filepath.Join(t.TempDir(), "vm.json")
	if err := os.WriteFile(vm, []byte(`{"version": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want string
		code int
		args []string
	}{
		{"decoding vm.json", 3, []string{"build", "--vm", vm, "--out-dir", "r", "--key-to", "age"}},
		{"no such file", 64, []string{"build", "--vm", "nowhere", "--out-dir", "r", "--key-to", "age"}},
		{`"key-to"`, 64, []string{"build", "--vm", vm, "--out-dir", "r"}},
		{"opening release", 1, []string{"apply", "nowhere"}},
		{"opening release", 1, []string{"plan", "nowhere"}},
		{"opening release", 1, []string{"retire", "nowhere"}},
		{"opening release", 1, []string{"rollback", "nowhere", "--to", "nowhere"}},
		{`"to"`, 64, []string{"rollback", "nowhere"}},
		{"missing port", 64, []string{"status", "--vm", vm, "--address", "localhost"}},
	} {
		var out bytes.Buffer
		if code := command.Main(New(), c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%q: exit status is %d, want %d with %q:\n%s", c.args, code, c.code, c.want, &out)
		}
	}
	f := buildFlags{key: "age"}
	if _, err := f.keeper(New(), release.VM{}, new(string)); err == nil || !strings.Contains(err.Error(), "want both of --key-to age") {
		t.Errorf("age without a recipient: got error %v", err)
	}
	f = buildFlags{key: "disk.key"}
	if _, err := f.keeper(New(), release.VM{}, new(string)); err == nil || !strings.Contains(err.Error(), "want key-server, age or -") {
		t.Errorf("a file: got error %v", err)
	}
	for want, f := range map[string]buildFlags{
		"want here or key-server":            {keyFrom: "there", key: "key-server"},
		"goes with --key-to key-server":      {keyFrom: "key-server", key: "age"},
		"--seed derives the disk's key, and": {keyFrom: "key-server", key: "key-server", seed: "00"},
	} {
		if _, err := f.maker(release.VM{}, &release.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}

// fakeSpire writes a program that prints text for each call, and notes its arguments.
func fakeSpire(t *testing.T, text string, status string) (program, noted string) {
	t.Helper()
	dir := t.TempDir()
	program, noted = filepath.Join(dir, "spire"), filepath.Join(dir, "args")
	script := "#!/bin/sh\necho \"$@\" >>" + noted + "\ncat <<'END'\n" + text + "\nEND\necho 'rootvouch-spire: error: it is so' >&2\nexit " + status + "\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return program, noted
}

// What rootvouch-spire prints is read strictly, and its error passed on.
func TestSpireServer(t *testing.T) {
	program, noted := fakeSpire(t, `{"version": 1, "releases": [{"name": "a", "end": "never", "entries": 2}, {"name": "b", "end": "2027-01-01T00:00:00Z", "entries": 3}]}`, "0")
	s := spireServer{program, "sock", "example.org", "spiffe://example.org/kms"}
	all, err := s.Releases(context.Background(), "web")
	if err != nil || len(all) != 2 || !all[0].End.IsZero() || all[1].Count != 3 || all[1].End.Year() != 2027 {
		t.Errorf("got %+v, error %v", all, err)
	}
	if args, err := os.ReadFile(noted); err != nil || string(args) != "entries --socket sock --trust-domain example.org --json --name web --list\n" {
		t.Errorf("arguments are %q, error %v", args, err)
	}
	s.program, _ = fakeSpire(t, `{"version": 1}`, "0")
	if _, err := s.Releases(context.Background(), "web"); err == nil {
		t.Error("a reply without releases: got no error")
	}
	s.program, noted = fakeSpire(t, "", "1")
	if err := s.Remove(context.Background(), "web", "a"); err == nil || !strings.HasSuffix(err.Error(), "sock: it is so") {
		t.Errorf("a failure: got error %v", err)
	}
	if args, err := os.ReadFile(noted); err != nil || !strings.HasSuffix(string(args), "--name web --release-id a --remove\n") {
		t.Errorf("arguments are %q, error %v", args, err)
	}
}
