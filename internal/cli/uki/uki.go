// Package uki is "rootvouch uki": it puts kernel, initramfs and command line into one file.
package uki

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/uki"
)

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "uki",
		Short: "Put kernel, initramfs and command line into one file",
		Long: `Put kernel, initramfs and command line into one EFI application, a unified kernel
image, for launchers that take one file. The launch digest covers the whole file as the
kernel: "measure --uki" and "vm run --uki" take it.

The first program in the image is systemd's stub. The gate comes before it, and carries
the image as it carries a kernel.`,
	}
	cmd.AddCommand(newBuildCommand(), newInspectCommand())
	return cmd
}

// stubPath is the stub in Debian's systemd-boot-efi.
const stubPath = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

type buildFlags struct {
	stub, kernel, initrd, commandLine, osRelease string
	bare                                         bool
	out                                          cli.Output
}

func newBuildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build --kernel FILE --initrd FILE --out FILE",
		Short: "Write a unified kernel image behind the gate",
		Long: `Write a unified kernel image of a stock kernel and a configured initramfs, and put
it behind the gate. The command line is that of the initramfs's boot.json; it cannot be
changed at launch. The same files give the same bytes.

With --kernel-runs-host-code there is no gate, and the bytes are those that systemd's
ukify writes for the same kernel, initramfs, command line, os-release and stub.

The command prints the SHA-256 of the file on standard output.`,
		Example: `  rootvouch uki build --kernel vmlinuz --initrd initramfs.img --out web.efi`,
		Args:    command.NoArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.stub, "stub", stubPath, "systemd's EFI stub, linuxx64.efi.stub, without a signature")
	flags.StringVar(&f.kernel, "kernel", "", "kernel file")
	flags.StringVar(&f.initrd, "initrd", "", "initramfs file")
	flags.StringVar(&f.commandLine, "append", "", "kernel command line")
	flags.StringVar(&f.osRelease, "os-release", "", "os-release file, for people who inspect the image (default: none)")
	cli.BareKernel(cmd, &f.bare)
	f.out.Bind(cmd, "unified kernel image")
	command.Require(cmd, "kernel", "initrd")
	command.NotEmpty(cmd, "stub", "os-release")
	return cmd
}

func (f *buildFlags) run(cmd *cobra.Command) error {
	c, err := cli.BootConfig(f.initrd)
	if err != nil {
		return err
	}
	line, err := cli.CommandLine(f.initrd, c, f.commandLine, cmd.Flags().Changed("append"))
	if err != nil {
		return err
	}
	if line == "" {
		return command.Usage(fmt.Errorf("--append is missing: %s has no boot.json that names a command line", f.initrd))
	}
	parts := uki.Parts{CommandLine: line}
	for _, file := range []struct {
		path string
		to   *[]byte
	}{{f.stub, &parts.Stub}, {f.kernel, &parts.Kernel}, {f.initrd, &parts.Initramfs}, {f.osRelease, &parts.OSRelease}} {
		if file.path == "" {
			continue
		}
		if *file.to, err = cli.ReadInput(file.path, gate.MaxKernel); err != nil {
			if file.path == stubPath {
				return command.WithHint(err, "Debian's package systemd-boot-efi has it; --stub names another")
			}
			return err
		}
	}
	if err := cli.CheckContent(cli.AsInitramfs, f.initrd, parts.Initramfs); err != nil {
		return err
	}
	if gate.Is(parts.Kernel) {
		return command.WithHint(fmt.Errorf("%s is behind the gate already", f.kernel), "give the stock kernel: the gate goes before the whole image")
	}
	if err := cli.CheckContent(cli.AsKernel, f.kernel, parts.Kernel); err != nil {
		return err
	}
	image, err := uki.Build(parts)
	if err != nil {
		return err
	}
	if !f.bare {
		if image, err = gate.Build(image); err != nil {
			return err
		}
	}
	if err := f.out.Write(image); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%x\n", sha256.Sum256(image))
	return err
}

func newInspectCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "inspect --uki FILE",
		Short: "Say what is in a unified kernel image",
		Long: `Say what is in a unified kernel image: whether the gate is before it, its command
line, and each section with its size and SHA-256.`,
		Example: `  rootvouch uki inspect --uki web.efi`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := cli.ReadInput(path, uki.MaxFile)
			if err != nil {
				return err
			}
			return inspect(cmd.OutOrStdout(), path, file)
		},
	}
	cmd.Flags().StringVar(&path, "uki", "", "unified kernel image: kernel, initramfs and command line in one file")
	command.Require(cmd, "uki")
	command.LeavesNothing(cmd)
	return cmd
}

func inspect(out io.Writer, path string, file []byte) error {
	image, gated, err := cli.OpenUKI(file)
	if err != nil {
		return cli.Malformed("%s: %w", path, err)
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "file: %x, %d bytes\n", sha256.Sum256(file), len(file))
	if gated {
		fmt.Fprintf(&text, "gate: %v\n", gate.ID())
	} else {
		fmt.Fprintln(&text, "gate: none: the kernel runs ACPI code of its host")
	}
	fmt.Fprintf(&text, "version: %q\ncommand line: %q\n", image.Version, image.CommandLine)
	for _, s := range image.Sections {
		fmt.Fprintf(&text, "section: %-8q %x, %d bytes\n", s.Name, sha256.Sum256(s.Data), len(s.Data))
	}
	_, err = text.WriteTo(out)
	return err
}
