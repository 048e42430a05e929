package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/snp/snphost"
)

// snpDevice asks the AMD-SP of this host.
func snpDevice() (snphost.Identity, error) { return snphost.Open().Identify() }

func newIdentifyCommand(identify func() (snphost.Identity, error)) *cobra.Command {
	var file cli.Output
	cmd := &cobra.Command{
		Use:   "identify --out HOST.json",
		Short: "Write down a host's chip ID and TCB",
		Long: `Ask the AMD-SP of this host, through /dev/sev, for its chip ID and its TCB, and
write them to a file. "collateral fetch --host" takes it to fetch the certificate of
the chip's key (VCEK), and "refval new --minimum-tcb-from" to accept the product at
that TCB or newer.

The command changes nothing on the host. The file holds no secret, but the chip ID
names this machine. It is the host's word: compare the TCB with AMD's security bulletins.`,
		Example: `  rootvouch host identify --out host.json`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := identify()
			switch {
			case errors.Is(err, fs.ErrPermission):
				return command.WithHint(err, "/dev/sev is root's: run this as root")
			case errors.Is(err, fs.ErrNotExist):
				return command.WithHint(err, "rootvouch host check says what this host lacks")
			case err != nil:
				return err
			}
			data, err := id.Encode()
			if err != nil {
				return err
			}
			if err := file.Write(data); err != nil {
				return err
			}
			for _, note := range id.Notes() {
				cli.Say(cmd, "note: %s", note)
			}
			return show(cmd.OutOrStdout(), id)
		},
	}
	file.Bind(cmd, "the host's identity")
	return cmd
}

// show prints an identity for people.
func show(out io.Writer, id snphost.Identity) error {
	tcb, err := id.Reported()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "product: %s, CPUID %s\nfirmware: %s\nreported TCB: %s\n", id.Product, id.CPUID, id.Firmware, tcb); err != nil {
		return err
	}
	for _, chip := range id.ChipIDs {
		if _, err := fmt.Fprintf(out, "chip: %s\n", chip); err != nil {
			return err
		}
	}
	return nil
}
