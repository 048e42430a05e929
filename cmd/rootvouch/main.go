// Rootvouch builds, measures, launches and checks confidential VMs whose root
// disk opens only for the boot chain that its owner measured.
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
	}
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
