package keys

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
)

type updateFlags struct {
	refval                       string
	keepOld                      time.Duration
	maxReleases                  uint32
	changeRoot, unmeasuredKernel bool
}

func newUpdateCommand(client connect) *cobra.Command {
	var f updateFlags
	cmd := &cobra.Command{
		Use:   "update --kms-socket SOCKET [--refval REFVAL] DISK-UUID",
		Short: "Change what a disk's record accepts, without its key",
		Long: `Give a record other reference values, or another limit, and keep the disk's key. A new
kernel, for example, makes a new launch digest, but neither disk nor key change.

Replaced reference values are no longer in force, unless --keep-old says for how
long. Until then launches of the old and the new version both get the key, so you can
move all VMs from one to the other while they may still restart. Reference values that
an earlier update kept stay in force until their own end.`,
		Example: `  rootvouch keys update --kms-socket kms.sock --refval new-refval.json --keep-old 168h \
    0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b
  rootvouch keys update --kms-socket kms.sock --max-releases-per-hour 20 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b`,
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.refval, "refval", "", "reference values (for the workload's evidence)")
	flags.DurationVar(&f.keepOld, "keep-old", 0, "how long the old reference values stay in force beside the new ones")
	flags.Uint32Var(&f.maxReleases, "max-releases-per-hour", 0, "launches that may have the key within an hour (0: any number)")
	flags.BoolVar(&f.changeRoot, "change-root-of-trust", false, "let the record have another root of trust (with --refval)")
	cli.UnmeasuredKernel(cmd, &f.unmeasuredKernel)
	command.NotEmpty(cmd, "refval")
	cmd.RunE = ofDisk(client, f.run)
	return cmd
}

func (f *updateFlags) run(cmd *cobra.Command, client *adminapi.Client, disk pins.UUID) error {
	bounded := cmd.Flags().Changed("max-releases-per-hour")
	switch {
	case f.refval == "" && !bounded:
		return command.Usage(errors.New("nothing to update: want --refval or --max-releases-per-hour"))
	case f.refval == "" && (f.keepOld != 0 || f.changeRoot):
		return command.Usage(errors.New("--keep-old and --change-root-of-trust go with --refval"))
	case f.keepOld < 0 || f.keepOld > math.MaxUint32*time.Second || f.keepOld%time.Second != 0:
		return command.Usage(fmt.Errorf("--keep-old is %v, want whole seconds, 0 or more", f.keepOld))
	}
	u := adminapi.Update{KeepBefore: uint32(f.keepOld / time.Second), ChangeRootOfTrust: f.changeRoot}
	var err error
	if f.refval != "" {
		if u.ReferenceValues, err = readValues(cmd, f.refval, f.unmeasuredKernel); err != nil {
			return err
		}
	}
	if bounded {
		u.MaxReleases = &f.maxReleases
	}
	record, err := client.Update(cmd.Context(), disk, u)
	if err != nil {
		return hintForPut(err)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "updated disk %s: it accepts %d measurements\n", record.DiskUUID, len(record.Measurements))
	return err
}

// changeState is Client.Enable, Client.Disable or another of its kind.
type changeState func(*adminapi.Client, context.Context, pins.UUID) (adminapi.Record, error)

func newStateCommand(client connect, verb, short, long string, change changeState) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " --kms-socket SOCKET DISK-UUID",
		Short:   short,
		Long:    long,
		Example: "  rootvouch keys " + verb + " --kms-socket kms.sock 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b",
		Args:    cobra.ExactArgs(1),
		RunE: ofDisk(client, func(cmd *cobra.Command, client *adminapi.Client, disk pins.UUID) error {
			return say(cmd, "disk %s is %s, generation %d\n", change, client, disk)
		}),
	}
}

// say makes a change and prints the record's new state.
func say(cmd *cobra.Command, format string, change changeState, client *adminapi.Client, disk pins.UUID) error {
	record, err := change(client, cmd.Context(), disk)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), format, record.DiskUUID, record.State, record.Generation)
	return err
}

func newEnableCommand(client connect) *cobra.Command {
	cmd := newStateCommand(client, "enable", "Let a disk's key be released again", "", (*adminapi.Client).Enable)
	retired := cmd.Flags().Bool("retired", false, "enable it even if it is retired")
	cmd.RunE = ofDisk(client, func(cmd *cobra.Command, client *adminapi.Client, disk pins.UUID) error {
		change := (*adminapi.Client).Enable
		if *retired {
			change = (*adminapi.Client).Revive
		}
		return say(cmd, "disk %s is %s, generation %d\n", change, client, disk)
	})
	return cmd
}

func newRetireCommand(client connect) *cobra.Command {
	return newStateCommand(client, "retire", "Disable a disk's record for good: the disk is no longer in use",
		`Disable a disk's record for good, for an image that a newer one has replaced: no host
gets its key any more by launching it again. A retired record overlaps with no other:
a new disk may have its SPIFFE ID and its measurement.

"keys enable --retired" takes it back.`, (*adminapi.Client).Retire)
}

func newConfirmCommand(client connect) *cobra.Command {
	return newStateCommand(client, "confirm", "Let the record beside a disk's own replace it",
		`Let the record that "keys put --beside" staged replace the disk's own, which is kept
for a while. A launch must have had the new key: confirm when that VM came up
("rootvouch attest --release --confirm" does both).`, func(c *adminapi.Client, ctx context.Context, disk pins.UUID) (adminapi.Record, error) {
			return c.Confirm(ctx, disk, 0)
		})
}

func newWithdrawCommand(client connect) *cobra.Command {
	return newStateCommand(client, "withdraw", "Take back the record beside a disk's own",
		`Take back the record that "keys put --beside" staged. The disk's own stays in force,
and the staged one is kept for a while.`, (*adminapi.Client).Withdraw)
}

func newDeleteCommand(client connect) *cobra.Command {
	return &cobra.Command{
		Use:   "delete --kms-socket SOCKET DISK-UUID",
		Short: "Delete a disk's record; it is kept for a while",
		Long: `Delete a disk's record. No launch gets its key any more. The server keeps the record
and the key for a while: "keys restore" brings them back, "keys purge" destroys them.
The list of releases stays, and so does the rule that no launch gets the key of this
disk twice.`,
		Example: "  rootvouch keys delete --kms-socket kms.sock 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b",
		Args:    cobra.ExactArgs(1),
		RunE: ofDisk(client, func(cmd *cobra.Command, client *adminapi.Client, disk pins.UUID) error {
			if err := client.Delete(cmd.Context(), disk); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "deleted disk %s: \"keys restore\" brings it back\n", disk)
			return err
		}),
	}
}

func newRestoreCommand(client connect) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore --kms-socket SOCKET DISK-UUID",
		Short: "Bring back a record that was replaced, deleted or withdrawn",
		Long: `Bring back a record that is no longer in force, with its key and its state: the one
that was in force last, or the one of a generation. If the disk has a record by now,
that record is kept instead. "keys list --kept" shows the records to choose from.`,
		Example: "  rootvouch keys restore --kms-socket kms.sock --generation 3 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b",
		Args:    cobra.ExactArgs(1),
	}
	generation := cmd.Flags().Uint64("generation", 0, "generation of the record (0: the one that was in force last)")
	cmd.RunE = ofDisk(client, func(cmd *cobra.Command, client *adminapi.Client, disk pins.UUID) error {
		return say(cmd, "restored disk %s: it is %s, generation %d\n",
			func(c *adminapi.Client, ctx context.Context, disk pins.UUID) (adminapi.Record, error) {
				return c.Restore(ctx, disk, *generation)
			}, client, disk)
	})
	return cmd
}

func newPurgeCommand(client connect) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "purge --kms-socket SOCKET DISK-UUID",
		Short: "Destroy records that were replaced or deleted, with their keys",
		Long: `Destroy the records of a disk that are no longer in force and whose retention has
ended, with their keys. Nothing brings them back: without another copy of a key, the
data that it encrypted is lost. --early destroys them before their retention ends.`,
		Example: "  rootvouch keys purge --kms-socket kms.sock 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b",
		Args:    cobra.ExactArgs(1),
	}
	generation := cmd.Flags().Uint64("generation", 0, "generation of the record (0: all)")
	early := cmd.Flags().Bool("early", false, "also records whose retention has not ended")
	cmd.RunE = ofDisk(client, func(cmd *cobra.Command, client *adminapi.Client, disk pins.UUID) error {
		n, err := client.Purge(cmd.Context(), disk, *generation, *early)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "destroyed %d records of disk %s\n", n, disk)
		return err
	})
	return cmd
}
