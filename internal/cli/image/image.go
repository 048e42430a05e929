// Package image is "rootvouch image": it builds, inspects and checks disks.
package image

import "github.com/spf13/cobra"

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Build, inspect and check encrypted, integrity-protected disks",
	}
	cmd.AddCommand(newBuildCommand(), newInspectCommand(), newVerifyCommand(), newExtractCommand(), newRekeyCommand())
	return cmd
}
