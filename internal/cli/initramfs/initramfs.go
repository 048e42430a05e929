// Package initramfs is "rootvouch initramfs": it builds and configures a guest's initramfs.
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
		Short: "Build and configure a guest's initramfs",
		Long: `Build and configure the initramfs of a guest.

It has two parts. "build" makes the base, with kernel modules and programs, once; the
same inputs give the same bytes on every machine. "config" makes a boot.json for each
disk, and "configure" puts it behind the base within moments. The launch digest covers
both parts.`,
	}
	cmd.AddCommand(newBuildCommand(), newConfigCommand(), newConfigureCommand(), newListCommand())
	return cmd
}

// installedGuest is where the package rootvouch-guest installs the guest's programs.
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

The kernel tree is an unpacked kernel package, a package file (.deb, .rpm,
.pkg.tar.zst or .apk), or a machine's / or /lib/modules. If a kernel is split into
several packages, give --kernel-tree for each. The command takes from it the modules
that the boot chain needs, with everything they depend on, decompressed. It refuses a
kernel that lacks a needed module, built in or not, and a kernel that PID 1 would
refuse: want Linux 6.12 or later. If a module is there twice, the one in updates (as of
DKMS) is taken.

The default modules drive virtio disks and networks. --drivers adds the drivers for a
VM elsewhere: ` + strings.Join(initramfs.DriverTargets(), ", ") + `. --module adds
further modules.

The directory of --guest-bin holds the programs init, fetchkey, snp-agent-plugin,
attestd and spire-agent, all linked statically. Without the flag they are those of
the package rootvouch-guest.

The command prints the version of the kernel that the modules belong to and, if the
tree has it, the path of the kernel image. The initramfs works only with that kernel.
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
	flags.StringVar(&f.version, "kernel-version", "", "version of the kernel, if the tree has several")
	flags.StringVar(&f.guestBin, "guest-bin", installedGuest, "directory with the guest's programs")
	flags.StringArrayVar(&f.modules, "module", nil, "further kernel module (repeatable)")
	flags.StringSliceVar(&f.drivers, "drivers", nil, "drivers for "+strings.Join(initramfs.DriverTargets(), ", ")+" (repeatable, or a list with commas)")
	flags.StringVar(&f.kernel, "kernel-out", "", "write the kernel image that belongs to the modules")
	flags.StringVar(&f.bootConfig, "boot-config", "", "boot.json of the VM (default: none, a base)")
	flags.StringVar(&f.cache, "cache-dir", "", "directory that keeps compressed bases, to build faster (default: none)")
	flags.StringVar(&f.manifest, "manifest-out", "", "write a list of the base's parts, in JSON")
	f.out.Bind(cmd, "the initramfs")
	command.Require(cmd, "kernel-tree")
	command.NotEmpty(cmd, "guest-bin")
	return cmd
}

func (f *buildFlags) run(cmd *cobra.Command) error {
	// The outputs are opened first, so that a wrong name shows before the work.
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

// ours is the kind of file that configure and list take.
const ours = cli.Named("an initramfs that rootvouch made")

// configure puts the boot configuration in file into base.
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

The base comes from build, or is an initramfs that already has a boot.json, which
is then replaced. The command checks the configuration, certificates included, and
writes it in its canonical form, so that equal configurations have equal digests.`,
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
		Long: `List the files of an initramfs with their modes and sizes in bytes, and its parts.
The command accepts only an initramfs that rootvouch made, byte for byte.`,
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
