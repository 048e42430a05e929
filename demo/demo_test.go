package demo

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLineWatcher(t *testing.T) {
	var got []string
	w := newLineWatcher(func(line string) { got = append(got, line) })
	before := w.find("second")
	for _, part := range []string{"fir", "st\r\nsec", "ond\n\nthird"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write(%q) = %d, %v", part, n, err)
		}
	}
	for name, found := range map[string]<-chan struct{}{"asked before": before, "asked after": w.find("first")} {
		select {
		case <-found:
		default:
			t.Errorf("%s: not found", name)
		}
	}
	select {
	case <-w.find("third"):
		t.Error("found a line that has no end yet")
	default:
	}
	if want := "first|second|"; strings.Join(got, "|") != want {
		t.Errorf("got %q, want %q", strings.Join(got, "|"), want)
	}
	if w.last() != "second" {
		t.Errorf("last line is %q", w.last())
	}
	if _, err := w.Write(make([]byte, 3*maxLine)); err != nil || len(w.partial) > maxLine {
		t.Errorf("a line without an end: %v, %d bytes are held", err, len(w.partial))
	}
}

// A command is broken where a shell accepts it, with a flag and its value on one
// line.
func TestFold(t *testing.T) {
	got := strings.Join(fold("$ tool verb --one 1 --two 2 --flag --three 3 >file", 20), "\n")
	want := "$ tool verb --one 1 \\\n    --two 2 --flag \\\n    --three 3 >file"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A wide line of a verdict is broken, and none of it is lost.
func TestWrap(t *testing.T) {
	for line, want := range map[string]string{
		"short": "short", "verdict: trusted": "verdict: trusted",
		"note    one two three four": "note    one two|        three four", "12345678901234567890123": "12345678901234567890|        123",
	} {
		if got := strings.Join(wrap(line, 20), "|"); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

// The errors tell a process that ends before it is ready from a slow process, each
// with its last line. A process that ignores SIGTERM is killed.
func TestProcess(t *testing.T) {
	dir := t.TempDir()
	never := func(context.Context) error { return errors.New("not yet") }
	p, err := startProcess("brief", dir, "sh", "-c", "echo its last words; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.ready(t.Context(), time.Minute, never); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "its last words") {
		t.Errorf("a process that ended: %v", err)
	}
	p, err = startProcess("slow", dir, "sleep", "60")
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	if err := p.ready(t.Context(), 200*time.Millisecond, never); err == nil || !strings.Contains(err.Error(), "not ready within 200ms: not yet") {
		t.Errorf("a slow process: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.ready(ctx, time.Minute, never); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestRunCommandTellsWhy(t *testing.T) {
	out, err := runCommand(t.Context(), "sh", "-c", "echo out; echo why >&2; exit 2")
	if string(out) != "out\n" || err == nil || !strings.HasSuffix(err.Error(), "exit status 2: why") {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestFindPartsNamesWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "kernel/boot"), 0o755); err != nil {
		t.Fatal(err)
	}
	var missing *MissingError
	if _, err := FindParts(dir, dir); !errors.As(err, &missing) || !strings.Contains(missing.Path, "vmlinuz") {
		t.Errorf("got %v, want the kernel to be missing", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kernel/boot/vmlinuz-1"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := FindParts(dir, dir); !errors.As(err, &missing) || filepath.Base(missing.Path) != "rootvouch" || missing.Hint() == "" {
		t.Errorf("got %v, want rootvouch to be missing", err)
	}
}
