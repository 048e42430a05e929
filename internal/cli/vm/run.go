package vm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/boot/timeline"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/shell"
	"github.com/rootvouch/rootvouch/platform"
)

// Exit statuses of vm run.
const (
	exitKernelNeverStarted = 3
	exitReset              = 4
	exitTimedOut           = 5
)

// runFlags are the flags of vm run as given.
type runFlags struct {
	guestFlags
	kind string

	qemu, asp, log        string
	times                 string
	print, asJSON         bool
	startTimeout, timeout time.Duration
}

func newRunCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run --platform emulated|snp (--release-dir DIR | --firmware FILE (--kernel FILE --initrd FILE | --uki FILE) [--disk FILE])",
		Short: "Launch a VM and show its console until it ends",
		Long: `Launch a VM and show its console until it ends.

--release-dir takes firmware, kernel, initramfs and disk from a directory that "release
build" made. It refuses a shape (--vcpus, --vcpu-type) that the release does not have,
because the VM would get no key. Give a --volume for each volume of the release.

The firmware must be an AmdSev OVMF that runs nothing of its host: "rootvouch
firmware harden" makes one. The firmware checks kernel, initramfs and command line
against hashes that are part of the launch digest. If they differ, it stops without a
message; vm run notices that no kernel started, says so, and ends the VM. The disk is
attached read-only, a --volume writable. A reset ends the VM: each launch boots once.

Standard output has the guest's serial port, line by line, without control characters;
--log keeps it unchanged. Standard error has the launch digest, the forwarded ports,
and how the VM ended.

On the emulated platform --asp names the directory of a software AMD-SP (see "vm
asp init"), whose reports vouch for the VM, and whose collateral directory gets a
fresh CRL. On snp the host must have KVM, SEV-SNP and QEMU 9.1 or newer; the error
lists all that is missing. vm run refuses files that do not fit their flags, too little
memory to unpack the initramfs, and a boot.json for the other platform or another gate.
The command line is that of the initramfs's boot.json; an initramfs of another maker
takes --append. --print shows the QEMU command and does not run it.

Ctrl-C ends the VM. Only the log stays.

With --json standard output has one JSON document instead of the console (--log keeps
the console): it says how the VM ended, for each end with an exit status of its own.

Exit status: 0 the guest powered itself off, also after a boot that its PID 1 refused;
3 the kernel never started; 4 the guest reset itself, as a kernel panic does; 5 --timeout
was reached; 64 usage; 130 interrupted; 1 anything else.`,
		Example: `  rootvouch vm run --platform emulated --asp amd-sp \
    --firmware OVMF.hardened.fd --kernel gated.efi --initrd initramfs.img \
    --disk disk.img --forward 127.0.0.1:8444=8444
  rootvouch vm run --platform emulated --asp amd-sp --release-dir release-1 --vcpus 2
  rootvouch vm run --platform snp --print --firmware OVMF.hardened.fd \
    --kernel gated.efi --initrd initramfs.img --disk disk.img`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g, err := f.build()
			if err != nil {
				return command.Usage(err)
			}
			if g, err = f.complete(cmd, g); err != nil {
				return err
			}
			if g.Kind == platform.Emulated {
				cli.Say(cmd, "%s", platform.Warning)
			}
			if f.print {
				return f.printCommand(cmd, g)
			}
			return f.run(cmd, g)
		},
	}
	f.bind(cmd)
	return cmd
}

func (f *runFlags) bind(cmd *cobra.Command) {
	f.guestFlags.bind(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.kind, "platform", "", "emulated (NOT CONFIDENTIAL) or snp")
	flags.StringVar(&f.network, "netdev", "user", "host's end of the network: user, bridge=NAME or tap=NAME")
	flags.StringArrayVar(&f.forwards, "forward", nil, "forward a TCP port of a loopback address, [ADDRESS:]PORT=GUEST-PORT; port 0 chooses a free one (repeatable)")
	flags.StringVar(&f.asp, "asp", "", "directory of the software AMD-SP (emulated)")
	flags.StringVar(&f.qemu, "qemu", platform.DefaultQEMU, "QEMU program")
	flags.StringVar(&f.log, "log", "", "file for the unchanged console output; an existing one is replaced")
	flags.BoolVar(&f.print, "print", false, "print the QEMU command and do not run it")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON (how the VM ended, in the console's place)")
	cmd.MarkFlagsMutuallyExclusive("json", "print")
	flags.DurationVar(&f.startTimeout, "start-timeout", 0, "how long the kernel may take to start (default 30s and 0.5s per MiB of kernel and initramfs)")
	flags.DurationVar(&f.timeout, "timeout", 0, "how long to wait before giving up (for the VM to end; default: without limit)")
	flags.StringVar(&f.times, "times", "", "file for the times of the console's lines, for \"vm timeline\" (an existing one is replaced)")
	command.Require(cmd, "platform")
	command.Choices(cmd, "platform", string(platform.Emulated), string(platform.SNP))
	command.NotEmpty(cmd, "netdev", "asp", "qemu", "log", "times")
}

// build makes a checked guest from the flags.
func (f *runFlags) build() (platform.Guest, error) {
	kind, err := platform.ParseKind(f.kind)
	if err != nil {
		return platform.Guest{}, err
	}
	g, err := f.guestFlags.build(kind)
	if err != nil {
		return g, err
	}
	// Two guests on one bridge must not share an address. A random one is new in each launch;
	// --mac keeps it.
	if g.Network.Kind != platform.User && g.Network.MAC == nil {
		g.Network.MAC = platform.MACOf(rand.Text())
	}
	switch {
	case g.Kind == platform.Emulated && f.asp == "" && !f.print:
		return g, errors.New("--asp is missing: the emulated platform needs a software AMD-SP, which rootvouch vm asp init makes")
	case g.Kind != platform.Emulated && f.asp != "":
		return g, fmt.Errorf("--asp goes with --platform %v only", platform.Emulated)
	}
	if f.startTimeout < 0 || f.timeout < 0 {
		return g, errors.New("a timeout is negative")
	}
	return g, nil
}

// printCommand prints a command that runs from any directory, and that Ctrl-C ends.
func (f *runFlags) printCommand(cmd *cobra.Command, g platform.Guest) error {
	if err := absolute(&g); err != nil {
		return err
	}
	argv, m, err := platform.Command(f.qemu, g)
	if err != nil {
		return cli.HintBareKernel(cli.HintHostCode(err))
	}
	cli.Say(cmd, "launch digest: %v", m.Digest)
	if g.Kind == platform.Emulated {
		cli.Say(cmd, "hint: run by hand, this command lacks the kernel-hashes page and descriptor 3, the software AMD-SP")
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), shell.Quote(argv...))
	return err
}

func (f *runFlags) run(cmd *cobra.Command, g platform.Guest) (err error) {
	o := platform.Options{QEMU: f.qemu, Rand: rand.Reader, StartTimeout: f.startTimeout, Timeout: f.timeout}
	if g.Kind == platform.Emulated {
		if o.AMDSP, err = openASP(f.asp); err != nil {
			return err
		}
	}
	if f.log != "" {
		log, err := os.OpenFile(f.log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return fmt.Errorf("opening the log: %w", err)
		}
		defer func() { err = errors.Join(err, log.Close()) }()
		o.Log = log
	}
	begin := time.Now()
	times, err := openTimes(f.times, begin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, times.close()) }()
	var broken error // the error of standard output; set before Wait returns
	out := cmd.OutOrStdout()
	o.Console = func(line string) {
		times.line(line)
		if broken == nil && !f.asJSON {
			_, broken = fmt.Fprintln(out, line)
		}
	}
	vm, err := platform.Start(cmd.Context(), g, o)
	if err != nil {
		return cli.HintBareKernel(cli.HintHostCode(err))
	}
	said := newEnding(g, vm)
	said.announce(cmd)
	ended := make(chan platform.Result, 1)
	go func() { ended <- vm.Wait() }()
	var result platform.Result
	select {
	case <-vm.Started():
		times.mark(timeline.Kernel)
		started := time.Since(begin)
		said.started(started)
		cli.Say(cmd, "kernel: started after %v", started.Round(time.Millisecond))
		result = <-ended
	case result = <-ended:
	}
	took := time.Since(begin)
	if f.asJSON {
		said.end(result, took)
		broken = cli.PrintJSON(out, said)
	}
	if err := result.Err(); err != nil {
		return vmEnd{err, result.Outcome}
	}
	cli.Say(cmd, "powered off after %v", took.Round(time.Millisecond))
	if broken != nil {
		return fmt.Errorf("writing the console: %w", broken)
	}
	return nil
}

// vmEnd is the end of a VM with its exit status and hint.
type vmEnd struct {
	error
	outcome platform.Outcome
}

func (e vmEnd) Unwrap() error { return e.error }

func (e vmEnd) ExitCode() int {
	switch e.outcome {
	case platform.KernelNeverStarted:
		return exitKernelNeverStarted
	case platform.Reset:
		return exitReset
	case platform.TimedOut:
		return exitTimedOut
	}
	return command.ExitError
}
