package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/test/vmtest"
)

// A VM knows only the long-lived root, so it boots even after the SPIRE server has
// changed its CA.
func TestBootAfterCARotation(t *testing.T) {
	c := setUp(t)
	must(t)(c.SPIREServer(t.Context(), "localauthority", "x509", "prepare"))
	var shown struct {
		Prepared struct {
			ID string `json:"authority_id"`
		} `json:"prepared"`
	}
	if err := json.Unmarshal(must(t)(c.SPIREServer(t.Context(), "localauthority", "x509", "show", "-output", "json")), &shown); err != nil {
		t.Fatal(err)
	}
	must(t)(c.SPIREServer(t.Context(), "localauthority", "x509", "activate", "-authorityID", shown.Prepared.ID))
	m := c.boot(t, c.web)
	m.Expect("rootvouch: agent:")
	m.Expect("rootvouch: switch:")
	m.Expect("multi-user.target")
}

// systemd would read units from SMBIOS, and run them as root in a trusted VM. The
// host writes SMBIOS, and no measurement covers it. The stock firmware would run a
// program of the host before the kernel (platform.TestVMHostProgram).
func TestHostCredentials(t *testing.T) {
	c := setUp(t)
	unit := base64.StdEncoding.EncodeToString([]byte("[Service]\nExecStartPre=+/bin/sh -c 'echo the host was here >/dev/console'\n"))
	credential := "type=11,value=io.systemd.credential.binary:systemd.unit-dropin.systemd-networkd.service=" + unit
	const said = "the host's program runs"
	m := c.watch(t, c.machine(t, c.web), "-smbios", credential, "-shim", vmtest.EFIProgram(t, said))
	m.Expect("rootvouch: switch:")
	m.Expect("multi-user.target")
	m.Stop()
	for _, line := range m.Lines() {
		if strings.Contains(line, "the host was here") {
			t.Errorf("a unit of the host's ran as root: %q", line)
		}
		if strings.Contains(line, said) {
			t.Errorf("a program of the host's ran before the kernel: %q", line)
		}
	}
}

// TestDemo runs the demo, which a newcomer runs first.
func TestDemo(t *testing.T) {
	needs.Boot(t)
	newDemo(t).trusted(t)
}

// TestDemoNewerKernel is the same with a kernel of the next major version, which its
// distribution splits into several packages.
func TestDemoNewerKernel(t *testing.T) {
	needs.Boot(t)
	cache := t.TempDir()
	for name, part := range map[string]string{"kernel": "kernel-backports", "firmware": "firmware", "root": "root", "spire": "spire"} {
		if err := os.Symlink(needs.Part(t, part), filepath.Join(cache, name)); err != nil {
			t.Fatal(err)
		}
	}
	d := newDemo(t)
	d.command.Env = append(d.command.Env, "ROOTVOUCH_CACHE="+cache)
	d.trusted(t)
}

// trusted runs the demo to its end.
func (d demoRun) trusted(t *testing.T) {
	t.Helper()
	var stderr bytes.Buffer
	d.command.Stderr = &stderr
	out, err := d.command.Output()
	if err != nil {
		t.Fatalf("rootvouch demo: %v\n%s%s", err, out, stderr.Bytes())
	}
	if !bytes.HasSuffix(out, []byte("\nverdict: trusted\n")) {
		t.Errorf("the last line is not the verdict:\n%s", out)
	}
	for _, want := range []string{"emulated: NOT CONFIDENTIAL", "rootvouch: dm-verity:", "multi-user.target"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("no %q in what the demo says", want)
		}
	}
	for _, name := range []string{"release/disk.img", "release/refval.json", "vm.json", "proof.json", "bootlog.json", "timeline.svg", "timeline.txt", "logs/rootvouch-kms.log"} {
		if info, err := os.Stat(filepath.Join(d.out, name)); err != nil || info.Size() == 0 {
			t.Errorf("the output directory has no %s: %v", name, err)
		}
	}
	for line := range strings.Lines(string(out)) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 && !strings.Contains(line, d.out) && !strings.Contains(line, needs.Cache(t)) {
			t.Errorf("a line of %d columns, want at most 80: %q", n, line)
		}
	}
	verify := exec.Command(needs.Binary(t, "rootvouch"), "report", "verify", "--bundle", filepath.Join(d.out, "proof.json"), "--refval", filepath.Join(d.out, "release", "refval.json"))
	if said, err := verify.CombinedOutput(); err != nil {
		t.Errorf("judging the proof again: %v\n%s", err, said)
	}
	d.leftNothing(t)
}

// TestDemoInterrupted presses Ctrl-C while most processes run.
func TestDemoInterrupted(t *testing.T) {
	needs.Boot(t)
	d := newDemo(t)
	var out strings.Builder
	d.command.Stdout = &notifier{w: &out, text: "rootvouch: start:", then: func() { d.command.Process.Signal(os.Interrupt) }}
	start := time.Now()
	err := d.command.Run()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 130 {
		t.Errorf("got %v after %v, want exit status 130; it said:\n%s", err, time.Since(start), out.String())
	}
	d.leftNothing(t)
}

// demoRun is a run of `rootvouch demo` with directories of its own.
type demoRun struct {
	command  *exec.Cmd
	out, tmp string
}

func newDemo(t *testing.T) demoRun {
	t.Helper()
	tmp, err := os.MkdirTemp("", "rv-") // short, for the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	d := demoRun{out: t.TempDir(), tmp: tmp}
	d.command = exec.Command(needs.Binary(t, "rootvouch"), "demo", "--out-dir", d.out)
	d.command.Env = append(os.Environ(), "TMPDIR="+tmp)
	d.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return d
}

// leftNothing fails the test if the demo left a process or a file behind.
func (d demoRun) leftNothing(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(d.tmp)
	if err != nil || len(left) != 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		// Every process of the demo has a path of one of its directories in its
		// arguments.
		if line, err := os.ReadFile(path); err == nil && (bytes.Contains(line, []byte(d.tmp)) || bytes.Contains(line, []byte(d.out))) {
			t.Errorf("still running: %q", line)
		}
	}
}

// notifier calls a function once when a text was written.
type notifier struct {
	w    *strings.Builder
	text string
	then func()
	done bool
}

func (n *notifier) Write(p []byte) (int, error) {
	n.w.Write(p)
	if !n.done && strings.Contains(n.w.String(), n.text) {
		n.done = true
		n.then()
	}
	return len(p), nil
}
