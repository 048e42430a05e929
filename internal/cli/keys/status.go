package keys

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
)

func newStatusCommand(client connect) *cobra.Command {
	var checkpoint bool
	cmd := &cobra.Command{
		Use:   "status --kms-socket SOCKET",
		Short: "Show the key server's SPIFFE ID, and the state of its log",
		Long: `Show the key server's SPIFFE ID, the key that verifies its log, and the log's size.

--checkpoint-only prints only the log's signed checkpoint. Keep it where the server
cannot change it. It shows later whether the log still has all its leaves: give it to
` + "`rootvouch-kms audit verify --checkpoint`" + `, and the key with --log-key.`,
		Example: "  rootvouch keys status --kms-socket kms.sock --checkpoint-only > checkpoint-2026-11-28",
		Args:    command.NoArguments,
	}
	cmd.Flags().BoolVar(&checkpoint, "checkpoint-only", false, "print the log's signed checkpoint")
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("json", "checkpoint-only")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := client()
		if err != nil {
			return err
		}
		status, err := c.Status(cmd.Context())
		if err != nil {
			return hintForKeys(err)
		}
		if checkpoint {
			_, err := io.WriteString(cmd.OutOrStdout(), status.Checkpoint)
			return err
		}
		if *asJSON {
			return cli.PrintJSON(cmd.OutOrStdout(), status)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "spiffe id   %s\nrecords     %d\nkek         %s\nlog key     %s\nlog         %d leaves, complete at %s\n",
			status.SPIFFEID, status.Records, status.KEK, status.LogKey, status.LogSize, status.Published.Format(time.RFC3339))
		return nil
	}
	return cmd
}
