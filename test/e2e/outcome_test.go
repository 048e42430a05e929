package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/initramfs/cpio"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// TestOutcome has "vm run --json" say how a VM ended: one that gets no time to start its
// kernel.
func TestOutcome(t *testing.T) {
	needs.Boot(t)
	tool, dir := needs.Binary(t, "rootvouch"), t.TempDir()
	asp, initrd := filepath.Join(dir, "asp"), filepath.Join(dir, "initrd")
	run := func(args ...string) (stdout, stderr string, status int) {
		cmd := exec.Command(tool, args...)
		var log strings.Builder
		cmd.Stderr = &log
		out, err := cmd.Output()
		if ended, ok := errors.AsType[*exec.ExitError](err); ok {
			return string(out), log.String(), ended.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		return string(out), log.String(), 0
	}
	if _, stderr, status := run("vm", "asp", "init", "--asp", asp); status != 0 {
		t.Fatal(stderr)
	}
	writeInitrd(t, initrd)
	stdout, stderr, status := run("vm", "run", "--json", "--platform", "emulated", "--asp", asp, "--kernel-runs-host-code",
		"--firmware", needs.Part(t, "firmware/hardened/OVMF.amdsev.fd"), "--kernel", needs.Part(t, "kernel/boot/vmlinuz-*"),
		"--initrd", initrd, "--append", "console=ttyS0", "--start-timeout", "1ms", "--forward", "0=22")
	var got struct {
		Platform     string   `json:"platform"`
		LaunchDigest string   `json:"launch_digest"`
		Forwards     []string `json:"forwards"`
		KernelAfter  *float64 `json:"kernel_started_after"`
		Outcome      string   `json:"outcome"`
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v in %q; standard error:\n%s", err, stdout, stderr)
	}
	if status != 3 || got.Outcome != "kernel never started" || got.Platform != "emulated" || got.KernelAfter != nil || len(got.Forwards) != 1 {
		t.Errorf("status %d, %+v, want 3 and a kernel that never started", status, got)
	}
	if !strings.Contains(stderr, "launch digest: "+got.LaunchDigest+"\n") || len(got.LaunchDigest) != 96 {
		t.Errorf("launch digest %q, and standard error has\n%s", got.LaunchDigest, stderr)
	}
}

// writeInitrd writes an initramfs with one empty directory.
func writeInitrd(t *testing.T, path string) {
	t.Helper()
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	if err := errors.Join(w.Add(cpio.Entry{Name: "dev", Mode: cpio.TypeDirectory | 0o755}), w.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
