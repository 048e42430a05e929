// Package report is "rootvouch report": it shows and verifies reports, offline.
package report

import "github.com/spf13/cobra"

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Show and verify attestation reports, offline",
		Long: `Show and verify SEV-SNP attestation reports in files. These commands use no network.

A report file has the 1184 bytes of a report, or an Azure HCL blob around them, or
evidence as rootvouch writes it: JSON with the report and its certificates.`,
	}
	cmd.AddCommand(newShowCommand(), newVerifyCommand())
	return cmd
}
