package host

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/snp/firmware"
	"github.com/rootvouch/rootvouch/snp/launch"
)

// lacking is exit status 1 without a further message.
type lacking struct{}

func (lacking) Error() string { return "" }

func newCheckCommand() *cobra.Command {
	var kind, qemu, image string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what a host lacks to launch VMs, and what to do",
		Long: `Look for all that "vm run" needs on this host: QEMU, and for SEV-SNP the devices
and the kernel's settings. With --firmware, check also that the firmware checks the
kernel and runs nothing of its host. Each item has a line. Below an item that fails, a
line says what to do.

The exit status is 0 if nothing is lacking, and 1 if something is.`,
		Example: `  rootvouch host check --firmware OVMF.hardened.fd`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := platform.ParseKind(kind)
			if err != nil {
				return command.Usage(err)
			}
			findings := platform.CheckHost(cmd.Context(), qemu, k)
			if image != "" {
				data, err := cli.ReadInput(image, launch.MaxImageSize)
				if err != nil {
					return err
				}
				findings = append(findings, checkFirmware(data)...)
			}
			return tell(cmd, findings)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&kind, "platform", string(platform.SNP), "emulated (NOT CONFIDENTIAL) or snp")
	flags.StringVar(&qemu, "qemu", platform.DefaultQEMU, "QEMU program")
	flags.StringVar(&image, "firmware", "", "firmware file (OVMF for AmdSev)")
	command.NotEmpty(cmd, "platform", "qemu", "firmware")
	return cmd
}

// checkFirmware judges the guest's firmware, which the host hands to QEMU.
func checkFirmware(data []byte) []platform.Finding {
	measures := func() error {
		parsed, err := launch.ParseFirmware(data)
		if err != nil {
			return err
		}
		nothing, err := launch.HashKernel(bytes.NewReader(nil), nil, "")
		if err != nil {
			return err
		}
		_, _, err = launch.HashesPage(parsed, nothing)
		return err
	}
	return []platform.Finding{
		{What: "firmware checks the kernel", Err: measures(), Advice: "take an OVMF of OvmfPkg/AmdSev, such as that of Debian's ovmf-amdsev: docs/hardware.md"},
		{What: "firmware runs nothing of its host", Err: firmware.Check(data), Advice: "rootvouch firmware harden makes a copy that does not"},
	}
}

// tell prints findings, and returns an error if one failed.
func tell(cmd *cobra.Command, findings []platform.Finding) error {
	var text bytes.Buffer
	var end error
	for _, f := range findings {
		if f.Err == nil {
			fmt.Fprintf(&text, "ok      %s\n", f.What)
			continue
		}
		end = lacking{}
		fmt.Fprintf(&text, "LACKING %s: %v\n        %s\n", f.What, f.Err, f.Advice)
	}
	if _, err := text.WriteTo(cmd.OutOrStdout()); err != nil {
		return err
	}
	return end
}
