package platform

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrintable(t *testing.T) {
	for raw, want := range map[string]string{
		"plain\r\n": "plain",
		"\x1b[2J\x1b[001;001H\x1b[=3h\x1b[8;056;240tEFI stub: x\r\n": "EFI stub: x",
		"\x1b[2J\r\n":                  "",
		"\x1b]0;title\x07after":        "after",
		"\x1b]0;title\x1b\\after":      "after",
		"a\tb\x00\x08c\x7f\u0085d":     "a bcd",
		"\xff\xfe":                     "\ufffd\ufffd",
		"\x1b":                         "",
		"\u202eabc\u2066":              "abc",
		"[  0.1] \x1b[1;31mred\x1b[0m": "[  0.1] red",
	} {
		if got := printable([]byte(raw)); got != want {
			t.Errorf("%q reads as %q, want %q", raw, got, want)
		}
	}
}

func TestConsole(t *testing.T) {
	var log bytes.Buffer
	var lines []string
	starts, startedAt := 0, 0
	c := &console{log: &log, line: func(l string) { lines = append(lines, l) }, started: func() { starts++; startedAt = len(lines) }}
	in := "\x1b[2J\r\nBdsDxe: failed to load Boot0001\r\n[    0.0] Linux version\r\n\r\n" + strings.Repeat("x", maxLine+5) + "\r\nlast"
	if err := c.run(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if log.String() != in {
		t.Error("the log is not what came")
	}
	want := []string{"BdsDxe: failed to load Boot0001", "[    0.0] Linux version", strings.Repeat("x", maxLine), "xxxxx", "last"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if starts != 1 || startedAt != 1 {
		t.Errorf("the kernel started %d times, after %d lines; want once, after the firmware's line", starts, startedAt)
	}
	if diff := cmp.Diff(want, c.lines()); diff != "" {
		t.Errorf("last lines (-want +got):\n%s", diff)
	}
}

func TestConsoleKeepsTheLastLines(t *testing.T) {
	c := &console{started: func() {}}
	var in strings.Builder
	for i := range keptLines + 5 {
		fmt.Fprintf(&in, "line %d\n", i)
	}
	if err := c.run(strings.NewReader(in.String())); err != nil {
		t.Fatal(err)
	}
	if got := c.lines(); len(got) != keptLines || got[0] != "line 5" {
		t.Errorf("%d lines from %q on, want %d from \"line 5\" on", len(got), got[0], keptLines)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// A log that cannot be written must not stop the VM, and must be reported.
func TestConsoleGoesOnWithoutItsLog(t *testing.T) {
	var lines int
	c := &console{log: fullDisk{}, line: func(string) { lines++ }, started: func() {}}
	if err := c.run(strings.NewReader("a\nb\nc\n")); err == nil || lines != 3 {
		t.Errorf("error is %v after %d lines, want one after 3", err, lines)
	}
}

// usernet is the output of QEMU 10.0.2.
const usernet = "Hub -1 (n):\r\n" +
	"  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n" +
	"  TCP[ESTABLISHED]  23       10.0.2.15   8444      10.0.2.2  5000     0     0\r\n" +
	"  TCP[HOST_FORWARD]   3       127.0.0.1 42649       10.0.2.15  8444     0     0\r\n" +
	"  TCP[HOST_FORWARD]   4       127.0.0.1 42650       10.0.2.15  8444     0     0\r\n"

func TestParseForwards(t *testing.T) {
	local := func(port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	}
	got, err := parseForwards(usernet, []Forward{{local(42650), 8444}, {local(0), 8444}})
	if err != nil || got[0].Host != local(42650) || got[1].Host != local(42649) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, want := range []Forward{{local(1), 8444}, {local(0), 22}, {netip.MustParseAddrPort("127.0.0.2:0"), 8444}} {
		if got, err := parseForwards(usernet, []Forward{want}); err == nil {
			t.Errorf("%v was found: %v", want, got)
		}
	}
}

// conversation is QEMU's side of QMP, written in advance.
type conversation struct {
	io.Reader
	sent bytes.Buffer
}

func (c *conversation) Write(p []byte) (int, error) { return c.sent.Write(p) }

func TestQMP(t *testing.T) {
	const greeting = `{"QMP": {"version": {}, "capabilities": ["oob"]}}` + "\n"
	const negotiated = `{"return": {}}` + "\n"
	t.Run("events", func(t *testing.T) {
		c := &conversation{Reader: strings.NewReader(greeting + negotiated + `{"return": {}}
{"event": "RESUME", "timestamp": {}}
{"event": "VSERPORT_CHANGE", "data": {"open": false, "id": "x"}}
{"event": "VSERPORT_CHANGE", "data": {"open": true, "id": "x"}}
{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}
{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}
`)}
		q, err := newQMP(c)
		if err != nil {
			t.Fatal(err)
		}
		starts := 0
		if got := q.events(func() { starts++ }); got != reasonShutdown || starts != 1 {
			t.Errorf("reason is %q after %d starts, want %q after 1", got, starts, reasonShutdown)
		}
		if want := `{"execute":"qmp_capabilities"}` + "\n"; c.sent.String() != want {
			t.Errorf("sent %q, want %q", c.sent.String(), want)
		}
	})
	for name, answers := range map[string]string{
		"nothing":          "",
		"another greeting": `{"hello": 1}`,
		"refusal":          greeting + `{"error": {"class": "GenericError", "desc": "no"}}`,
		"silence":          greeting,
		"no JSON":          greeting + "QEMU",
	} {
		if _, err := newQMP(&conversation{Reader: strings.NewReader(answers)}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseVersion(t *testing.T) {
	v, err := parseVersion("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright")
	if err != nil || v != (qemuVersion{10, 0}) {
		t.Errorf("got %v, %v", v, err)
	}
	for _, s := range []string{"", "QEMU emulator version x", "10.0.2"} {
		if v, err := parseVersion(s); err == nil {
			t.Errorf("%q reads as %v", s, v)
		}
	}
	for _, c := range []struct {
		kind Kind
		v    qemuVersion
		less bool
	}{{SNP, qemuVersion{9, 0}, true}, {SNP, qemuVersion{9, 1}, false}, {SNP, qemuVersion{10, 0}, false},
		{Emulated, qemuVersion{9, 2}, true}, {Emulated, qemuVersion{10, 0}, false}} {
		if want, _ := neededVersion(c.kind); c.v.less(want) != c.less {
			t.Errorf("%v is less than what %s needs: want %v", c.v, c.kind, c.less)
		}
	}
}

// Each unmet requirement of a host has its own line.
func TestCheckHost(t *testing.T) {
	root := t.TempDir()
	qemu := filepath.Join(root, "qemu")
	lacks := func(want ...string) {
		t.Helper()
		err := checkHost(t.Context(), root, qemu, SNP)
		if (err == nil) != (len(want) == 0) {
			t.Fatalf("got %v, want parts %q", err, want)
		}
		for _, w := range []string{"/dev/kvm", "/dev/sev", "sev_snp", "want 9.1 or newer"} {
			named := err != nil && strings.Contains(err.Error(), w)
			wanted := strings.Contains(strings.Join(want, " "), w)
			if named != wanted {
				t.Errorf("part %s: %v, want %v in %v", w, named, wanted, err)
			}
		}
	}
	put := func(path, data string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	program := func(version string) {
		t.Helper()
		if err := os.WriteFile(qemu, []byte("#!/bin/sh\necho QEMU emulator version "+version+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program("7.2.0")
	lacks("/dev/kvm", "/dev/sev", "sev_snp", "want 9.1 or newer")
	if err := checkHost(t.Context(), root, qemu, Emulated); err == nil || !strings.Contains(err.Error(), "want 10.0 or newer") || strings.Contains(err.Error(), "/dev/kvm") {
		t.Errorf("emulated: got error %v, want one about QEMU alone", err)
	}
	program("9.1.0")
	lacks("/dev/kvm", "/dev/sev", "sev_snp")
	put("dev/kvm", "")
	lacks("/dev/sev", "sev_snp")
	put("dev/sev", "")
	put("sys/module/kvm_amd/parameters/sev_snp", "N\n")
	lacks("sev_snp")
	put("sys/module/kvm_amd/parameters/sev_snp", "Y\n")
	lacks()
}
