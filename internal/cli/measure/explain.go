package measure

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp/launch"
	"github.com/rootvouch/rootvouch/snp/launch/explain"
)

// notExplained is exit status 1 without a further message.
type notExplained struct{}

func (notExplained) Error() string { return "" }

// explainFlags are further values that the inputs may have had.
type explainFlags struct {
	inputFlags
	got                        string
	firmwares, kernels, others []string
	commandLines               []string
	refvals                    []string
	asJSON                     bool
}

func newExplainCommand() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain --got DIGEST --firmware FILE … (as for measure)",
		Short: "Find which input differs when a launch digest is not the expected one",
		Long: `Find which input of a launch differs, from the launch digest that was seen and the
inputs that should have led to it.

The command tries all single and double changes of: vCPU count, CPU type, launcher and
form of the VMSA, guest features, kernel hashes on or off, the initramfs absent, the
kernel with and without the gate, and the files and command lines given as candidates.
It also changes the command line: without its trailing NUL, with usual additions, with
each word left out, empty, or that of "vm run" without --append. If none of them leads
to the digest, it tries every CPUID signature of the processors with SEV and every set
of guest features, with up to 16 vCPUs.

With --refval it first compares the files with those from which the reference values
were made. That shows at once which file differs, and whether the reference values
accept the digest that was seen.

The exit status is 0 if the digest is explained, or belongs to the inputs as they are,
and 1 otherwise.`,
		Example: `  rootvouch measure explain --got 5a1c… --firmware OVMF.hardened.fd --kernel gated.efi \
    --initrd initrd.img --append 'console=ttyS0' --vcpus 4 --vcpu-type EPYC-v4 \
    --other-kernel gated.efi.old --other-initrd initrd.img.old`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.bind(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.got, "got", "", "launch digest that was seen, in hex")
	flags.StringArrayVar(&f.firmwares, "other-firmware", nil, "firmware file that may have been used (repeatable)")
	flags.StringArrayVar(&f.kernels, "other-kernel", nil, "kernel file that may have been used (repeatable)")
	flags.StringArrayVar(&f.others, "other-initrd", nil, "initramfs file that may have been used (repeatable)")
	flags.StringArrayVar(&f.commandLines, "other-append", nil, "command line that may have been used (repeatable)")
	flags.StringArrayVar(&f.refvals, "refval", nil, "reference values (that the files are compared with; repeatable)")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	command.Require(cmd, "got")
	command.NotEmpty(cmd, "refval", "other-firmware", "other-kernel", "other-initrd")
	command.LeavesNothing(cmd)
	return cmd
}

func (f *explainFlags) run(cmd *cobra.Command) error {
	got, err := launch.ParseSum(f.got)
	if err != nil {
		return command.Usage(fmt.Errorf("--got: %w", err))
	}
	if len(f.others)+len(f.commandLines) > 0 && f.kernel == "" && len(f.kernels) == 0 {
		return command.Usage(errors.New("--other-initrd and --other-append are measured with a kernel only: --kernel and --other-kernel are missing"))
	}
	m, err := f.load(cmd, true)
	if err != nil {
		return err
	}
	entries, err := m.entries()
	if err != nil {
		return err
	}
	said := explanation{Got: f.got, Explanations: [][]explain.Change{}, NotTried: []string{}, RefVals: []comparison{}}
	for _, e := range entries {
		if e.Digest == got && said.SameAs == nil {
			said.SameAs = &shape{e.VCPUs, e.CPU.Name}
		}
	}
	if said.SameAs == nil {
		if err := f.compare(&said, m, got); err != nil {
			return err
		}
	}
	if !f.asJSON {
		said.printCompared(cmd.OutOrStdout())
	}
	if said.SameAs == nil && !said.accepted() {
		q, err := f.question(m, got)
		if err != nil {
			return err
		}
		answer, err := explain.Search(cmd.Context(), q)
		if err != nil {
			return err
		}
		said.add(answer)
	}
	return f.say(cmd, said)
}

// question reads the candidates. The first of several vCPU counts and CPU types is the expected
// one. The search tries the others in any case.
func (f *explainFlags) question(m *measurement, got launch.Sum) (explain.Question, error) {
	q := explain.Question{Got: got, Inputs: m.inputs, CommandLine: m.commandLine, CommandLines: f.commandLines}
	if f.kernel != "" || len(f.kernels) > 0 {
		q.CommandLines = append(q.CommandLines, cmdline.Default(), cmdline.Default("nvme")) // the default line, with and without NVMe
	}
	q.Inputs.VCPUs, q.Inputs.CPU = m.vcpus[0], m.cpus[0]
	if f.kernel != "" {
		if other, ok := otherSideOfGate(f.kernel); ok {
			q.Kernels = append(q.Kernels, other)
		}
	}
	if f.initrd != "" {
		if base, ok := withoutBootConfig(f.initrd); ok {
			q.Initrds = append(q.Initrds, base)
		}
	}
	for _, path := range f.firmwares {
		_, firmware, err := readFirmware(cli.AsFirmware, path, true)
		if err != nil {
			return explain.Question{}, err
		}
		q.Firmware = append(q.Firmware, explain.Firmware{Name: path, Firmware: firmware})
	}
	for _, candidates := range []struct {
		role  cli.Role
		paths []string
		to    *[]explain.Blob
	}{{cli.AsKernel, f.kernels, &q.Kernels}, {cli.AsInitramfs, f.others, &q.Initrds}} {
		for _, path := range candidates.paths {
			sum, err := hashFile(candidates.role, path)
			if err != nil {
				return explain.Question{}, err
			}
			*candidates.to = append(*candidates.to, explain.Blob{Name: path, SHA256: sum})
		}
	}
	return q, nil
}

// compare finds the files that differ from those of the reference values, and whether the
// reference values accept the digest.
func (f *explainFlags) compare(said *explanation, m *measurement, got launch.Sum) error {
	here := m.provenance()
	for _, path := range f.refvals {
		values, _, err := cli.ReadValues(path)
		if err != nil {
			return err
		}
		c := comparison{RefVal: path, MadeFrom: [][]difference{}, Accepts: []shape{}}
		var seen []refval.Provenance
		for _, accepted := range values.Measurements {
			if !slices.Contains(seen, accepted.Provenance) {
				seen = append(seen, accepted.Provenance)
				c.MadeFrom = append(c.MadeFrom, differences(accepted.Provenance, here))
			}
			if bytes.Equal(accepted.Digest[:], got.Bytes()) {
				c.Accepts = append(c.Accepts, shape{accepted.VCPUs, accepted.CPUType})
			}
		}
		said.RefVals = append(said.RefVals, c)
	}
	return nil
}

// differences lists the files that differ between two provenances.
func differences(there, here refval.Provenance) []difference {
	other := []difference{}
	for _, file := range []struct {
		name        string
		there, here pins.Digest
	}{{"firmware", there.FirmwareSHA256, here.FirmwareSHA256}, {"kernel", there.KernelSHA256, here.KernelSHA256}, {"initramfs", there.InitramfsSHA256, here.InitramfsSHA256}} {
		if file.there != file.here {
			other = append(other, difference{file.name, file.there.String(), file.here.String()})
		}
	}
	if there.CommandLine != here.CommandLine {
		other = append(other, difference{commandLine, there.CommandLine, here.CommandLine})
	}
	return other
}

// withoutBootConfig returns the base of an initramfs. A user who forgot to configure the
// initramfs measured or launched the base.
func withoutBootConfig(path string) (explain.Blob, bool) {
	file, err := command.ReadFile(path, maxInitramfs)
	if err != nil {
		return explain.Blob{}, false
	}
	contents, err := initramfs.Read(file)
	if err != nil || contents.BootConfig == nil {
		return explain.Blob{}, false
	}
	return explain.Blob{Name: "the given initramfs without its boot.json", SHA256: sha256.Sum256(file[:contents.BaseSize])}, true
}

// maxInitramfs bounds an initramfs that is inspected, in bytes.
const maxInitramfs = 1 << 30

// otherSideOfGate returns the kernel in a gated file, or a bare kernel put behind the gate. A
// user may have measured one and launched the other. It returns nothing for a file that is
// neither, or that cannot be read twice; loading that file has reported its error before.
func otherSideOfGate(path string) (explain.Blob, bool) {
	file, err := command.ReadFile(path, gate.MaxFile)
	if err != nil {
		return explain.Blob{}, false
	}
	if kernel, err := gate.Open(file); err == nil {
		return explain.Blob{Name: "the kernel in the gate, without the gate", SHA256: sha256.Sum256(kernel)}, true
	}
	gated, err := gate.Build(file)
	if err != nil {
		return explain.Blob{}, false
	}
	return explain.Blob{Name: "the given file behind the gate", SHA256: sha256.Sum256(gated)}, true
}
