// Rootvouch builds, measures, launches and checks confidential VMs. The root disk of such a VM
// opens only for the boot chain that its owner measured.
package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli/attest"
	"github.com/rootvouch/rootvouch/internal/cli/collateral"
	"github.com/rootvouch/rootvouch/internal/cli/demo"
	"github.com/rootvouch/rootvouch/internal/cli/firmware"
	"github.com/rootvouch/rootvouch/internal/cli/gate"
	"github.com/rootvouch/rootvouch/internal/cli/host"
	"github.com/rootvouch/rootvouch/internal/cli/image"
	"github.com/rootvouch/rootvouch/internal/cli/initramfs"
	"github.com/rootvouch/rootvouch/internal/cli/keys"
	"github.com/rootvouch/rootvouch/internal/cli/measure"
	"github.com/rootvouch/rootvouch/internal/cli/refval"
	"github.com/rootvouch/rootvouch/internal/cli/release"
	"github.com/rootvouch/rootvouch/internal/cli/report"
	"github.com/rootvouch/rootvouch/internal/cli/spire"
	"github.com/rootvouch/rootvouch/internal/cli/uki"
	"github.com/rootvouch/rootvouch/internal/cli/vm"
	"github.com/rootvouch/rootvouch/internal/cli/volume"
	"github.com/rootvouch/rootvouch/internal/command"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 2 && args[0] == "help" && args[1] == "spire" {
		args = append([]string{"spire", "help"}, args[2:]...) // only rootvouch-spire knows its commands
	}
	return command.Main(newRootCommand(args), args, stdout, stderr)
}

// commands maps each noun to the function that makes its commands.
func commands() map[string]func() *cobra.Command {
	return map[string]func() *cobra.Command{
		"attest":     attest.New,
		"collateral": collateral.New,
		"demo":       demo.New,
		"firmware":   firmware.New,
		"gate":       gate.New,
		"host":       host.New,
		"image":      image.New,
		"initramfs":  initramfs.New,
		"keys":       keys.New,
		"measure":    measure.New,
		"refval":     refval.New,
		"release":    release.New,
		"report":     report.New,
		"spire":      spire.New,
		"uki":        uki.New,
		"vm":         vm.New,
		"volume":     volume.New,
	}
}

// newRootCommand makes the one command that args begin with. If args name no command, it makes
// all. To make all takes longer than most measurements.
func newRootCommand(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "rootvouch",
		Short: "Disks that open only for the boot chain that their owner measured",
		Long: `rootvouch roots the disk of a confidential VM in the processor that runs it.

It builds an encrypted, integrity-protected disk and the initramfs that opens it. It
computes the launch digest that AMD SEV-SNP will measure, launches the VM, and checks
the evidence that the running VM gives. rootvouch-kms releases the disk's key, and only
to a VM whose evidence passes.

Everything runs on real hardware (--platform snp) or, for those without that hardware,
emulated: the same bytes, NOT CONFIDENTIAL.

  rootvouch demo          shows the whole chain on this machine
  rootvouch help COMMAND  explains one command, with an example`,
	}
	if len(args) > 0 {
		if create, ok := commands()[args[0]]; ok {
			root.AddCommand(create())
			root.CompletionOptions.DisableDefaultCmd = true
			return root
		}
	}
	for _, create := range commands() {
		root.AddCommand(create())
	}
	return root
}
