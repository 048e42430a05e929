// Rootvouch-kms is the key server: it releases a disk's key to the VM whose
// identity and evidence are the ones on record, once per launch.
package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	return command.Main(newRootCommand(), args, stdout, stderr)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "rootvouch-kms",
		Short: "The key server: a disk's key for the VM that its owner measured",
		Long: `rootvouch-kms keeps the keys of encrypted disks and releases each of them to one
caller: the workload with the SPIFFE ID on the disk's record (mutual TLS with an
X.509-SVID), whose evidence, made for this very request, satisfies the record's
reference values. A launch gets a disk's key once. Every release is recorded, with
its leaf for the audit log, before the key leaves.

Records are registered with ` + "`rootvouch keys put`" + ` over the admin socket.`,
	}
	root.AddCommand(newInitCommand(), newServeCommand(), newCheckCommand(), newRestoreCommand(), newKEKCommand(), newJoinCommand(), newLeaveCommand(),
		newAuditCommand())
	return root
}
