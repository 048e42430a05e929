package vm

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/platform/export"
	"github.com/rootvouch/rootvouch/refval"
)

// exportFlags are the flags of vm export as given.
type exportFlags struct {
	guestFlags
	launcher, name, bootImage string
	refvals                   []string
}

func newExportCommand() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export --for " + strings.Join(export.Launchers(), "|") + " --firmware FILE (--kernel FILE --initrd FILE | --uki FILE) [--refval REFVAL]",
		Short: "Write a VM's description for another launcher",
		Long: `Write a VM's description for another launcher, from the flags that "vm run" takes: the
same firmware, kernel, initramfs, command line, CPUs and policy, and so the same launch
digest, which the text names. The command starts nothing.

With --refval the digest must be one that the reference values accept; otherwise
nothing is printed.

libvirt itself (10.5 or newer) translated the domain to QEMU's arguments, which were
compared with those of "vm run". The text for the other launchers was checked only as
text. None was tried on hardware. docs/launchers.md says what each launcher measures.

--netdev bridge=NAME puts the VM on a bridge of the host. The default is the
launcher's own network. The MAC address is made from the name unless --mac gives one.
kubevirt takes kernel and initramfs from a container image, --boot-image.`,
		Example: `  rootvouch vm export --for libvirt --firmware OVMF.hardened.fd --kernel vmlinuz \
    --initrd initramfs.img --disk disk.img --vcpus 4 --memory 4G --name web1 \
    --netdev bridge=br0 --refval refval.json >web1.xml`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.guestFlags.bind(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.launcher, "for", "", "launcher: "+strings.Join(export.Launchers(), ", "))
	flags.StringVar(&f.network, "netdev", "user", "host's end of the network: user, bridge=NAME or tap=NAME")
	flags.StringVar(&f.name, "name", "rootvouch", "name of the VM: lower-case letters, digits and hyphens")
	flags.StringVar(&f.bootImage, "boot-image", "", "container image with /boot/vmlinuz and /boot/initramfs.img (kubevirt)")
	flags.StringArrayVar(&f.refvals, "refval", nil, "reference values (that accept the launch digest; repeatable)")
	command.Require(cmd, "for")
	command.NotEmpty(cmd, "netdev", "name", "boot-image", "refval")
	return cmd
}

func (f *exportFlags) run(cmd *cobra.Command) error {
	if !slices.Contains(export.Launchers(), f.launcher) {
		return command.Usage(fmt.Errorf("--for is %q, want one of %q", f.launcher, export.Launchers()))
	}
	g, err := f.build(platform.SNP)
	if err != nil {
		return command.Usage(err)
	}
	if g, err = f.complete(cmd, g); err != nil {
		return err
	}
	m, err := platform.Measure(g)
	if err != nil {
		return cli.HintBareKernel(cli.HintHostCode(err))
	}
	if err := f.accepted(g, m); err != nil {
		return err
	}
	if err := absolute(&g); err != nil {
		return err
	}
	text, err := export.Text(f.launcher, export.VM{Guest: g, Name: f.name, Digest: m.Digest, BootImage: f.bootImage})
	if err != nil {
		return command.Usage(err)
	}
	cli.Say(cmd, "launch digest: %v", m.Digest)
	if len(f.refvals) == 0 && f.release == "" {
		cli.Say(cmd, "hint: --refval compares it with reference values")
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}

// accepted refuses a guest whose launch digest the reference values do not have.
func (f *exportFlags) accepted(g platform.Guest, m *platform.Measured) error {
	if len(f.refvals) == 0 {
		return nil
	}
	var known []string
	for _, path := range f.refvals {
		data, err := cli.ReadInput(path, refval.MaxSize)
		if err != nil {
			return err
		}
		values, err := refval.Decode(data)
		if err != nil {
			return cli.Malformed("%s: %w", path, err)
		}
		for _, want := range values.Measurements {
			if want.Digest == m.Digest {
				return nil
			}
			known = append(known, fmt.Sprintf("%v (%d vCPUs, %s)", want.Digest, want.VCPUs, want.CPUType))
		}
	}
	return command.WithHint(fmt.Errorf("launch digest is %v (%d vCPUs, %s), want one of %s: %s", m.Digest, g.VCPUs, g.CPUType,
		strings.Join(f.refvals, ", "), strings.Join(known, ", ")), "rootvouch measure explain --got DIGEST says which input differs")
}

// absolute makes a guest's paths absolute, so that they hold wherever the launcher runs.
func absolute(g *platform.Guest) error {
	for _, path := range []*string{&g.Firmware, &g.Kernel, &g.Initramfs, &g.Disk} {
		if *path == "" {
			continue
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	for _, all := range []*[]string{&g.ExtraDisks, &g.Volumes} {
		*all = slices.Clone(*all)
		for i := range *all {
			var err error
			if (*all)[i], err = filepath.Abs((*all)[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
