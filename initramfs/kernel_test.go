package initramfs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/test/childtest"
	"github.com/rootvouch/rootvouch/test/initramfstest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

// stockOptions returns options with the stock kernel, and with the guest program of
// this package's test data as every program.
func stockOptions(t testing.TB) Options {
	t.Helper()
	kernel := needs.Part(t, "kernel")
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s", "-o", filepath.Join(dir, "init"), "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range guestNames() {
		initramfstest.Files{name: program}.WriteTo(t, dir)
	}
	return Options{Kernel: mustOpen(t, kernel), Modules: DefaultModules(), GuestBin: dir}
}

func TestStockKernelModules(t *testing.T) {
	s, err := mustOpen(t, needs.Part(t, "kernel")).Select(DefaultModules())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Missing) != 0 {
		t.Errorf("missing are %q, want none", s.Missing)
	}
}

// TestAESNIIsRequired checks that a kernel whose AES would use tables gets no
// initramfs.
func TestAESNIIsRequired(t *testing.T) {
	for _, w := range DefaultModules() {
		if slices.Contains(w.Names, "aesni_intel") && !w.Optional {
			return
		}
	}
	t.Error("a kernel without aesni_intel is taken")
}

// TestKernelUnpacks boots the stock kernel with our initramfs: both archives must
// be unpacked, every module must load, and the ciphers and filesystems that PID 1
// needs must be there.
func TestKernelUnpacks(t *testing.T) {
	needs.Boot(t)
	o := stockOptions(t)
	base, _ := mustBuild(t, o)
	config := initramfstest.BootConfig(spiffetest.New(t).PEM())
	file := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(file, mustConfigure(t, base, config), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := config.Encode()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := childtest.Tied(exec.CommandContext(ctx, needs.Tool(t, "qemu-system-x86_64"),
		"-accel", "tcg", "-machine", "q35", "-cpu", "EPYC-v4", "-m", "1024", "-nodefaults", "-nographic", "-no-reboot",
		"-serial", "stdio", "-kernel", o.Kernel.KernelPath(), "-initrd", file,
		"-append", "console=ttyS0 panic=-1")).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if _, line, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "guest: "); ok {
			lines = append(lines, line)
		}
	}
	said := strings.Join(lines, "\n") + "\n"
	t.Log(said)
	if strings.Contains(said, "error:") || strings.Contains(string(out), "Initramfs unpacking failed") {
		t.Error("the kernel or the guest reports an error")
	}
	for _, want := range []string{
		fmt.Sprintf("boot.json %x <nil>", sha256.Sum256(text)), "driver xts-aes-", "driver sha256-ni", "driver crc32c-intel",
		`"erofs"`, `"overlay"`, `"ext4"`, `"squashfs"`, "done",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("guest did not say %q", want)
		}
	}
	if t.Failed() {
		t.Logf("console:\n%s", out)
	}
}
