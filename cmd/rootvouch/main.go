// Rootvouch builds, measures, launches and checks confidential VMs whose root
// disk opens only for the boot chain that its owner measured.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// The terminal's voice: results go to standard output and nothing else does.
// An error is one line, "rootvouch: error: …"; advice is a line of its own,
// "rootvouch: hint: …". Progress goes to standard error.

// Exit statuses. Commands document further ones in their help.
const (
	exitError     = 1
	exitUsage     = 64  // EX_USAGE of sysexits.h
	exitInterrupt = 130 // 128 + SIGINT, as shells have it
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil {
		fmt.Fprintln(stderr, "rootvouch: interrupted")
		return exitInterrupt
	}
	if message := err.Error(); message != "" {
		fmt.Fprintf(stderr, "rootvouch: error: %s\n", message)
	}
	if hinted, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		fmt.Fprintf(stderr, "rootvouch: hint: %s\n", hinted.Hint())
	}
	if coded, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok && coded.ExitCode() > 0 {
		return coded.ExitCode()
	}
	return exitError
}

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func (usageError) ExitCode() int { return exitUsage }

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "rootvouch",
		Short: "Disks that open only for the boot chain that their owner measured",
		Long: `rootvouch roots the disk of a confidential VM in the processor that runs it.

It builds an encrypted, integrity-protected disk and the initramfs that opens
it, computes the launch digest that AMD SEV-SNP will measure, launches the VM,
and checks the evidence that the running VM gives. The disk's key is released
by rootvouch-kms, and only to a VM whose evidence stands.

Everything runs on real hardware (--platform snp) and, for those with no such
hardware on their desk, emulated: the same bytes, NOT CONFIDENTIAL.

  rootvouch demo          shows the whole chain on this machine
  rootvouch help COMMAND  explains one command, with an example`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		newAttestCommand(),
		newCollateralCommand(),
		newDemoCommand(),
		newImageCommand(),
		newInitramfsCommand(),
		newKeysCommand(),
		newMeasureCommand(),
		newRefvalCommand(),
		newReportCommand(),
		newSpireCommand(),
		newVMCommand(),
	)
	return root
}

// version is what the Go tool chain recorded about this build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}
