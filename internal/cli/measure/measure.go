// Package measure is "rootvouch measure": it computes and explains launch digests.
package measure

import (
	"bytes"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/launch"
)

// New makes the command.
func New() *cobra.Command {
	var f inputFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "measure --firmware FILE [--kernel FILE [--initrd FILE] [--append LINE]] --vcpus LIST --vcpu-type TYPE",
		Short: "Compute launch digests",
		Long: `Compute the launch digest that the AMD-SP will measure for a guest. It is the value
that MEASUREMENT must have in the guest's attestation reports.

For one vCPU count and one CPU type the command prints only the digest, in hex. For
several, each line has digest, vCPU count and CPU type. With --json it prints a fragment
of refval.json, with the hashes of the firmware, kernel and initramfs; modes sev and
sev-es have none.

With --kernel the digest covers kernel, initramfs and command line through the
kernel-hashes page (QEMU's kernel-hashes=on), if the firmware checks them
(OvmfPkg/AmdSev). Without --kernel it covers only the firmware: any kernel on that
firmware has the same digest, and reference values accept it only with
--unmeasured-kernel.

Inputs of each mode:
  snp       everything but --svsm
  sev-es    everything but --svsm, --firmware-hash and --guest-features
  sev       firmware, kernel, initramfs, command line; nothing of the vCPUs
  snp-svsm  firmware, SVSM, vCPUs; the guest features of an SVSM are 0x1
EC2 and GCE put no CPU type into a guest's initial state, so --vcpu-type is not needed.

--vmsa pre-6.10 is for hosts whose Linux is older than 6.10, and for SEV-ES
guests with QEMU's legacy-vm-type=on.

The command refuses a firmware that may run code of its host before the kernel: its
digest would vouch for nothing. "rootvouch firmware inspect" gives the reason, and
"rootvouch firmware harden" writes a firmware that does not.`,
		Example: `  rootvouch measure --firmware OVMF.hardened.fd --kernel gated.efi --initrd initramfs.img \
    --vcpus 4 --vcpu-type EPYC-v4
  rootvouch measure --firmware OVMF.hardened.fd --kernel gated.efi --initrd initrd.img \
    --append 'console=ttyS0' --vcpus 1,2,4-8 --vcpu-type EPYC-Genoa --vcpu-type EPYC-Turin --json`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := f.load(cmd, asJSON)
			if err != nil {
				return err
			}
			if asJSON {
				return m.printJSON(cmd.OutOrStdout())
			}
			return m.print(cmd.OutOrStdout())
		},
	}
	command.LeavesNothing(cmd)
	f.bind(cmd)
	f.judge = true
	cli.HostCode(cmd, &f.hostCode)
	cli.BareKernel(cmd, &f.bareKernel)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON (a fragment of refval.json)")
	cmd.AddCommand(newFirmwareCommand(), newExplainCommand(), newIDBlockCommand())
	return cmd
}

// entries computes the digests of all combinations.
func (m *measurement) entries() ([]launch.Entry, error) {
	entries, err := m.base.Matrix(m.inputs.Hashes, m.inputs.VCPU, m.vcpus, m.cpus)
	return entries, m.named(err)
}

func (m *measurement) print(out io.Writer) error {
	entries, err := m.entries()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, e := range entries {
		if len(entries) == 1 {
			fmt.Fprintln(&text, e.Digest)
			continue
		}
		fmt.Fprintln(&text, e.Digest, e.VCPUs, e.CPU.Name)
	}
	_, err = text.WriteTo(out)
	return err
}

func (m *measurement) printJSON(out io.Writer) error {
	switch {
	case m.inputs.Mode != launch.SNP && m.inputs.Mode != launch.SNPSVSM:
		return command.Usage(fmt.Errorf("--json: reference values hold digests of SNP guests only, mode is %v", m.inputs.Mode))
	case m.inputs.FirmwareDigest != nil:
		return command.Usage(fmt.Errorf("--json: with --firmware-hash the measured file is unknown"))
	}
	entries, err := m.entries()
	if err != nil {
		return err
	}
	var f cli.Measurements
	for _, e := range entries {
		digest := snp.Measurement(e.Digest.Bytes())
		f.Measurements = append(f.Measurements, refval.Measurement{Digest: digest, HostCode: m.hostCode, Gate: m.gate, Kernel: m.kernel(), VCPUs: e.VCPUs, CPUType: e.CPU.Name, Provenance: m.provenance()})
	}
	return cli.PrintJSON(out, f)
}

// kernel says whether the digest covers a kernel.
func (m *measurement) kernel() refval.Kernel {
	if m.inputs.Hashes == nil {
		return refval.KernelUnmeasured
	}
	return refval.KernelMeasured
}

// provenance describes the measured files. A file that was not measured is zero.
func (m *measurement) provenance() refval.Provenance {
	p := refval.Provenance{FirmwareSHA256: m.firmwareSHA256()}
	if h := m.inputs.Hashes; h != nil {
		p.KernelSHA256, p.InitramfsSHA256, p.CommandLine = pins.Digest(h.Kernel), pins.Digest(h.Initrd), m.commandLine
	}
	return p
}
