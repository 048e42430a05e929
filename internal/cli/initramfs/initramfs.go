// Package initramfs is "rootvouch initramfs": it builds and configures what a guest
// starts from.
package initramfs

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/initramfs/kmod"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/internal/filekind"
)

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "initramfs",
		Short: "Build and configure what a guest starts from",
		Long: `Build and configure the initramfs of a guest.

It has two parts. The base holds kernel modules and programs: build makes it
once, and the same inputs give the same bytes on every machine. A small archive
with boot.json, made by config, follows it; configure puts it there, within
moments, for each disk. The launch digest covers both.`,
	}
	cmd.AddCommand(newBuildCommand(), newConfigCommand(), newConfigureCommand(), newListCommand())
	return cmd
}

// installedGuest is where the package rootvouch-guest puts the guest's programs.
const installedGuest = "/usr/lib/rootvouch/guest"

type buildFlags struct {
	cache             string
	trees             []string
	version, guestBin string
	modules, drivers  []string
	bootConfig        string
	manifest, kernel  string
	out               cli.Output
}

func newBuildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build --kernel-tree DIR|PACKAGE [--guest-bin DIR] --out FILE",
		Short: "Build an initramfs from a kernel's modules and the guest's programs",
		Long: `Build the base of an initramfs, and configure it when --boot-config is given.

The kernel tree is an unpacked kernel package, a package as it is (.deb, .rpm,
.pkg.tar.zst or .apk), or a machine's / or /lib/modules. A kernel that is split into
several packages is given with --kernel-tree for each. From it come the modules that
the boot chain needs, with everything they depend on, decompressed. A module that is
needed and is neither there nor built into the kernel is an error, and so is a
kernel that PID 1 would refuse: want Linux 6.12 or later. If a module is there
twice, the one in updates (as of DKMS) is taken.

The default modules know virtio disks and networks. --drivers adds what a VM needs
elsewhere: ` + strings.Join(initramfs.DriverTargets(), ", ") + `.
--module asks for further ones.

The directory of --guest-bin holds the programs init, fetchkey, snp-agent-plugin,
attestd and spire-agent, all linked statically. Without the flag they are those of
the package rootvouch-guest.

Printed are the version of the kernel that the modules belong to and, when the
tree has it, the kernel image: it takes that very kernel to use the initramfs.
--kernel-out writes the image to a file.`,
		Example: `  rootvouch initramfs build --kernel-tree linux-image.deb --guest-bin bin/guest --out base.img
  rootvouch initramfs configure --base base.img --boot-config boot.json --out initramfs.img

  rootvouch initramfs build --kernel-tree linux-base.deb --kernel-tree linux-binary.deb --kernel-tree linux-modules.deb \
    --drivers gcp --guest-bin bin/guest --out base.img --kernel-out vmlinuz`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.trees, "kernel-tree", nil, "kernel package, unpacked or not, or /lib/modules (repeatable)")
	flags.StringVar(&f.version, "kernel-version", "", "which kernel, when the tree has several")
	flags.StringVar(&f.guestBin, "guest-bin", installedGuest, "directory with the guest's programs")
	flags.StringArrayVar(&f.modules, "module", nil, "further kernel module (repeatable)")
	flags.StringSliceVar(&f.drivers, "drivers", nil, "drivers for "+strings.Join(initramfs.DriverTargets(), ", ")+" (repeatable, or a list with commas)")
	flags.StringVar(&f.kernel, "kernel-out", "", "write the kernel image that belongs to the modules")
	flags.StringVar(&f.bootConfig, "boot-config", "", "boot.json of the VM (default: none, a base)")
	flags.StringVar(&f.cache, "cache-dir", "", "directory that keeps compressed bases, to build faster (default: none)")
	flags.StringVar(&f.manifest, "manifest-out", "", "write what the base is made of, in JSON")
	f.out.Bind(cmd, "the initramfs")
	command.Require(cmd, "kernel-tree")
	command.NotEmpty(cmd, "guest-bin")
	return cmd
}

func (f *buildFlags) run(cmd *cobra.Command) error {
	// The names are taken first, so that a mistake with one shows before the work.
	outputs := durable.Set{Replace: f.out.Force}
	defer outputs.Abort()
	files := map[string]*durable.File{} // :: name -> the file
	for _, name := range []string{f.out.Path, f.manifest, f.kernel} {
		if name == "" {
			continue
		}
		file, err := outputs.Add(name, 0o644)
		if err != nil {
			return cli.HintForce(err)
		}
		files[name] = file
	}
	tree, err := kmod.Open(f.trees, f.version)
	if err != nil {
		return err
	}
	var kernel []byte
	if f.kernel != "" {
		if kernel, err = tree.Kernel(); err != nil {
			return err
		}
	}
	wants := initramfs.DefaultModules()
	for _, target := range f.drivers {
		more, err := initramfs.Drivers(target)
		if err != nil {
			return command.Usage(err)
		}
		wants = append(wants, more...)
	}
	for _, name := range f.modules {
		wants = append(wants, kmod.Want{Names: []string{name}})
	}
	base, manifest, err := initramfs.Build(initramfs.Options{Kernel: tree, Modules: wants, GuestBin: f.guestBin, Cache: f.cache})
	if err != nil {
		return err
	}
	out := base
	if f.bootConfig != "" {
		if out, err = configure(cmd, base, f.bootConfig); err != nil {
			return err
		}
	}
	for name, data := range map[string][]byte{f.out.Path: out, f.manifest: manifest.Encode(), f.kernel: kernel} {
		if file := files[name]; file != nil {
			if _, err := file.Write(data); err != nil {
				return fmt.Errorf("writing %s: %w", name, err)
			}
		}
	}
	if err := outputs.Commit(); err != nil {
		return cli.HintForce(err)
	}
	return f.summary(cmd.OutOrStdout(), out, manifest, tree.KernelPath())
}

func (f *buildFlags) summary(w io.Writer, out []byte, m initramfs.Manifest, kernel string) error {
	config := "none: a base; initramfs configure puts one in"
	if f.bootConfig != "" {
		config = fmt.Sprintf("%d bytes", len(out)-m.Size)
	}
	if kernel == "" {
		kernel = "not in this tree"
	}
	missing := "none"
	if len(m.Missing) > 0 {
		missing = strings.Join(m.Missing, ", ")
	}
	_, err := fmt.Fprintf(w, "initramfs:  %s (%d bytes, SHA-256 %x)\nbase:       %d bytes, %d unpacked, SHA-256 %s\nboot.json:  %s\n"+
		"kernel:     %s (image: %s)\nmodules:    %d, and %d built in\nwithout:    %s\n",
		f.out.Path, len(out), sha256.Sum256(out), m.Size, m.UncompressedSize, m.SHA256, config,
		m.KernelVersion, kernel, len(m.Modules), len(m.BuiltIn), missing)
	return err
}

// ours is what configure and list take.
const ours = cli.Named("an initramfs that rootvouch made")

// configure puts the boot configuration of that file into base.
func configure(cmd *cobra.Command, base []byte, file string) ([]byte, error) {
	text, err := cli.ReadInput(file, bootconfig.MaxSize)
	if err != nil {
		return nil, cli.Unfit(file, filekind.BootConfig, err)
	}
	config, err := bootconfig.Decode(text)
	if err != nil {
		return nil, cli.Unfit(file, filekind.BootConfig, err)
	}
	cli.SayEmulated(cmd, config.Emulated())
	return initramfs.Configure(base, config)
}

func newConfigureCommand() *cobra.Command {
	var base, config string
	var out cli.Output
	cmd := &cobra.Command{
		Use:   "configure --base FILE --boot-config FILE --out FILE",
		Short: "Put a boot.json into an initramfs",
		Long: `Put a boot.json behind the base of an initramfs.

The base is what build made, or an initramfs that has a boot.json already, which
is then replaced. The configuration is checked, certificates included, and
written in its canonical form, so that equal configurations are measured equally.`,
		Example: `  rootvouch initramfs configure --base base.img --boot-config boot.json --out initramfs.img`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := os.ReadFile(base)
			if err != nil {
				return cli.Unfit(base, ours, err)
			}
			configured, err := configure(cmd, data, config)
			if err != nil {
				if _, bad := initramfs.Read(data); bad != nil {
					err = cli.Unfit(base, ours, bad)
				}
				return err
			}
			data = configured
			if err := out.Write(data); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "initramfs:  %s (%d bytes, SHA-256 %x)\n", out.Path, len(data), sha256.Sum256(data))
			return err
		},
	}
	cmd.Flags().StringVar(&base, "base", "", "initramfs that build or configure made")
	cmd.Flags().StringVar(&config, "boot-config", "", "boot.json of the VM")
	out.Bind(cmd, "the initramfs")
	command.Require(cmd, "base", "boot-config")
	return cmd
}

func newListCommand() *cobra.Command {
	var bySize bool
	cmd := &cobra.Command{
		Use:   "list FILE",
		Short: "List what is in an initramfs",
		Long: `List the files of an initramfs with their modes and sizes in bytes, and what
makes it up. Only an initramfs that rootvouch made is accepted, byte for byte.`,
		Example: `  rootvouch initramfs list --by-size initramfs.img | head`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return cli.Unfit(args[0], ours, err)
			}
			contents, err := initramfs.Read(data)
			if err != nil {
				return cli.Unfit(args[0], ours, err)
			}
			if contents.BootConfig != nil {
				config, err := bootconfig.Decode(contents.BootConfig)
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				cli.SayEmulated(cmd, config.Emulated())
			}
			return list(cmd.OutOrStdout(), contents, bySize)
		},
	}
	cmd.Flags().BoolVar(&bySize, "by-size", false, "largest files first")
	return cmd
}

func list(w io.Writer, c initramfs.Contents, bySize bool) error {
	files := c.Files()
	if bySize {
		slices.SortStableFunc(files, func(a, b initramfs.File) int { return b.Size - a.Size })
	}
	var programs, modules, rest int
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, f := range files {
		switch {
		case slices.Contains(initramfs.GuestBinaries(), f.Path):
			programs += f.Size
		case path.Dir(f.Path) == bootconfig.ModulesDir:
			modules += f.Size
		default:
			rest += f.Size
		}
		fmt.Fprintf(table, "%06o\t%d\t\t %s\n", f.Mode, f.Size, f.Path)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "programs:   %d bytes\nmodules:    %d bytes\nrest:       %d bytes\nbase:       %d bytes, %d unpacked\nboot.json:  %d bytes with its archive\n",
		programs, modules, rest, c.BaseSize, c.BaseArchive, c.ConfigSize)
	return err
}
