package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv/boltkv"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/publish"
	"github.com/rootvouch/rootvouch/kms/restore"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
)

func newRestoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore --config FILE --backup FILE",
		Short: "Make the store from a backup, and bring it up to the log",
		Long: `Make the store at its path in the configuration from a backup ("rootvouch keys backup"),
and bring it up to the log, which goes on after the backup. No launch that got a key
after the backup gets it again. Records that were disabled, retired or deleted after
the backup are so in the new store. The log must be the one that was last in use, or its
newest copy.

No copy has the keys that were registered after the backup. The command lists them.
Register them again ("rootvouch keys put").

An existing store is refused. If restore fails, it leaves nothing behind.`,
		Example: "  rootvouch-kms restore --config /etc/rootvouch-kms/kms.json --backup kms-backup-2026-11-28.db",
		Args:    command.NoArguments,
	}
	path := configFlag(cmd)
	backup := cmd.Flags().String("backup", "", "backup of a key server's store")
	command.Require(cmd, "backup")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*path)
		if err != nil {
			return err
		}
		return restoreStore(cmd.Context(), c, *backup, cmd.OutOrStdout())
	}
	return cmd
}

// restoreStore makes the store, or leaves nothing.
func restoreStore(ctx context.Context, c config, backup string, out io.Writer) (err error) {
	if c.Etcd != nil {
		return errors.New("restoring: the store is in etcd, want a file: restore etcd from its own snapshots")
	}
	if _, err := os.Lstat(c.Store); err == nil {
		return fmt.Errorf("restoring: %w", &os.PathError{Op: "creating", Path: c.Store, Err: os.ErrExist})
	}
	part := c.Store + ".restoring"
	if err := copyFile(part, backup); err != nil {
		return fmt.Errorf("restoring: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part))
		}
	}()
	result, err := restoreInto(ctx, c, part)
	if err != nil {
		return err
	}
	if err := durable.Rename(part, c.Store); err != nil {
		return fmt.Errorf("restoring: %w", err)
	}
	fmt.Fprintf(out, "made store %s: the log has %d leaves that the backup lacked, %d releases among them; %d disks had changed\n",
		c.Store, result.Leaves, result.Releases, result.Changed)
	for _, lost := range result.Lost {
		fmt.Fprintf(out, "lost: the key of %s: register it again\n", lost)
	}
	return nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	file, err := durable.New(to, 0o600, true)
	if err != nil {
		return err
	}
	defer file.Abort()
	if _, err := io.Copy(file, in); err != nil {
		return err
	}
	return file.Commit()
}

func restoreInto(ctx context.Context, c config, part string) (restore.Result, error) {
	engine, err := boltkv.Open(part)
	if err != nil {
		return restore.Result{}, err
	}
	defer engine.Close()
	keys, err := c.loadKEKs(ctx)
	if err != nil {
		return restore.Result{}, err
	}
	defer keys.Close()
	s, err := store.Open(ctx, engine, keys.Ring, rand.Reader)
	if err != nil {
		return restore.Result{}, err
	}
	result, err := restore.Restore(ctx, s, tlogdir.Dir(c.LogDir), rand.Reader, c.retention)
	if err != nil {
		return restore.Result{}, err
	}
	// This is the check that a server makes at its start.
	if _, err := publish.Open(ctx, s, c.lane(), c.LogDir, quiet()); err != nil {
		return restore.Result{}, err
	}
	about := audit.AboutRecovery{Leaves: uint64(result.Leaves), Releases: uint64(result.Releases), Lost: []audit.LostKey{}}
	for _, lost := range result.Lost[:min(len(result.Lost), audit.MaxLost)] {
		about.Lost = append(about.Lost, audit.LostKey{Disk: lost.Disk, Generation: lost.Generation})
	}
	l := ledger.New(s, c.lane(), time.Now, rand.Reader, retryWindow)
	return result, l.Note(ctx, audit.Entry{Event: audit.Recovery, About: about})
}
