// Package vm is "rootvouch vm": it launches VMs, confidential or emulated.
package vm

import "github.com/spf13/cobra"

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "Launch VMs, confidential or emulated",
		Long: `Launch VMs on a host with AMD SEV-SNP (--platform snp), or, for development and
tests, without (--platform emulated): the same firmware, kernel, initramfs and
command line under QEMU's TCG, with a software AMD-SP. Emulated VMs are
NOT CONFIDENTIAL.`,
	}
	cmd.AddCommand(newRunCommand(), newTimelineCommand(), newExportCommand(), newASPCommand())
	return cmd
}
