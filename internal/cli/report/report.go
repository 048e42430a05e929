// Package report is "rootvouch report": it shows and verifies reports, offline.
package report

import "github.com/spf13/cobra"

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Show and verify attestation reports, offline",
		Long: `Show and verify SEV-SNP attestation reports that are kept in files. Nothing
here uses the network.

A report is its 1184 bytes, or an Azure HCL blob around them, or evidence as
rootvouch writes it: JSON with the report and its certificates.`,
	}
	cmd.AddCommand(newShowCommand(), newVerifyCommand())
	return cmd
}
