// Package gate is `rootvouch gate`: the program that is measured in the kernel's
// place.
package gate

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/gate/program"
	"github.com/rootvouch/rootvouch/gate/tables"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
)

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gate",
		Short: "Put a kernel behind the gate: constants in place of the host's ACPI tables",
		Long: `Put a kernel behind the gate.

The host makes the ACPI tables of a VM, and the launch digest does not cover them.
They hold bytecode that runs in the kernel, and addresses to which the kernel writes.
The gate is a small EFI program that is measured in the kernel's place. It replaces
every ACPI table by constants, removes the host's other EFI tables, and starts the
stock kernel that it carries.

"measure", "vm run" and later commands take the gated file as the kernel. The gate
is made for QEMU's q35 with the AmdSev firmware; on another machine it prints one line
and powers off. docs/spec/gate.md has every byte.`,
	}
	cmd.AddCommand(newBuildCommand(), newInspectCommand())
	return cmd
}

func newBuildCommand() *cobra.Command {
	var kernel string
	var out cli.Output
	cmd := &cobra.Command{
		Use:   "build --kernel FILE --out FILE",
		Short: "Write a gate that carries a kernel",
		Long: `Write a gate that carries a kernel, a stock bzImage with an EFI stub.

The file depends only on the kernel and the version of rootvouch: it is the same on
every machine. The command prints its SHA-256 on standard output.`,
		Example: `  rootvouch gate build --kernel vmlinuz --out gated.efi`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := cli.ReadInput(kernel, gate.MaxKernel)
			if err != nil {
				return err
			}
			if err := cli.CheckContent(cli.AsKernel, kernel, data); err != nil {
				return err
			}
			file, err := gate.Build(data)
			if err != nil {
				return fmt.Errorf("%s: %w", kernel, err)
			}
			if err := out.Write(file); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%x\n", sha256.Sum256(file))
			return err
		},
	}
	cmd.Flags().StringVar(&kernel, "kernel", "", "kernel file")
	out.Bind(cmd, "gated kernel to write")
	command.Require(cmd, "kernel")
	return cmd
}

func newInspectCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "inspect --kernel FILE",
		Short: "Say what is in a gated kernel",
		Long: `Say what is in a gated kernel: the gate, the kernel, and each ACPI table as it is in
the file, with zeros where the gate fills in values of the machine.

The command makes a gate for the kernel in the file and compares the two. A bare
kernel, or a gate of another version, is an error.`,
		Example: `  rootvouch gate inspect --kernel gated.efi`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := cli.ReadInput(path, gate.MaxFile)
			if err != nil {
				return err
			}
			if err := cli.CheckContent(cli.AsKernel, path, file); err != nil {
				return err
			}
			kernel, err := gate.Open(file)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			return show(cmd.OutOrStdout(), file, kernel)
		},
	}
	cmd.Flags().StringVar(&path, "kernel", "", "kernel file")
	command.Require(cmd, "kernel")
	command.LeavesNothing(cmd)
	return cmd
}

func show(out io.Writer, file, kernel []byte) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "gate: %v\n", gate.ID())
	fmt.Fprintf(&text, "file: %x, %d bytes\n", sha256.Sum256(file), len(file))
	fmt.Fprintf(&text, "kernel: %x, %d bytes\n", sha256.Sum256(kernel), len(kernel))
	code := program.Code()
	fmt.Fprintf(&text, "code: %x, %d bytes\n", sha256.Sum256(code), len(code))
	for _, t := range tables.New().Tables() {
		fmt.Fprintf(&text, "table: %-4s %x, %d bytes\n", t.Name, sha256.Sum256(t.Bytes), len(t.Bytes))
	}
	_, err := text.WriteTo(out)
	return err
}
