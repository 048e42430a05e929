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
		Short: "Check an audit log, and that it still has a line that was noted",
		Long: `Check every line of an audit log, and that each names the digest of the line
before it. A running server may go on writing.

The chain has no key: who can write the log can make another that fits together.
With --head, a head that this command or ` + "`rootvouch keys status`" + ` printed earlier
and that was kept elsewhere, the log must still have that line, and then every line
up to it is as it was. Without --head nothing is proven but that no accident befell
the log, and the command says so.

Prints the number of lines and the head. Exit status 1 says that the log is not
whole.`,
		Example: "  rootvouch-kms audit verify --head 42:5f70bf18… /var/lib/rootvouch-kms/audit.jsonl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var must audit.Head
			if head != "" {
				var err error
				if must, err = audit.ParseHead(head); err != nil {
					return command.Usage(err)
				}
				if must.Sequence == 0 {
					return command.Usage(fmt.Errorf("--head is %s, want that of a line, from 1", must))
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
			if must == (audit.Head{}) {
				fmt.Fprintln(cmd.OutOrStdout(), "note: without --head this rules out accidents, not a log that was made anew")
			} else {
				fmt.Fprintf(cmd.OutOrStdout(), "lines 1 to %d are as they were when the head was noted\n", must.Sequence)
			}
			if scan.Torn > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "then %d bytes of an unfinished line: being written now, or left by a crash\n", scan.Torn)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&head, "head", "", "a head that was noted earlier")
	command.NotEmpty(cmd, "head")
	return cmd
}
