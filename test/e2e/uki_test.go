package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rootvouch/rootvouch/demo"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// TestUKI runs the whole chain from one file: gate, systemd's stub, kernel, initramfs and
// command line are measured as the kernel. PID 1 finds the command line of boot.json, and
// the disk opens.
func TestUKI(t *testing.T) {
	c := setUp(t)
	g := c.guest(t, "uki")
	if err := c.BuildImage(t.Context(), g, c.Parts.Root); err != nil {
		t.Fatal(err)
	}
	if err := c.BuildInitramfs(t.Context(), g, needs.Cache(t)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(g.Dir, "web.efi")
	must(t)(c.Rootvouch(t.Context(), "uki", "build", "--kernel", c.Parts.Kernel, "--initrd", g.Initramfs(), "--out", file,
		"--stub", needs.Part(t, "launchers/root/usr/lib/systemd/boot/efi/linuxx64.efi.stub")))
	measured := must(t)(c.Rootvouch(t.Context(), "measure", "--firmware", c.Parts.Firmware, "--uki", file, "--vcpus", "2", "--vcpu-type", demo.CPUType, "--json"))
	if err := os.WriteFile(g.Measurements(), measured, 0o644); err != nil {
		t.Fatal(err)
	}
	must(t)(c.Rootvouch(t.Context(), "refval", "new", "--root-of-trust", "emulated", "--ark", filepath.Join(c.Collateral(), "ark.der"),
		"--measurements", g.Measurements(), "--pins", g.Pins(), "--out", g.Refval()))
	if err := c.trust(g); err != nil {
		t.Fatal(err)
	}
	if err := c.register(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	vm := c.machine(t, g)
	vm.Kernel, vm.Initramfs, vm.CommandLine, vm.UKI = file, "", "", true
	m := c.watch(t, vm)
	m.Expect("rootvouch: config:")
	m.Expect("rootvouch: switch:")
	m.Expect("multi-user.target")
}
