package measure

import (
	"bytes"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/snp/launch"
)

func newFirmwareCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "firmware --firmware FILE",
		Short: "Show what a firmware says about its launch",
		Long: `Show the SEV metadata of a firmware in measured order, and the launch digest after the
firmware's own pages, which "rootvouch measure" takes as --firmware-hash.`,
		Example: `  rootvouch measure firmware --firmware OVMF.amdsev.fd`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, f, err := readFirmware(cli.AsFirmware, path, true)
			if err != nil {
				return err
			}
			return printFirmware(cmd.OutOrStdout(), path, f)
		},
	}
	cmd.Flags().StringVar(&path, "firmware", "", "firmware file")
	command.Require(cmd, "firmware")
	command.LeavesNothing(cmd)
	return cmd
}

func printFirmware(out io.Writer, path string, f *launch.Firmware) error {
	base, err := launch.NewBase(launch.SNP, f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	digest, err := base.FirmwareDigest()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "firmware-hash: %x\n", digest)
	if eip, err := f.ResetEIP(); err == nil {
		fmt.Fprintf(&text, "reset-address: %#x\n", eip)
	}
	for _, s := range f.Sections() {
		fmt.Fprintf(&text, "section: %#x %#x %v\n", s.GPA, s.Size, s.Type)
	}
	_, err = text.WriteTo(out)
	return err
}
