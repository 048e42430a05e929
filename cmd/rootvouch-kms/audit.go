package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/audit"
)

func newAuditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Check the audit log",
	}
	cmd.AddCommand(newAuditVerifyCommand())
	return cmd
}

func newAuditVerifyCommand() *cobra.Command {
	var head string
	cmd := &cobra.Command{
		Use:   "verify [--head SEQUENCE:DIGEST] LOG",
		Short: "Check that no line of an audit log was changed, removed or put in between",
		Long: `Check every line of an audit log, and that each names the digest of the line
before it. A running server may go on writing.

The chain alone cannot show that lines at the end were cut off. With --head, a
head that this command or ` + "`rootvouch keys status`" + ` printed earlier, the log must
still have that line. A server compares its log with its own store's head when it
starts.

Prints the number of lines and the head. Exit status 1 says that the log is not
whole.`,
		Example: "  rootvouch-kms audit verify --head 42:5f70bf18… /var/lib/rootvouch/audit.jsonl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var must audit.Head
			if head != "" {
				var err error
				if must, err = audit.ParseHead(head); err != nil {
					return command.Usage(err)
				}
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			scan, err := audit.Verify(f, must, nil)
			if err != nil {
				return fmt.Errorf("audit log %s: %w", args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d lines, head %s\n", scan.Head.Sequence, scan.Head)
			if scan.Torn > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "then %d bytes of an unfinished line: being written now, or left by a crash\n", scan.Torn)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&head, "head", "", "a head that was noted earlier")
	return cmd
}
