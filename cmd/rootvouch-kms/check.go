package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/kv/boltkv"
)

func newCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Report what would keep the server from serving, without serving",
		Long: `Read the configuration, the key-encryption key, the collateral, the store and the log as
the server does when it starts, and report all errors. The command changes nothing, and
does not ask the SPIRE agent.

While a server runs, it has its store open: then the command skips store and log, and
the server's own /ready reports on them.`,
		Example: "  rootvouch-kms check --config /etc/rootvouch-kms/kms.json",
		Args:    command.NoArguments,
	}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*path)
		if err != nil {
			return err
		}
		return check(cmd.Context(), c, cmd.OutOrStdout())
	}
	return cmd
}

// quiet logs nothing.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func check(ctx context.Context, c config, out io.Writer) error {
	quiet := quiet()
	var errs []error
	say := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
			return
		}
		fmt.Fprintf(out, "ok    %s\n", what)
	}
	k, err := c.loadKEKs(ctx)
	say("key-encryption key", err)
	if err == nil {
		k.Close()
	}
	collateral := newCollateralDir(c.CollateralDir, time.Now, quiet)
	say("collateral", collateral.checkFresh())
	if err := collateral.checkExpiry(); err != nil {
		fmt.Fprintf(out, "note  collateral: %v\n", err)
	}
	b, err := openBook(ctx, c, quiet)
	if errors.Is(err, boltkv.ErrLocked) {
		fmt.Fprintln(out, "note  store and log: skipped, because a server has them open")
		return errors.Join(errs...)
	}
	say("store and log", err)
	if err == nil {
		b.close(quiet)
	}
	return errors.Join(errs...)
}
