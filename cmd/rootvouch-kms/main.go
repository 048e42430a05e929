// Rootvouch-kms is the key server. It releases a disk's key, once per launch, to the VM whose
// identity and evidence match the disk's record.
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
		Long: `rootvouch-kms keeps the keys of encrypted disks. It releases each key to one caller: the
workload with the SPIFFE ID on the disk's record (mutual TLS with an X.509-SVID). The
caller's evidence must be made for this very request, and satisfy the record's reference
values. A launch gets a disk's key once. Before a key leaves, the release is recorded,
with its leaf for the audit log.

Records are registered with ` + "`rootvouch keys put`" + ` over the admin socket.`,
	}
	root.AddCommand(newInitCommand(), newServeCommand(), newCheckCommand(), newRestoreCommand(), newKEKCommand(), newJoinCommand(), newLeaveCommand(),
		newAuditCommand())
	return root
}
