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
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/kv/boltkv"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
)

func newInitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Make an empty store and its log, and a key-encryption key if there is none",
		Long: `Make an empty store and its log at the paths in the configuration, readable only by
their owner. Of the other commands only "restore" makes a store, from a backup, and none
makes a log. A server that does not find its store or its log does not start.

An existing key-encryption key is used. A missing key file is made, with mode 0600; a
systemd credential must exist.

Existing stores and logs are refused. If init fails, it leaves nothing behind. The
exception is the key-encryption key of a store that may have reached a cluster: that key
stays.

For servers that something else starts, such as a pod: with --if-absent an existing
store and log are left alone, and --before gives the end of the time in which they may
be made. After that time a server that lost its volume gets no empty store instead.`,
		Example: `  rootvouch-kms init --config /etc/rootvouch-kms/kms.json
  rootvouch-kms init --config kms.json --if-absent --before 2026-12-01T12:00:00Z`,
		Args: command.NoArguments,
	}
	path := configFlag(cmd)
	ifAbsent := cmd.Flags().Bool("if-absent", false, "leave an existing store and log alone")
	before := cmd.Flags().String("before", "", "time until which a store may be made (RFC 3339; default: no end)")
	command.NotEmpty(cmd, "before")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var end time.Time
		if *before != "" {
			var err error
			if end, err = time.Parse(time.RFC3339, *before); err != nil {
				return command.Usage(fmt.Errorf("--before is %q, want RFC 3339, such as 2026-12-01T12:00:00Z", *before))
			}
		}
		c, err := loadConfig(*path)
		if err != nil {
			return err
		}
		if *ifAbsent {
			if there, err := c.initialized(); there || err != nil {
				return err
			}
		}
		if !end.IsZero() && !time.Now().Before(end) {
			return fmt.Errorf("making store %s and log %s: after %s none may be made (--before)", c.where(), c.LogDir, end.Format(time.RFC3339))
		}
		return initialize(cmd, c)
	}
	return cmd
}

// initialized reports whether store and log exist. One without the other is an error: it was
// lost, or init was killed. A cluster is not asked here; it says itself whether it has a store.
func (c config) initialized() (bool, error) {
	log, err := exists(c.LogDir)
	if err != nil || c.Etcd != nil {
		return log, err
	}
	store, err := exists(c.Store)
	if err == nil && store != log {
		err = fmt.Errorf("only one of store %s and log %s exists, want both or none", c.Store, c.LogDir)
	}
	return store && log, err
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// initialize makes store, log and key-encryption key, or leaves nothing that it made.
func initialize(cmd *cobra.Command, c config) (err error) {
	made, err := c.KEK.Create(rand.Reader)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	mine := err == nil && made != ""
	stands := false
	defer func() {
		// If the store exists, or may exist, it is sealed under the key: then the key stays.
		if mine && err != nil && !stands {
			err = errors.Join(err, os.Remove(made))
		}
	}()
	k, err := c.loadKEKs(cmd.Context())
	if err != nil {
		return err
	}
	defer k.Close()
	if stands, err = createStore(cmd.Context(), c, k.Ring); err != nil {
		return err
	}
	if mine {
		fmt.Fprintf(cmd.OutOrStdout(), "made key-encryption key %s\n", made)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "made store %s\nmade log %s\n", c.where(), c.LogDir)
	return nil
}

// createStore makes a store and its log. After an error, stands reports whether the store
// exists, or may exist: a file is removed, but the content of a cluster is not. The log is made
// last, because a store without a log does not serve.
func createStore(ctx context.Context, c config, k *kek.Ring) (stands bool, err error) {
	// A cluster keeps what was made in it, so first check whether the log can be made.
	if err := os.Mkdir(c.LogDir, 0o700); err != nil {
		return false, fmt.Errorf("creating log: %w", err)
	}
	if err := os.Remove(c.LogDir); err != nil {
		return false, fmt.Errorf("creating log: %w", err)
	}
	if c.Etcd == nil {
		if err := boltkv.Create(c.Store); err != nil {
			return false, err
		}
		defer func() {
			if err != nil { // we made it just now, and it is empty
				stands, err = false, errors.Join(err, os.Remove(c.Store))
			}
		}()
	}
	b, err := openEngine(ctx, c)
	if err != nil {
		return false, err
	}
	defer b.engine.Close()
	if err := store.Create(ctx, b.engine, k, rand.Reader, c.origin(), c.lane(), time.Now()); err != nil {
		return errors.Is(err, kv.ErrUnknown), err
	}
	s, err := store.Open(ctx, b.engine, k, rand.Reader)
	if err != nil {
		return true, err
	}
	checkpoint, err := s.Checkpoint(ctx)
	if err != nil {
		return true, err
	}
	_, err = tlogdir.Create(c.LogDir, s.LogPublic(), []byte(checkpoint.Signed))
	return true, err
}
