package vm

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/release"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/launch/idblock"
)

// guestFlags describe a guest, for both vm run and vm export.
type guestFlags struct {
	guest           platform.Guest
	memory          string
	policy          uint64
	hostData        string
	idBlock, idAuth string
	network, mac    string
	uki             string
	forwards        []string // only of vm run
	release         string
	changed         func(flag string) bool
}

func (f *guestFlags) bind(cmd *cobra.Command) {
	flags, g := cmd.Flags(), &f.guest
	flags.StringVar(&g.Firmware, "firmware", "", "firmware file (OVMF for AmdSev)")
	cli.HostCode(cmd, &g.AcceptHostCode)
	cli.BareKernel(cmd, &g.AcceptBareKernel)
	flags.StringVar(&g.Kernel, "kernel", "", "kernel file")
	flags.StringVar(&g.Initramfs, "initrd", "", "initramfs file")
	flags.StringVar(&g.CommandLine, "append", "", "kernel command line")
	flags.StringVar(&f.uki, "uki", "", "unified kernel image: kernel, initramfs and command line in one file")
	flags.IntVar(&g.VCPUs, "vcpus", 2, "vCPU count")
	flags.StringVar(&g.CPUType, "vcpu-type", platform.DefaultCPUType, "QEMU's CPU type")
	flags.StringVar(&f.memory, "memory", "1G", "memory, such as 2048M or 2G")
	flags.StringVar(&g.Disk, "disk", "", "disk image (raw; attached read-only)")
	flags.StringArrayVar(&g.ExtraDisks, "extra-disk", nil, "further raw disk image, attached read-only (repeatable)")
	flags.StringArrayVar(&g.Volumes, "volume", nil, "raw image of a volume that the guest writes (repeatable)")
	flags.StringVar(&f.mac, "mac", "", "MAC address of the guest's network card")
	cli.Number(cmd, &f.policy, "policy", uint64(platform.DefaultPolicy), "guest policy")
	flags.StringVar(&f.hostData, "host-data", "", "HOST_DATA, 32 bytes in hex (default: zero)")
	flags.StringVar(&f.idBlock, "id-block", "", "ID block in base64 (of \"measure id-block\")")
	flags.StringVar(&f.idAuth, "id-auth", "", "ID authentication information in base64")
	flags.IntVar(&g.CBitPosition, "cbitpos", 0, "C-bit position of an snp host (default 51)")
	flags.IntVar(&g.ReducedPhysBits, "reduced-phys-bits", 0, "physical address bits that an snp host reserves (default 1)")
	flags.StringVar(&f.release, "release-dir", "", "directory of a release")
	f.changed = flags.Changed
	command.Choices(cmd, "vcpu-type", cli.CPUTypes()...)
	command.NotEmpty(cmd, "release-dir", "firmware", "kernel", "initrd", "uki", "disk", "extra-disk", "volume", "mac", "host-data", "id-block", "id-auth")
	cmd.MarkFlagsRequiredTogether("id-block", "id-auth")
	cmd.MarkFlagsRequiredTogether("kernel", "initrd")
	cmd.MarkFlagsOneRequired("release-dir", "firmware")
	cmd.MarkFlagsOneRequired("release-dir", "kernel", "uki")
	for _, other := range []string{"firmware", "kernel", "initrd", "uki", "append", "disk"} {
		cmd.MarkFlagsMutuallyExclusive("release-dir", other)
	}
	for _, other := range []string{"kernel", "initrd", "append"} {
		cmd.MarkFlagsMutuallyExclusive("uki", other)
	}
}

// build makes a checked guest from the flags.
func (f *guestFlags) build(kind platform.Kind) (platform.Guest, error) {
	if f.release != "" {
		if err := f.fromRelease(kind); err != nil {
			return platform.Guest{}, err
		}
	}
	g := f.guest
	g.Kind = kind
	if f.uki != "" {
		g.Kernel, g.UKI = f.uki, true
	}
	var err error
	if g.MemoryMiB, err = parseMemory(f.memory); err != nil {
		return g, err
	}
	g.Policy = snp.Policy(f.policy)
	if f.hostData != "" {
		if err := g.HostData.UnmarshalText([]byte(f.hostData)); err != nil {
			return g, fmt.Errorf("parsing --host-data: %v", err)
		}
	}
	if f.idBlock != "" {
		if g.IDBlock, err = parseIDBlock(f.idBlock, f.idAuth); err != nil {
			return g, err
		}
	}
	if g.Network, err = platform.ParseNetwork(f.network); err != nil {
		return g, err
	}
	if f.mac != "" {
		if g.Network.MAC, err = net.ParseMAC(f.mac); err != nil {
			return g, fmt.Errorf("parsing --mac: %v", err)
		}
	}
	for _, s := range f.forwards {
		forward, err := platform.ParseForward(s)
		if err != nil {
			return g, err
		}
		g.Forwards = append(g.Forwards, forward)
	}
	return g, g.Check()
}

// fromRelease takes the files of a release. Its shapes are the launches that get a key. The
// first shape is the default.
func (f *guestFlags) fromRelease(kind platform.Kind) error {
	r, err := release.Open(f.release)
	if err != nil {
		return err
	}
	if r.Manifest.Emulated != (kind == platform.Emulated) {
		return fmt.Errorf("the platform is %s, which differs from that of the release in %s", kind, f.release)
	}
	g := &f.guest
	g.Firmware, g.Kernel = r.Path(release.FirmwareFile), r.Path(release.KernelFile)
	g.Initramfs, g.Disk = r.Path(release.InitramfsFile), r.Path(release.DiskFile)
	g.AcceptHostCode = slices.Contains(r.VM.Accept, release.AcceptFirmware)
	g.AcceptBareKernel = slices.Contains(r.VM.Accept, release.AcceptKernel)
	if err := r.CheckVolumes(g.Volumes); err != nil {
		return err
	}
	var shapes []string
	for _, s := range r.Manifest.Shapes {
		if (s.VCPUs == g.VCPUs || !f.changed("vcpus")) && (s.CPUType == g.CPUType || !f.changed("vcpu-type")) {
			g.VCPUs, g.CPUType = s.VCPUs, s.CPUType
			return nil
		}
		shapes = append(shapes, fmt.Sprintf("%d of %s", s.VCPUs, s.CPUType))
	}
	return fmt.Errorf("--vcpus and --vcpu-type are %d and %s, want a shape of release %s: %s", g.VCPUs, g.CPUType, r.Manifest.Release, strings.Join(shapes, ", "))
}

// complete inspects the files of a guest, and gives it the command line of its initramfs.
func (f *guestFlags) complete(cmd *cobra.Command, g platform.Guest) (platform.Guest, error) {
	if err := checkFiles(g); err != nil {
		return g, err
	}
	if g.UKI {
		return g, checkUKI(g)
	}
	if err := checkMemory(g); err != nil {
		return g, command.Usage(err)
	}
	given := cmd.Flags().Changed("append")
	c, err := cli.BootConfig(g.Initramfs)
	if err != nil {
		return g, err
	}
	if g.CommandLine, err = cli.CommandLine(g.Initramfs, c, g.CommandLine, given); err != nil {
		return g, err
	}
	if err := checkBootConfig(g, c); err != nil {
		return g, err
	}
	if _, err := os.Stat(g.Initramfs); err == nil && g.CommandLine == "" && !given {
		return g, command.Usage(fmt.Errorf("--append is missing: %s has no boot.json that names a command line", g.Initramfs))
	}
	return g, nil
}

// checkBootConfig refuses an initramfs that does not fit the platform or the kernel.
func checkBootConfig(g platform.Guest, c *bootconfig.Config) error {
	if err := cli.CheckPlatform(g.Initramfs, c, g.Kind == platform.Emulated); err != nil {
		return err
	}
	kernel, err := bounded.ReadFile(g.Kernel, gate.MaxFile)
	if err != nil {
		return nil // the launch reports the error
	}
	_, err = gate.Open(kernel)
	if err != nil && !g.AcceptBareKernel {
		return nil // the launch reports this error, too
	}
	return cli.CheckBootConfig(g.Initramfs, c, err != nil)
}

// checkFiles refuses files that do not fit their flags.
func checkFiles(g platform.Guest) error {
	errs := []error{cli.CheckFile(cli.AsFirmware, g.Firmware), cli.CheckFile(cli.AsKernel, g.Kernel), cli.CheckFile(cli.AsInitramfs, g.Initramfs)}
	for _, disk := range slices.Concat([]string{g.Disk}, g.ExtraDisks, g.Volumes) {
		errs = append(errs, cli.CheckDisk(disk))
	}
	return errors.Join(errs...)
}

// checkUKI refuses a unified kernel image that could not boot: PID 1 powers off unless the
// kernel's command line is that of boot.json.
func checkUKI(g platform.Guest) error {
	file, err := cli.ReadInput(g.Kernel, gate.MaxFile)
	if err != nil {
		return err
	}
	image, _, err := cli.OpenUKI(file)
	if err != nil {
		return cli.HintBareKernel(fmt.Errorf("%s: %w", g.Kernel, err))
	}
	line, ours, err := initramfs.CommandLine(image.Initramfs)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", g.Kernel, err)
	case ours && line != image.CommandLine:
		return fmt.Errorf("%s: the command line is %q, want that of its boot.json: %q", g.Kernel, image.CommandLine, line)
	}
	// Firmware, gate and stub each hold a copy of the image while they start its parts.
	if need := neededMemory(image.Initramfs) + 3*len(file)>>20; g.MemoryMiB < need {
		return command.Usage(fmt.Errorf("--memory is %dM, want at least %dM to unpack %s", g.MemoryMiB, need, g.Kernel))
	}
	return nil
}

// checkMemory refuses too little memory for the kernel to unpack an initramfs of ours: the
// kernel would panic, and the VM would reset.
func checkMemory(g platform.Guest) error {
	data, err := os.ReadFile(g.Initramfs)
	if err != nil {
		return nil // the launch reports the error
	}
	if need := neededMemory(data); g.MemoryMiB < need {
		return fmt.Errorf("--memory is %dM, want at least %dM: the kernel unpacks %s into a file system that takes half of the memory", g.MemoryMiB, need, g.Initramfs)
	}
	return nil
}

// neededMemory returns the least memory in MiB for an initramfs of ours, or 0 for any other.
// The kernel unpacks the files to a tmpfs, which may take half of the memory (Linux,
// init/do_mounts.c, init_rootfs; mm/shmem.c, shmem_default_max_blocks). The archive itself
// stays until it is unpacked.
func neededMemory(data []byte) int {
	contents, err := initramfs.Read(data)
	if err != nil {
		return 0
	}
	return (2*contents.BaseArchive+len(data))>>20 + 1
}

func parseIDBlock(block, auth string) (*idblock.Signed, error) {
	var data [2][]byte
	for i, s := range []string{block, auth} {
		var err error
		if data[i], err = base64.StdEncoding.Strict().DecodeString(s); err != nil {
			return nil, fmt.Errorf("parsing %s: %v", [...]string{"--id-block", "--id-auth"}[i], err)
		}
	}
	return idblock.Parse(data[0], data[1])
}

// parseMemory parses "2048M" or "2G" into MiB.
func parseMemory(s string) (int, error) {
	number, unit := strings.TrimSuffix(s, "M"), 1
	if number == s {
		number, unit = strings.TrimSuffix(s, "G"), 1024
	}
	n, err := strconv.ParseUint(number, 10, 20)
	if number == s || err != nil {
		return 0, fmt.Errorf("parsing memory %q: want a number with M or G", s)
	}
	return int(n) * unit, nil
}
