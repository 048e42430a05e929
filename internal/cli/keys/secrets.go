package keys

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
)

func newMakeCommand(client connect) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "make --kms-socket SOCKET --key-out KEY",
		Short: "Have the server make a key for a new disk",
		Long: `Have the server make a key, keep it, and write it to a file for "rootvouch image build
--key". So the server has the key before the disk is built, and the key comes from the
server's randomness. "keys put --made-key NAME" registers the disk with it. The server
forgets a key that no disk claims within a week.`,
		Example: `  rootvouch keys make --kms-socket kms.sock --key-out disk.key
  rootvouch image build --root root/ --out disk.img --key disk.key --pins-out pins.json
  rootvouch keys put --kms-socket kms.sock --spiffe-id spiffe://example.org/vm/web \
    --pins pins.json --refval refval.json --made-key 2f0c7a5d9b1e4f7e8a635c1d2e3f4a5b`,
		Args: command.NoArguments,
	}
	out := cmd.Flags().String("key-out", "", "key file to write, mode 0600")
	command.Require(cmd, "key-out")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := client()
		if err != nil {
			return err
		}
		made, key, err := c.MakeKey(cmd.Context())
		if err != nil {
			return hintForKeys(err)
		}
		defer clear(key)
		if err := durable.Create(*out, key, 0o600); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "made key %s: it waits for its disk until %s\n", made.ID, made.Until.Format(time.RFC3339))
		return err
	}
	return cmd
}

func newBackupCommand(client connect) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup --kms-socket SOCKET --out FILE",
		Short: "Copy the key server's store while it serves",
		Long: `Write a copy of the key server's store, as it stands at one moment, to a new file. The
server keeps serving. The keys in the copy are sealed: it is useless without the
key-encryption key, which is kept elsewhere. A store in etcd is refused: use etcd's own
snapshots.

Copy the log's directory afterwards, and more often (rsync: files are added and never
change). "rootvouch-kms restore" takes the store from a backup, and all later events
from the log.`,
		Example: "  rootvouch keys backup --kms-socket kms.sock --out kms-backup-$(date +%F).db",
		Args:    command.NoArguments,
	}
	out := cmd.Flags().String("out", "", "file to write (must not exist)")
	command.Require(cmd, "out")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := client()
		if err != nil {
			return err
		}
		file, err := durable.New(*out, 0o600, false)
		if err != nil {
			return err
		}
		defer file.Abort()
		n, err := c.Backup(cmd.Context(), file)
		if err != nil {
			return hintForKeys(err)
		}
		if err := file.Commit(); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s: %d bytes\n", *out, n)
		return err
	}
	return cmd
}

func newExportCommand(client connect) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export --kms-socket SOCKET --out FILE DISK-UUID",
		Short: "Write a disk's key, sealed to the break-glass recipients of the server",
		Long: `Write the key of a disk, sealed with age to the recipients in the server's
configuration (break_glass), for the day when a disk has to be opened without this
server. The command cannot name another recipient. The log has the user that asked.

The holder of a recipient's identity opens the file with "age --decrypt".`,
		Example: `  rootvouch keys export --kms-socket kms.sock --ticket INC-17 --out disk.key.age 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b
  age --decrypt --identity break-glass.txt disk.key.age > disk.key`,
		Args: cobra.ExactArgs(1),
	}
	out := cmd.Flags().String("out", "", "file to write (must not exist)")
	generation := cmd.Flags().Uint64("generation", 0, "generation of the record (0: the one in force)")
	command.Require(cmd, "out")
	cmd.RunE = ofDisk(client, func(cmd *cobra.Command, client *adminapi.Client, disk pins.UUID) error {
		exported, err := client.Export(cmd.Context(), disk, *generation)
		if err != nil {
			return err
		}
		if err := durable.Create(*out, []byte(exported.Sealed), 0o600); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s: the key of disk %s, generation %d, for %d recipients\n",
			*out, exported.DiskUUID, exported.Generation, len(exported.Recipients))
		return err
	})
	return cmd
}

func newRewrapCommand(client connect) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rewrap --kms-socket SOCKET",
		Short: "Seal all keys anew under the server's current key-encryption key",
		Long: `Seal all secrets under the current key-encryption key, a few at a time, while the server
releases keys. After an interruption, run it again: it skips secrets that are done. The
log has the user that asked, and the number of secrets.

At the end no secret is sealed under another key-encryption key, and the others can be
removed from the server's configuration (old_keks). Older copies of the store still
need them.`,
		Example: "  rootvouch keys rewrap --kms-socket kms.sock --ticket CHG-88",
		Args:    command.NoArguments,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := client()
		if err != nil {
			return err
		}
		return hintForKeys(rewrap(cmd, c))
	}
	return cmd
}

func rewrap(cmd *cobra.Command, c *adminapi.Client) error {
	total, after := 0, ""
	for {
		step, err := c.Rewrap(cmd.Context(), after)
		if err != nil {
			return fmt.Errorf("%d are done: %w", total, err)
		}
		total += step.Sealed
		if step.Next == "" {
			return sayRewrapped(cmd.OutOrStdout(), total, step)
		}
		after = step.Next
	}
}

func sayRewrapped(out io.Writer, total int, last adminapi.Rewrapped) error {
	_, err := fmt.Fprintf(out, "sealed %d secrets anew under key-encryption key %q\nin use: %q\n", total, last.KEK, last.InUse)
	return err
}
