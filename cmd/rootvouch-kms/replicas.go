package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/publish"
)

func newJoinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join --config FILE",
		Short: "Register one more server that shares a store",
		Long: `Register the server of this configuration, under the name in "replica", as one of those
that share a store in etcd. From now on leaves of the log stay in the store until this
server's log directory has them too.

Then copy the log directory of a running server to this one's log_dir, and serve.`,
		Example: "  rootvouch-kms join --config /etc/rootvouch-kms/kms.json",
		Args:    command.NoArguments,
	}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, b, err := openShared(cmd.Context(), *path)
		if err != nil {
			return err
		}
		defer b.closeAll()
		size, err := publish.Join(cmd.Context(), b.store, c.Replica)
		if err != nil {
			return err
		}
		if err := b.ledger.Note(cmd.Context(), audit.Entry{Event: audit.Join, About: audit.AboutReplica{Replica: c.Replica}}); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "registered replica %s\nnow copy the log directory of another replica, which has at least %d leaves, to %s\n", c.Replica, size, c.LogDir)
		return nil
	}
	return cmd
}

func newLeaveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leave --config FILE REPLICA",
		Short: "Stop waiting for the log directory of a lost server",
		Long: `End the registration that join began: leaves no longer stay in the store for the log
directory of this replica. Do so for a machine that is lost or taken out of service, with
the configuration of a running server. If the machine comes back, it must join again,
with a copy of another server's log directory.`,
		Example: "  rootvouch-kms leave --config /etc/rootvouch-kms/kms.json kms2",
		Args:    cobra.ExactArgs(1),
	}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, arguments []string) error {
		_, b, err := openShared(cmd.Context(), *path)
		if err != nil {
			return err
		}
		defer b.closeAll()
		if err := publish.Leave(cmd.Context(), b.store, arguments[0]); err != nil {
			return err
		}
		return b.ledger.Note(cmd.Context(), audit.Entry{Event: audit.Leave, About: audit.AboutReplica{Replica: arguments[0]}})
	}
	return cmd
}

// openShared opens a store that several servers share.
func openShared(ctx context.Context, path string) (config, book, error) {
	c, err := loadConfig(path)
	if err != nil {
		return config{}, book{}, err
	}
	if c.Etcd == nil {
		return config{}, book{}, fmt.Errorf("the store is the file %s, want one in etcd: a file serves only one server", c.Store)
	}
	b, err := openStore(ctx, c)
	return c, b, err
}
