package vmtest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/initramfs/cpio"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/internal/shell"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/platform/asp"
)

// StockFirmware returns the AmdSev firmware as its distribution built it, which
// runs a program of the host's.
func StockFirmware(t testing.TB) string {
	t.Helper()
	return needs.Part(t, "firmware/usr/share/ovmf/OVMF.amdsev.fd")
}

// BareKernel returns the stock kernel, which reads the host's ACPI tables.
func BareKernel(t testing.TB) string {
	t.Helper()
	return needs.Part(t, "kernel/boot/vmlinuz-*")
}

// Gated puts a kernel behind the gate.
func Gated(t testing.TB, kernel string) string {
	t.Helper()
	file, err := gate.Build(mustRead(t, kernel))
	if err != nil {
		t.Fatal(err)
	}
	return mustWrite(t, filepath.Join(t.TempDir(), "gated.efi"), file)
}

// Guest returns an emulated guest with the hardened firmware, the stock kernel
// behind the gate, the default command line, two vCPUs and 1 GiB, and without
// initramfs and disk. It skips the test, with a message, if a part is missing or if
// this is not `make test`.
func Guest(t testing.TB) platform.Guest {
	t.Helper()
	needs.Boot(t)
	needs.Tool(t, platform.DefaultQEMU)
	return platform.Guest{
		Kind:        platform.Emulated,
		Firmware:    needs.Part(t, "firmware/hardened/OVMF.amdsev.fd"),
		Kernel:      Gated(t, BareKernel(t)),
		CommandLine: cmdline.Default(),
		VCPUs:       2,
		CPUType:     platform.DefaultCPUType,
		MemoryMiB:   1024,
		Policy:      platform.DefaultPolicy,
	}
}

// chip is one software AMD-SP for all tests of a binary, because a chip takes time
// to make.
var chip = sync.OnceValues(func() (*asp.Chip, error) { return asp.NewWeak(rand.Reader, time.Now()) })

// Chip returns the software AMD-SP for the VMs of this test binary, and a directory
// with its collateral for verifiers.
func Chip(t testing.TB) (c *asp.Chip, collateral string) {
	t.Helper()
	c, err := chip()
	if err != nil {
		t.Fatal(err)
	}
	collateral = filepath.Join(t.TempDir(), "collateral")
	if err := c.WriteCollateral(collateral, rand.Reader, time.Now()); err != nil {
		t.Fatal(err)
	}
	return c, collateral
}

// TinyInitramfs builds an initramfs whose PID 1 is the small program in
// test/vmtest/guest, for tests of the launcher, with further files below
// /lib/modules.
func TinyInitramfs(t testing.TB, modules ...map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "./test/vmtest/guest")
	build.Dir = needs.Repository(t)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the guest program: %v\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	entries := []cpio.Entry{
		{Name: "lib", Mode: cpio.TypeDirectory | 0o755},
		{Name: "lib/modules", Mode: cpio.TypeDirectory | 0o755},
		{Name: "dev", Mode: cpio.TypeDirectory | 0o755},
		{Name: "dev/console", Mode: cpio.TypeChar | 0o600, Major: 5, Minor: 1},
		{Name: "init", Mode: cpio.TypeRegular | 0o755, Data: data},
	}
	for _, more := range modules {
		for _, name := range slices.Sorted(maps.Keys(more)) {
			entries = append(entries, cpio.Entry{Name: name, Mode: cpio.TypeRegular | 0o644, Data: more[name]})
		}
	}
	slices.SortFunc(entries, func(a, b cpio.Entry) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return mustWrite(t, filepath.Join(dir, "initramfs"), archive.Bytes())
}

// FlipBit copies a file and flips the lowest bit of the byte at offset; a
// negative offset counts from the end.
func FlipBit(t testing.TB, path string, offset int64) string {
	t.Helper()
	data := mustRead(t, path)
	if offset < 0 {
		offset += int64(len(data))
	}
	if offset < 0 || offset >= int64(len(data)) {
		t.Fatalf("flipping a bit at %d of %s: it has %d bytes", offset, path, len(data))
	}
	data[offset] ^= 1
	return mustWrite(t, filepath.Join(t.TempDir(), filepath.Base(path)), data)
}

// Append copies a file and appends to it.
func Append(t testing.TB, path string, more ...byte) string {
	t.Helper()
	return mustWrite(t, filepath.Join(t.TempDir(), filepath.Base(path)), append(mustRead(t, path), more...))
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustWrite(t testing.TB, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Swapped returns a QEMU as a malicious host would run it: instead of the files of
// measured, it loads those of given.
func Swapped(t testing.TB, measured, given platform.Guest) string {
	t.Helper()
	var script strings.Builder
	script.WriteString("#!/bin/sh\nn=$#\nwhile [ $n -gt 0 ]; do\n\ta=$1; shift\n\tcase $a in\n")
	for _, swap := range [][2]string{
		{measured.Kernel, given.Kernel},
		{measured.Initramfs, given.Initramfs},
		{measured.CommandLine, given.CommandLine},
	} {
		if swap[0] != swap[1] {
			fmt.Fprintf(&script, "\t%s) a=%s ;;\n", shell.Quote(swap[0]), shell.Quote(swap[1]))
		}
	}
	fmt.Fprintf(&script, "\tesac\n\tset -- \"$@\" \"$a\"\n\tn=$((n - 1))\ndone\nexec %s \"$@\"\n", platform.DefaultQEMU)
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte(script.String()), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// Adding returns a QEMU as a malicious host would run it, with these arguments in
// addition to the given ones.
func Adding(t testing.TB, args ...string) string {
	t.Helper()
	script := "#!/bin/sh\nexec " + platform.DefaultQEMU + " \"$@\" " + shell.Quote(args...) + "\n"
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}
