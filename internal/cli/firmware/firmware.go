// Package firmware is `rootvouch firmware`: it judges what host code a firmware can run.
package firmware

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/snp/firmware"
	"github.com/rootvouch/rootvouch/snp/launch"
)

// New makes `rootvouch firmware`.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "firmware",
		Short: "Judge and harden firmware: what it can run of its host",
		Long: `Judge and harden firmware.

The launch digest covers the firmware, and through the kernel-hashes page the kernel,
the initramfs and the command line. It does not cover programs that the firmware takes
from its host. A firmware that runs such a program makes the digest worthless, so
"measure", "vm run" and "refval new" refuse it. docs/firmware.md lists images that
were judged.`,
	}
	cmd.AddCommand(newInspectCommand(), newHardenCommand())
	return cmd
}

// open is exit status 1 without a further message.
type open struct{}

func (open) Error() string { return "" }

func newInspectCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "inspect --firmware FILE",
		Short: "Say whether a firmware can run code of its host",
		Long: `Inspect a firmware. For each way in which it could run code of its host, say
whether the way is open, closed or unknown, with the reason.

The inspection recognises the forms that edk2 uses; it does not read machine code in
general. A way that it cannot read is unknown, and counts as open.

The exit status is 0 if every way is closed, and 1 if not.`,
		Example: `  rootvouch firmware inspect --firmware OVMF.amdsev.fd`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := cli.ReadInput(path, launch.MaxImageSize)
			if err != nil {
				return err
			}
			if err := cli.CheckContent(cli.AsFirmware, path, data); err != nil {
				return err
			}
			return inspect(cmd.OutOrStdout(), data)
		},
	}
	cmd.Flags().StringVar(&path, "firmware", "", "firmware file (OVMF)")
	command.Require(cmd, "firmware")
	command.LeavesNothing(cmd)
	return cmd
}

func inspect(out io.Writer, data []byte) error {
	var text bytes.Buffer
	sum := sha256.Sum256(data)
	fmt.Fprintf(&text, "sha256: %x\n", sum)
	for _, known := range firmware.Images() {
		if known.SHA256 == hex.EncodeToString(sum[:]) {
			fmt.Fprintf(&text, "judged: %s: %v: %s\n", known.Name, known.Answer, known.Why)
		}
	}
	for _, f := range firmware.Inspect(data).Findings {
		fmt.Fprintln(&text, f)
	}
	err := firmware.Check(data)
	if err == nil {
		fmt.Fprintln(&text, "verdict: runs nothing of its host before the measured kernel")
	} else {
		fmt.Fprintln(&text, "verdict: may run code of its host")
		err = open{}
	}
	if _, writing := text.WriteTo(out); writing != nil {
		return writing
	}
	return err
}

func newHardenCommand() *cobra.Command {
	var path string
	var out cli.Output
	cmd := &cobra.Command{
		Use:   "harden --firmware FILE --out FILE",
		Short: "Write a copy of a firmware that runs nothing of its host",
		Long: `Write a copy of a firmware in which the path of the optional program before the
kernel leads nowhere. The firmware then goes on to the kernel that it verifies.

The copy depends only on the input: it is the same on every machine. It has another
launch digest, so it needs reference values of its own. If another way stays open, the
command refuses the firmware and writes nothing. It prints the SHA-256 of the copy on
standard output.`,
		Example: `  rootvouch firmware harden --firmware OVMF.amdsev.fd --out OVMF.hardened.fd`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := cli.ReadInput(path, launch.MaxImageSize)
			if err != nil {
				return err
			}
			if err := cli.CheckContent(cli.AsFirmware, path, data); err != nil {
				return err
			}
			hard, err := firmware.Harden(data)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if err := out.Write(hard); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%x\n", sha256.Sum256(hard))
			return err
		},
	}
	cmd.Flags().StringVar(&path, "firmware", "", "firmware file (OVMF)")
	out.Bind(cmd, "hardened firmware to write")
	command.Require(cmd, "firmware")
	return cmd
}
