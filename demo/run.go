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
	Cache string        // for files that are slow to make and depend on the parts only
	Out   string        // directory for the release, the proof and logs
	Voice *Voice        // tells the user
	Until time.Duration // bound on the VM's start
}

// multiUser is the text that systemd prints when the Debian root is up.
const multiUser = "multi-user.target"

// errRefused ends a demo whose verdict was not "trusted".
var errRefused = errors.New("the verdict is not: trusted")

// run is one run of the demo.
type run struct {
	Options
	*Domain
	release   Release
	vm        *VM
	appraisal []byte
}

// Run does the main job end to end on the emulated platform. It starts the owner's
// servers, builds a release, makes it live, boots a VM of it with a key that its
// evidence earned, and asks it for proof. When Run returns, all processes that it
// started have ended, and only the cache and the output directory are left.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.clear(); err != nil {
		return err
	}
	state, err := os.MkdirTemp("", "rootvouch-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(state)) }()
	d, err := NewDomain(o.Parts, state, o.kept("logs"))
	if err != nil {
		return err
	}
	defer d.Stop()
	v := o.Voice
	d.Show = func(line string) { v.command(strings.ReplaceAll(line, state, "$STATE")) }
	v.banner()
	r := &run{Options: o, Domain: d, release: Release{VM: o.kept("vm.json"), Dir: o.kept("release")}}
	for _, s := range r.steps() {
		if err := v.step(ctx, s); err != nil {
			v.result(r.appraisal)
			return err
		}
	}
	v.closing(o.Out)
	v.result(r.appraisal)
	if !strings.HasSuffix(string(r.appraisal), "\nverdict: trusted\n") {
		return errRefused
	}
	return nil
}

func (o Options) kept(name string) string { return filepath.Join(o.Out, name) }

// clear makes the output directory, and removes the files of an earlier run.
func (o Options) clear() error {
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"logs", "release", "vm.json", proofFile, bootLogFile, "times.jsonl", "timeline.txt", "timeline.svg"} {
		if err := os.RemoveAll(o.kept(name)); err != nil {
			return err
		}
	}
	return nil
}

// Names of the files that the demo keeps.
const (
	proofFile   = "proof.json"
	bootLogFile = "bootlog.json"
)

// steps returns the steps of the demo. Each can say what it proved, once it is
// done.
func (r *run) steps() []step {
	return []step{
		{"roots: of the trust domain, and of the software AMD-SP", r.MakeRoots, text(
			"nothing yet: these two roots are what all proofs below end at")},
		{"SPIRE: stock server with our node attestor, stock agent for the owner", r.StartSPIRE, text(
			"the server takes an agent for its reports alone; no VM is known to it")},
		{"KMS: the key server", r.StartKMS, text(
			"the key server has its identity from SPIRE, and no keys")},
		{"release: disk, gated kernel, initramfs and reference values from vm.json", r.build, r.built},
		{"apply: who the VM is, and what it may have", r.apply, text(
			"SPIRE names the VM by that digest alone; the key waits for its evidence")},
		{"VM: AmdSev firmware, gate, stock kernel, our initramfs", r.boot, text(
			"the AMD-SP signed what was launched, so the key came, once; the disk was",
			"checked to its last block. On any difference PID 1 powers off")},
		{"attestation: a fresh nonce for the running VM", r.attest, text(
			"this very VM, now, is the launch that got the key: see the verdict")},
		{"stop", func(context.Context) error { r.Stop(); return nil }, nil},
	}
}

// text returns a proof with constant text.
func text(lines ...string) func() ([]string, error) {
	return func() ([]string, error) { return lines, nil }
}

func (r *run) build(ctx context.Context) error {
	if err := r.WriteVM(r.release.VM, "web", nil); err != nil {
		return err
	}
	return r.BuildRelease(ctx, r.release, r.Cache)
}

func (r *run) built() ([]string, error) {
	m, err := readManifest(r.release.Dir)
	if err != nil {
		return nil, err
	}
	return []string{
		fmt.Sprintf("one number covers firmware, kernel, command line and disk: %.12s…", m.Shapes[0].Digest),
		"the disk's key is at the key server, and in no file",
	}, nil
}

func (r *run) apply(ctx context.Context) error {
	_, err := r.Apply(ctx, r.release)
	return err
}

func (r *run) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.Until, fmt.Errorf("the VM did not reach %s within %v", multiUser, r.Until))
	defer cancel()
	var err error
	if r.vm, err = r.RunRelease(r.release, r.Voice.console, "--memory", memory, "--start-timeout", r.Until.String(), "--times", r.kept("times.jsonl")); err != nil {
		return err
	}
	defer r.Voice.folded()
	return r.vm.Reached(ctx, multiUser)
}

func (r *run) attest(ctx context.Context) (err error) {
	if r.appraisal, err = r.Attest(ctx, r.vm, filepath.Join(r.release.Dir, "refval.json"),
		"--bundle", r.kept(proofFile), "--boot-log-out", r.kept(bootLogFile)); err != nil {
		return err
	}
	picture, err := r.Rootvouch(ctx, "vm", "timeline", "--times", r.kept("times.jsonl"), "--boot-log", r.kept(bootLogFile), "--svg-out", r.kept("timeline.svg"))
	if err != nil {
		return err
	}
	return os.WriteFile(r.kept("timeline.txt"), picture, 0o644)
}
