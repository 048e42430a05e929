// Rootvouch-kms is the key server: it releases a disk's key to the VM whose
// identity and evidence are the ones on record, once per launch.
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

// Exit statuses: 0 done, 1 failed, 64 (EX_USAGE of sysexits.h) not a command that
// can be meant.
const (
	exitError = 1
	exitUsage = 64
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
	fmt.Fprintf(stderr, "rootvouch-kms: error: %v\n", err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitError
}

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "rootvouch-kms",
		Short: "The key server: a disk's key for the VM that its owner measured",
		Long: `rootvouch-kms keeps the keys of encrypted disks and releases each of them to one
caller: the workload with the SPIFFE ID on the disk's record (mutual TLS with an
X.509-SVID), whose evidence, made for this very request, satisfies the record's
reference values. A launch gets a disk's key once. Every release is on the audit
log before the key leaves.

Records are registered with ` + "`rootvouch keys put`" + ` over the admin socket.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newInitCommand(), newServeCommand(), newAuditCommand())
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
