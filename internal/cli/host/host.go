// Package host is "rootvouch host": it describes the machine that launches VMs.
package host

import "github.com/spf13/cobra"

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "host",
		Short: "Look at a host: which chip it is, and whether it can launch VMs",
		Long: `Look at the machine that launches VMs, before the first one runs there.

"check" says what it lacks. "identify" asks its AMD-SP which chip it is and which
firmware it runs, so that an owner can fetch its certificate and choose a minimum
TCB. What a host says about itself is not evidence; the reports of its VMs are.`,
	}
	cmd.AddCommand(newCheckCommand(), newIdentifyCommand(snpDevice))
	return cmd
}
