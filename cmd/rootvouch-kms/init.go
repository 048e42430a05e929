package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/kv/boltkv"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
)

func newInitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Make an empty store and its log, and a key-encryption key if there is none",
		Long: `Make an empty store and its log where the configuration has them, readable by their
owner alone. Nothing else ever makes them: a server that does not find its store or
its log does not start.

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
	made, err := c.KEK.Create(rand.Reader)
	switch {
	case err != nil && !errors.Is(err, os.ErrExist):
		return err
	case err == nil && made != "":
		fmt.Fprintf(cmd.OutOrStdout(), "made key-encryption key %s\n", made)
	}
	k, err := c.loadKEKs(cmd.Context())
	if err != nil {
		return err
	}
	defer k.Close()
	// The log is the last to come: a store without one does not serve, and init says so.
	if err := createStore(cmd.Context(), c, k.Ring); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "made store %s\nmade log %s\n", c.where(), c.LogDir)
	return nil
}

// createStore makes a store and its log, or neither.
func createStore(ctx context.Context, c config, k *kek.Ring) (err error) {
	// A cluster keeps what was made there: whether the log can be made comes first.
	if err := os.Mkdir(c.LogDir, 0o700); err != nil {
		return fmt.Errorf("creating log: %w", err)
	}
	if err := os.Remove(c.LogDir); err != nil {
		return fmt.Errorf("creating log: %w", err)
	}
	if c.Etcd == nil {
		if err := boltkv.Create(c.Store); err != nil {
			return err
		}
		defer func() {
			if err != nil { // it is ours, of a moment ago, and says nothing yet
				err = errors.Join(err, os.Remove(c.Store))
			}
		}()
	}
	b, err := openEngine(ctx, c)
	if err != nil {
		return err
	}
	defer b.engine.Close()
	if err := store.Create(ctx, b.engine, k, rand.Reader, c.origin(), c.lane(), time.Now()); err != nil {
		return err
	}
	s, err := store.Open(ctx, b.engine, k, rand.Reader)
	if err != nil {
		return err
	}
	checkpoint, err := s.Checkpoint(ctx)
	if err != nil {
		return err
	}
	_, err = tlogdir.Create(c.LogDir, s.LogPublic(), []byte(checkpoint.Signed))
	return err
}
