package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/internal/shell"
)

// The demo's VM. All of this except the memory is measured.
const (
	VCPUs   = 2
	CPUType = "EPYC-v4"
	memory  = "1G"
)

// Guest holds the inputs of a VM's launch, each as a file in one directory.
type Guest struct {
	Dir  string
	Name string // lower-case letters, digits and hyphens
}

// WorkloadID returns the SPIFFE ID that the guest's fetchkey gets. The key's record
// names the same ID.
func (g Guest) WorkloadID() string { return "spiffe://" + TrustDomain + "/vm/" + g.Name }

func (g Guest) path(name string) string { return filepath.Join(g.Dir, name) }

// The paths of the guest's files. None is secret.
func (g Guest) Disk() string         { return g.path("disk.img") }
func (g Guest) Pins() string         { return g.path("pins.json") }
func (g Guest) BootConfig() string   { return g.path("boot.json") }
func (g Guest) Initramfs() string    { return g.path("initramfs.img") }
func (g Guest) Kernel() string       { return g.path("gated.efi") }
func (g Guest) Measurements() string { return g.path("measurements.json") }
func (g Guest) Refval() string       { return g.path("refval.json") }

// Key returns the path at which the domain keeps a disk's key until the KMS has it.
func (d *Domain) Key(g Guest) string { return d.path(g.Name + ".key") }

// BuildImage makes disk, pins and key from a root tree. Further arguments go to
// `image build`.
func (d *Domain) BuildImage(ctx context.Context, g Guest, root string, more ...string) error {
	_, err := d.Rootvouch(ctx, append([]string{"image", "build", "--root", root,
		"--out", g.Disk(), "--key-out", d.Key(g), "--pins-out", g.Pins(), "--force"}, more...)...)
	return err
}

// BuildKernel puts the stock kernel behind the gate.
func (d *Domain) BuildKernel(ctx context.Context, g Guest) error {
	_, err := d.Rootvouch(ctx, "gate", "build", "--kernel", d.Parts.Kernel, "--out", g.Kernel(), "--force")
	return err
}

// BuildInitramfs makes the initramfs: a base, whose compressed form is kept in
// cache, and boot.json. Further arguments go to `initramfs config`.
func (d *Domain) BuildInitramfs(ctx context.Context, g Guest, cache string, config ...string) error {
	base := d.path(g.Name + ".base.img")
	if _, err := d.Rootvouch(ctx, "initramfs", "build", "--kernel-tree", d.Parts.KernelTree,
		"--guest-bin", d.Parts.GuestBin, "--cache-dir", cacheDir(cache), "--out", base, "--force"); err != nil {
		return err
	}
	args := append([]string{"initramfs", "config", "--trust-domain", TrustDomain,
		"--spire-address", d.SPIREAddress(), "--trust-root", d.TrustRoot(), "--kms-address", d.KMSAddress(),
		"--pins", g.Pins(), "--report-device", "virtio-port", "--out", g.BootConfig(), "--force"}, config...)
	if _, err := d.Rootvouch(ctx, args...); err != nil {
		return err
	}
	_, err := d.Rootvouch(ctx, "initramfs", "configure", "--base", base, "--boot-config", g.BootConfig(),
		"--out", g.Initramfs(), "--force")
	return err
}

// cacheDir returns the directory for compressed bases of initramfs.
func cacheDir(cache string) string { return filepath.Join(cache, "initramfs") }

// Measure makes the guest's reference values.
func (d *Domain) Measure(ctx context.Context, g Guest) error {
	printed, err := d.rootvouchTo(ctx, g.Measurements(), "measure", "--mode", "snp", "--firmware", d.Parts.Firmware,
		"--kernel", g.Kernel(), "--initrd", g.Initramfs(),
		"--vcpus", strconv.Itoa(VCPUs), "--vcpu-type", CPUType, "--json")
	if err != nil {
		return err
	}
	if err := os.WriteFile(g.Measurements(), printed, 0o644); err != nil {
		return err
	}
	_, err = d.Rootvouch(ctx, "refval", "new", "--root-of-trust", "emulated",
		"--ark", filepath.Join(d.Collateral(), "ark.der"), "--measurements", g.Measurements(),
		"--pins", g.Pins(), "--out", g.Refval(), "--force")
	return err
}

// TrustValues replaces the SPIRE server's reference values. The server reads them
// again whenever they change.
func (d *Domain) TrustValues(data []byte) error { return durable.WriteFile(d.Refval(), data, 0o644) }

// Register makes the guest's registration entries.
func (d *Domain) Register(ctx context.Context, g Guest) error {
	_, err := d.Rootvouch(ctx, "spire", "entries", "--socket", d.SPIRESocket(), "--trust-domain", TrustDomain,
		"--name", g.Name, "--spiffe-id", g.WorkloadID(), "--refval", g.Refval(),
		"--fetchkey", filepath.Join(d.Parts.GuestBin, "fetchkey"))
	return err
}

// PutKey registers the disk's key with the KMS.
func (d *Domain) PutKey(ctx context.Context, g Guest) error {
	_, err := d.Rootvouch(ctx, "keys", "put", "--kms-socket", d.KMSSocket(), "--spiffe-id", g.WorkloadID(),
		"--pins", g.Pins(), "--refval", g.Refval(), "--key", d.Key(g))
	return err
}

// VM is a running guest.
type VM struct {
	process *process
	lines   *lineWatcher
	address string // of attestd, on this machine
}

// RunVM launches the guest and gives each console line to onLine.
func (d *Domain) RunVM(g Guest, onLine func(string)) (*VM, error) {
	return d.runVM(onLine, "--firmware", d.Parts.Firmware, "--kernel", g.Kernel(), "--initrd", g.Initramfs(), "--disk", g.Disk(),
		"--vcpus", strconv.Itoa(VCPUs), "--vcpu-type", CPUType, "--memory", memory)
}

// runVM launches a VM that the further arguments of `vm run` describe.
func (d *Domain) runVM(onLine func(string), what ...string) (*VM, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args := append([]string{"vm", "run", "--platform", "emulated", "--asp", d.AMDSP(), "--forward", "127.0.0.1:" + port + "=8444"}, what...)
	d.show("$ rootvouch " + shell.Quote(args...))
	lines := newLineWatcher(onLine)
	p, err := startProcessTo("vm", d.Logs, lines, append([]string{d.Parts.Rootvouch}, args...)...)
	if err != nil {
		return nil, err
	}
	d.stopper.add(p.stop)
	return &VM{process: p, lines: lines, address: "127.0.0.1:" + port}, nil
}

// Address returns the address of the VM's attestd.
func (vm *VM) Address() string { return vm.address }

// Ended returns a channel that is closed when the VM has ended.
func (vm *VM) Ended() <-chan struct{} { return vm.process.done }

// Stop ends the VM.
func (vm *VM) Stop() { vm.process.stop() }

// Reached waits until a console line contains text. It fails if the VM ends first.
func (vm *VM) Reached(ctx context.Context, text string) error {
	found := vm.lines.find(text)
	select {
	case <-found:
		return nil
	case <-vm.process.done:
		return fmt.Errorf("the VM ended (%v) before %q; its last line: %s", vm.process.err, text, vm.lines.last())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Attest asks the VM for evidence and appraises it by reference values. Further
// arguments go to `attest`. A refusal is an error, and the output has each failed
// check.
func (d *Domain) Attest(ctx context.Context, vm *VM, refval string, more ...string) ([]byte, error) {
	out, err := d.Rootvouch(ctx, append([]string{"attest", "--address", vm.address, "--refval", refval,
		"--collateral-dir", d.Collateral(), "--release", "--kms-socket", d.KMSSocket()}, more...)...)
	var failed *commandError
	if errors.As(err, &failed) {
		failed.said = strings.TrimSpace(string(out) + "\n" + failed.said)
	}
	return out, err
}
