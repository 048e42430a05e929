package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/test/libvirttest"
)

// TestWalk runs docs/walk.md in a shell, unchanged.
func TestWalk(t *testing.T) {
	needs.Boot(t)
	script := walk(t)
	// The walk ends with its own "kill"; the trap is for a walk that fails.
	cmd := exec.Command("bash", "-c", "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; pwd >&2' EXIT\n"+script)
	cmd.Dir = needs.Repository(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	dir := lines[len(lines)-1]
	if strings.HasPrefix(dir, "/tmp/walk.") {
		defer os.RemoveAll(dir)
	}
	if err != nil {
		t.Errorf("%v: %s", err, stderr.String())
		for _, name := range []string{"server.log", "agent.log", "kms.log", "vm-old.log", "console-old", "vm-new.log", "console-new"} {
			log, _ := os.ReadFile(filepath.Join(dir, name))
			t.Logf("%s:\n%s", name, log)
		}
	}
	judgeDomain(t, stdout.String())
	_, after, trusted := strings.Cut(stdout.String(), "\nverdict: trusted\n")
	if last := strings.Split(strings.TrimSpace(after), "\n"); !trusted || !strings.HasPrefix(last[len(last)-1], "rootvouch: refused: verify: ") {
		t.Errorf("the walk does not end with the verdict, then the refusal of the changed disk:\n%s", stdout.String())
	}
}

// judgeDomain checks the domain that the walk printed with libvirt, which also
// translates it.
func judgeDomain(t *testing.T, printed string) {
	t.Helper()
	_, domain, found := strings.Cut(printed, "<domain ")
	domain, _, ended := strings.Cut(domain, "</domain>")
	if !found || !ended {
		t.Error("the walk printed no domain for libvirt")
		return
	}
	argv := libvirttest.Native(t, "<domain "+domain+"</domain>\n")[0]
	line := strings.Join(argv, " ")
	for _, want := range []string{`"qom-type":"sev-snp-guest"`, `"kernel-hashes":true`, "/release-snp/kernel.efi", "/release-snp/initramfs.img", "/release-snp/disk.img", "/release-snp/firmware.fd", "EPYC-v4"} {
		if !strings.Contains(line, want) {
			t.Errorf("libvirt starts QEMU with %s, which lacks %s", line, want)
		}
	}
}

// walk joins the shell blocks of docs/walk.md.
func walk(t *testing.T) string {
	t.Helper()
	page := string(read(t, filepath.Join(needs.Repository(t), "docs", "walk.md")))
	_, section, found := strings.Cut("\n"+page, "\n# The walk by hand\n")
	if !found {
		t.Fatal("docs/walk.md does not begin as it should")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var script strings.Builder
	for {
		_, rest, found := strings.Cut(section, "\n```sh\n")
		if !found {
			return script.String()
		}
		block, after, found := strings.Cut(rest, "\n```\n")
		if !found {
			t.Fatal("a block of docs/walk.md has no end")
		}
		script.WriteString(block + "\n")
		section = after
	}
}
