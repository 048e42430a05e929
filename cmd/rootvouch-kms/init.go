package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/store"
)

func newInitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Make an empty store and its audit log, and a key-encryption key if there is none",
		Long: `Make an empty store and its audit log where the configuration has them, both of
mode 0600. Nothing else ever makes them: a server that does not find its store
or its audit log does not start.

A key-encryption key that is there is used. A file that is not there is made, with
mode 0600; a systemd credential must be there.

Existing stores and logs are refused.`,
		Example: "  rootvouch-kms init --config /etc/rootvouch-kms/kms.json",
		Args:    command.NoArguments,
	}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*path)
		if err != nil {
			return err
		}
		return initialize(cmd, c)
	}
	return cmd
}

func initialize(cmd *cobra.Command, c config) error {
	if c.KEK.File != "" {
		err := kek.Create(c.KEK.File, rand.Reader)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err == nil {
			fmt.Fprintf(cmd.OutOrStdout(), "made key-encryption key %s\n", c.KEK.File)
		}
	}
	k, err := c.KEK.Load(credentials())
	if err != nil {
		return err
	}
	if err := audit.Create(c.AuditLog, time.Now()); err != nil {
		return err
	}
	if err := store.Create(c.Store, k, rand.Reader); err != nil {
		// The log is ours, of a moment ago, and says nothing yet.
		return errors.Join(err, os.Remove(c.AuditLog))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "made audit log %s\nmade store %s\n", c.AuditLog, c.Store)
	return nil
}
