package boot

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

func TestClean(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"a\nrootvouch: switch: b", "a rootvouch: switch: b"},
		{"\x1b[2Jx\x00\x7f", "?[2Jx??"},
		{" padded\r\n", "padded"},
		{"…é", "…é"},
		{"\xff", "?"},
		{"a\u2028b\u009bc", "a?b?c"},
		{strings.Repeat("é", maxLine), strings.Repeat("é", maxLine/2) + "…"},
	} {
		if got := clean(c.in); got != c.want {
			t.Errorf("%q: got %q, want %q", c.in, got, c.want)
		}
	}
}

// consoleOf returns a console that writes to a pipe, and a function that closes
// it and returns what was written.
func consoleOf(t *testing.T) (c *console, written func() string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c = &console{}
	c.file.Store(w)
	return c, func() string {
		w.Close()
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
}

func TestConsole(t *testing.T) {
	c, written := consoleOf(t)
	c.step("start", "kernel 6", 12*time.Millisecond)
	c.step("config", "read", 0)
	c.decide(true, true)
	c.progress("verify", "1 of 2 MiB")
	c.step("verify", "done\nrootvouch: fake", 3*time.Second)
	want := "rootvouch: start: kernel 6; emulated: NOT CONFIDENTIAL (12 ms)\n" +
		"rootvouch: config: read (0 ms)\n" +
		"rootvouch: verify: 1 of 2 MiB\n" +
		"rootvouch: verify: done rootvouch: fake (3000 ms)\n"
	if got := written(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestConsoleOff(t *testing.T) {
	c, written := consoleOf(t)
	c.step("start", "kernel 6", 0)
	c.decide(false, true)
	c.step("config", "read", 0)
	c.refusal("key", errors.New("no\nkey"))
	if got, want := written(), "rootvouch: refused: key: no key\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestGuard(t *testing.T) {
	_, err := guard(func() (int, error) { panic("boom") })
	if err == nil || err.Error() != "panic: boom" {
		t.Errorf("got error %v, want the panic", err)
	}
	if n, err := guard(func() (int, error) { return 7, nil }); n != 7 || err != nil {
		t.Errorf("got %d, %v, want 7", n, err)
	}
}
