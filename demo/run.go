package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Options say where the demo finds its parts and leaves its results.
type Options struct {
	Parts Parts
	Cache string        // for what is slow to make and depends on the parts alone
	Out   string        // directory for disk, initramfs, reference values and logs
	Voice *Voice        // tells the user
	Until time.Duration // how long the VM may take to come up
}

// multiUser is what systemd says when the Debian root is up.
const multiUser = "multi-user.target"

// errRefused ends a demo whose verdict was not "trusted".
var errRefused = errors.New("the verdict is not: trusted")

// Run does the main job end to end on the emulated platform. It makes a disk, a
// measured initramfs and reference values, starts the owner's servers, boots the VM
// with a key that its evidence earned, and asks it for proof. When Run returns, all
// processes that it started have ended, and only the cache and the output directory
// are left.
func Run(ctx context.Context, o Options) (err error) {
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return err
	}
	state, err := os.MkdirTemp("", "rootvouch-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(state)) }()
	logs := filepath.Join(o.Out, "logs")
	if err := os.RemoveAll(logs); err != nil {
		return err
	}
	d, err := NewDomain(o.Parts, state, logs)
	if err != nil {
		return err
	}
	defer d.Stop()
	v := o.Voice
	d.Show = func(line string) { v.command(strings.ReplaceAll(line, state, "$STATE")) }
	v.banner()
	g := Guest{Dir: o.Out, Name: "web"}
	var vm *VM
	var appraisal []byte
	for _, s := range []step{
		{"roots: of the trust domain, and of the software AMD-SP", d.MakeRoots},
		{"disk: a Debian root, encrypted, with dm-verity", func(ctx context.Context) error { return d.BuildImage(ctx, g, o.Parts.Root) }},
		{"kernel: the stock one behind the gate, which replaces the host's ACPI tables", func(ctx context.Context) error { return d.BuildKernel(ctx, g) }},
		{"initramfs: modules, programs, and boot.json with the pins", func(ctx context.Context) error { return d.BuildInitramfs(ctx, g, o.Cache) }},
		{"reference values: the launch digest that the AMD-SP must find", func(ctx context.Context) error {
			if err := d.Measure(ctx, g); err != nil {
				return err
			}
			return d.Trust(g)
		}},
		{"SPIRE: stock server with our node attestor, stock agent for the owner", d.StartSPIRE},
		{"KMS", d.StartKMS},
		{"entries and key: who the VM is, and what it may have", func(ctx context.Context) error {
			if err := d.Register(ctx, g); err != nil {
				return err
			}
			return d.PutKey(ctx, g)
		}},
		{"VM: AmdSev firmware, gate, stock kernel, our initramfs", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeoutCause(ctx, o.Until, fmt.Errorf("the VM did not reach %s within %v", multiUser, o.Until))
			defer cancel()
			if vm, err = d.RunVM(g, v.console); err != nil {
				return err
			}
			return vm.Reached(ctx, multiUser)
		}},
		{"attestation: a fresh nonce for the running VM", func(ctx context.Context) error {
			appraisal, err = d.Attest(ctx, vm, g)
			return err
		}},
		{"stop", func(context.Context) error { d.Stop(); return nil }},
	} {
		if err := v.step(ctx, s); err != nil {
			v.result(appraisal)
			return err
		}
	}
	v.closing(o.Out)
	v.result(appraisal)
	if !strings.HasSuffix(string(appraisal), "\nverdict: trusted\n") {
		return errRefused
	}
	return nil
}
