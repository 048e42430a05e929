package measure

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/filekind"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp/firmware"
	"github.com/rootvouch/rootvouch/snp/launch"
)

// inputFlags are the inputs of a launch digest as flags.
type inputFlags struct {
	mode, vmm, vmsa               string
	firmware, firmwareHash        string
	kernel, initrd, commandLine   string
	uki                           string
	svsm                          string
	varsSize, features            uint64
	vcpus                         string
	vcpuTypes                     []string
	vcpuSig                       uint32
	vcpuFamily, vcpuModel, vcpuSt uint32
	// judge refuses a firmware that may run code of its host, unless hostCode accepts it.
	// bareKernel accepts a kernel without the gate.
	judge, hostCode, bareKernel bool
}

func (f *inputFlags) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.mode, "mode", "snp", "kind of guest: snp, sev, sev-es or snp-svsm")
	flags.StringVar(&f.firmware, "firmware", "", "firmware file")
	flags.StringVar(&f.firmwareHash, "firmware-hash", "", "launch digest after the firmware's pages, in hex; then only the file's metadata is used")
	flags.StringVar(&f.kernel, "kernel", "", "kernel file")
	flags.StringVar(&f.initrd, "initrd", "", "initramfs file")
	flags.StringVar(&f.uki, "uki", "", "unified kernel image: kernel, initramfs and command line in one file")
	flags.StringVar(&f.commandLine, "append", "", "kernel command line")
	flags.StringVar(&f.vcpus, "vcpus", "", "vCPU count (such as 4; 1,2,4-8 gives a digest for each)")
	flags.StringArrayVar(&f.vcpuTypes, "vcpu-type", nil, "QEMU's CPU type (such as EPYC-v4; repeatable)")
	cli.Number(cmd, &f.vcpuSig, "vcpu-sig", 0, "CPUID signature in place of a CPU type")
	cli.Number(cmd, &f.vcpuFamily, "vcpu-family", 0, "CPU family in place of a CPU type, with --vcpu-model and --vcpu-stepping")
	cli.Number(cmd, &f.vcpuModel, "vcpu-model", 0, "CPU model")
	cli.Number(cmd, &f.vcpuSt, "vcpu-stepping", 0, "CPU stepping")
	flags.StringVar(&f.vmm, "vmm", "qemu", "launcher: qemu, ec2 or gce")
	flags.StringVar(&f.vmsa, "vmsa", "current", "form of QEMU's VMSA: current or pre-6.10")
	cli.Number(cmd, &f.features, "guest-features", 1, "SEV_FEATURES in the VMSA")
	flags.StringVar(&f.svsm, "svsm", "", "SVSM file (mode snp-svsm)")
	cli.Number(cmd, &f.varsSize, "vars-size", 0, "size of the firmware's variable store in bytes (mode snp-svsm)")
	command.Require(cmd, "firmware")
	command.Choices(cmd, "mode", "snp", "sev", "sev-es", "snp-svsm")
	command.Choices(cmd, "vmm", "qemu", "ec2", "gce")
	command.Choices(cmd, "vmsa", "current", "pre-6.10")
	command.Choices(cmd, "vcpu-type", cli.CPUTypes()...)
	// An unset variable in a script must not lead to a launch without a kernel, whose digest
	// covers only the firmware.
	command.NotEmpty(cmd, "kernel", "initrd", "uki", "svsm")
	for _, other := range []string{"kernel", "initrd", "append"} {
		cmd.MarkFlagsMutuallyExclusive("uki", other)
	}
	cmd.MarkFlagsMutuallyExclusive("vcpu-type", "vcpu-sig", "vcpu-family")
	cmd.MarkFlagsRequiredTogether("vcpu-family", "vcpu-model", "vcpu-stepping")
}

// measurement is the result of the flags and files.
type measurement struct {
	inputs      launch.Inputs // without vCPU count and CPU
	vcpus       []int
	cpus        []launch.CPU
	commandLine string
	metadata    string          // the file whose metadata count: the firmware, or the SVSM
	image       []byte          // the firmware's bytes, if they were kept
	base        *launch.Base    // the base of inputs
	hostCode    refval.HostCode // the firmware's, if it was judged
	gate        refval.Gate     // before the kernel, if there is one
}

// named adds the file to an error about its metadata.
func (m *measurement) named(err error) error {
	if _, ok := errors.AsType[*launch.FormatError](err); ok {
		return fmt.Errorf("%s: %w", m.metadata, err)
	}
	return err
}

// load checks the flags, then reads every file once. The firmware's image is valid until load
// returns, or longer if keep is set.
func (f *inputFlags) load(cmd *cobra.Command, keep bool) (*measurement, error) {
	// The process ends before garbage collection could pay off. By default it would begin at 4
	// MiB, the size of one firmware.
	debug.SetGCPercent(1000)
	if f.uki != "" { // the launcher starts it as a kernel, without initramfs and command line
		f.kernel = f.uki
	}
	m := &measurement{commandLine: f.commandLine, metadata: f.firmware}
	if f.svsm != "" {
		m.metadata = f.svsm
	}
	if err := f.check(cmd, m); err != nil {
		return nil, command.Usage(err)
	}
	hint := func(format string, args ...any) {
		fmt.Fprintf(cmd.ErrOrStderr(), "rootvouch: hint: "+format+"\n", args...)
	}
	if cmd.Flags().Changed("guest-features") && m.inputs.Mode != launch.SNP {
		hint("--guest-features has no effect in mode %v", m.inputs.Mode)
	}
	if m.inputs.VMM != launch.QEMU && m.cpus[0] != launch.AnyCPU() {
		hint("%v puts no CPU type into a guest's initial state: the digest is the same for all", m.inputs.VMM)
	}
	c, err := cli.BootConfig(f.initrd)
	if err != nil {
		return nil, err
	}
	if f.kernel != "" {
		if m.commandLine, err = cli.CommandLine(f.initrd, c, f.commandLine, cmd.Flags().Changed("append")); err != nil {
			return nil, err
		}
	}
	m.gate = refval.GateNone
	if err := f.read(m, keep); err != nil {
		return nil, err
	}
	if f.judge && f.initrd != "" && m.inputs.Mode == launch.SNP && m.inputs.VMM == launch.QEMU {
		if err := cli.CheckBootConfig(f.initrd, c, m.gate == refval.GateNone); err != nil {
			return nil, err
		}
	}
	if h := m.inputs.Hashes; h != nil && h.Kernel == sha256.Sum256(nil) {
		hint("the kernel %s is empty", f.kernel)
	}
	return m, nil
}

// check parses every flag that does not name a file.
func (f *inputFlags) check(cmd *cobra.Command, m *measurement) (err error) {
	in := &m.inputs
	if in.Mode, err = launch.ParseMode(f.mode); err != nil {
		return fmt.Errorf("--mode: %w", err)
	}
	if in.VMM, err = launch.ParseVMM(f.vmm); err != nil {
		return fmt.Errorf("--vmm: %w", err)
	}
	if in.VMSA, err = launch.ParseGeneration(f.vmsa); err != nil {
		return fmt.Errorf("--vmsa: %w", err)
	}
	in.Features, in.VarsSize = f.features, f.varsSize
	changed := cmd.Flags().Changed
	if f.kernel == "" && (changed("initrd") || changed("append")) {
		return errors.New("--initrd and --append are measured with a kernel only: --kernel is missing")
	}
	if changed("firmware-hash") {
		digest, err := hex.DecodeString(f.firmwareHash)
		if err != nil || len(digest) != 48 {
			return fmt.Errorf("--firmware-hash is %q, want 96 hex digits", f.firmwareHash)
		}
		in.FirmwareDigest = (*[48]byte)(digest)
	}
	if m.cpus, err = f.cpus(cmd, *in); err != nil {
		return err
	}
	in.CPU = m.cpus[0]
	if err := in.Check(launch.Files{Kernel: f.kernel != "", SVSM: f.svsm != ""}); err != nil {
		return withFlag(err)
	}
	if m.vcpus, err = parseCounts(f.vcpus); err != nil && (in.Mode != launch.SEV || f.vcpus != "") {
		return fmt.Errorf("--vcpus: %w", err)
	}
	if in.Mode == launch.SEV {
		m.vcpus = []int{1} // the vCPUs are not measured
	}
	return nil
}

// withFlag names the flag of the input in err.
func withFlag(err error) error {
	flags := map[string]string{
		"Mode": "mode", "FirmwareDigest": "firmware-hash", "SVSM": "svsm", "VarsSize": "vars-size", "Hashes": "kernel",
		"VMM": "vmm", "VMSA": "vmsa", "CPU": "vcpu-type", "Features": "guest-features", "VCPUs": "vcpus",
	}
	if input, ok := errors.AsType[*launch.InputError](err); ok && flags[input.Field] != "" {
		return fmt.Errorf("--%s: %s", flags[input.Field], input.Reason)
	}
	return err
}

// cpus returns the CPU models that the flags ask for.
func (f *inputFlags) cpus(cmd *cobra.Command, in launch.Inputs) ([]launch.CPU, error) {
	changed := cmd.Flags().Changed
	var all []launch.CPU
	for _, name := range f.vcpuTypes {
		c, err := launch.LookupCPU(name)
		if err != nil {
			return nil, fmt.Errorf("--vcpu-type: %w", err)
		}
		if !slices.Contains(all, c) {
			all = append(all, c)
		}
	}
	if changed("vcpu-sig") {
		all = append(all, launch.CPUFromSignature(f.vcpuSig))
	}
	if changed("vcpu-family") {
		c, err := launch.CPUFromModel(f.vcpuFamily, f.vcpuModel, f.vcpuSt)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	switch {
	case in.Mode == launch.SEV, len(all) == 0 && in.VMM != launch.QEMU:
		return []launch.CPU{launch.AnyCPU()}, nil
	case len(all) == 0:
		return nil, fmt.Errorf("--vcpu-type, --vcpu-sig or --vcpu-family is missing: the vCPUs of %v depend on it", in.VMM)
	}
	return all, nil
}

// parseCounts parses vCPU counts such as 1,2,4-8. Repeated counts count once.
func parseCounts(list string) ([]int, error) {
	var all []int
	var seen [launch.MaxVCPUs + 1]bool
	if list == "" {
		return nil, fmt.Errorf("got none, want vCPU counts such as 4 or 1,2,4-8")
	}
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		first, err := parseCount(low)
		last := first
		if isRange && err == nil {
			last, err = parseCount(high)
		}
		if err != nil {
			return nil, fmt.Errorf("got %q, want counts from 1 to %d, such as 4 or 1,2,4-8", part, launch.MaxVCPUs)
		}
		if last < first {
			return nil, fmt.Errorf("range %q ends before it starts", part)
		}
		for n := first; n <= last; n++ {
			if !seen[n] {
				all = append(all, n)
			}
			seen[n] = true
		}
	}
	return all, nil
}

func parseCount(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n < 1 || n > launch.MaxVCPUs {
		return 0, fmt.Errorf("%q is not a count", s)
	}
	return int(n), nil
}

// read reads the files. It measures the firmware while it hashes the kernel.
func (f *inputFlags) read(m *measurement, keep bool) error {
	if err := oneReaderEach(f.firmware, f.kernel, f.initrd, f.svsm); err != nil {
		return command.Usage(err)
	}
	in := &m.inputs
	if f.kernel != "" {
		line, err := launch.HashCommandLine(m.commandLine)
		if err != nil {
			return command.Usage(fmt.Errorf("--append: %w", err))
		}
		in.Hashes = &launch.Hashes{Initrd: sha256.Sum256(nil), CommandLine: line}
	}
	var g errgroup.Group
	g.Go(func() error {
		return unfaulted(func() (err error) {
			if m.image, in.Firmware, err = readFirmware(cli.AsFirmware, f.firmware, keep); err != nil {
				return err
			}
			if f.svsm != "" {
				if _, in.SVSM, err = readFirmware(cli.AsSVSM, f.svsm, keep); err != nil {
					return err
				}
			}
			if m.base, err = in.Base(); err != nil {
				return m.named(err)
			}
			return f.judgeFirmware(m)
		})
	})
	if f.kernel != "" {
		g.Go(func() (err error) {
			in.Hashes.Kernel, err = f.readKernel(m)
			return cli.HintBareKernel(err)
		})
	}
	if f.initrd != "" {
		g.Go(func() (err error) {
			in.Hashes.Initrd, err = hashFile(cli.AsInitramfs, f.initrd)
			return err
		})
	}
	return g.Wait()
}

// judgeFirmware refuses a firmware that may run code of its host, unless a flag accepts that.
func (f *inputFlags) judgeFirmware(m *measurement) error {
	if !f.judge {
		return nil
	}
	err := firmware.Check(m.image)
	m.hostCode = refval.HostCodeNone
	if err != nil && f.hostCode {
		m.hostCode, err = refval.HostCodeAccepted, nil
	}
	return cli.HintHostCode(err)
}

// readKernel hashes the kernel. A kernel that QEMU starts in an SNP guest must be behind the
// gate, unless a flag accepts a bare one. Other launchers have no gate.
func (f *inputFlags) readKernel(m *measurement) (sum [sha256.Size]byte, err error) {
	if !f.judge || m.inputs.Mode != launch.SNP || m.inputs.VMM != launch.QEMU {
		return hashFile(cli.AsKernel, f.kernel)
	}
	bare := false
	var refused error // refused names the file
	use := func(file []byte) error {
		return unfaulted(func() error {
			if refused = cli.CheckContent(cli.AsKernel, f.kernel, file); refused != nil {
				return nil
			}
			sum = sha256.Sum256(file)
			_, err := gate.Open(file)
			if bare = err != nil; bare && !f.bareKernel {
				refused = fmt.Errorf("%s: %w", f.kernel, err)
				if filekind.OfBytes(file) == filekind.Unknown {
					refused = fmt.Errorf("%s is not a Linux kernel, want one behind the gate: %w", f.kernel, err)
				}
			}
			return nil
		})
	}
	err = withFile(f.kernel, maxBlob, use, func(r io.Reader) error {
		file, err := bounded.Read(r, gate.MaxFile)
		if err != nil {
			return err
		}
		return use(file)
	})
	if err != nil {
		return sum, fmt.Errorf("reading kernel: %w", err)
	}
	if refused != nil {
		return sum, refused
	}
	if !bare {
		m.gate = refval.Gate(gate.ID().String())
	}
	return sum, nil
}

// firmwareSHA256 returns the firmware's digest for the provenance.
func (m *measurement) firmwareSHA256() pins.Digest { return sha256.Sum256(m.image) }
