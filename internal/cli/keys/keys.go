// Package keys is "rootvouch keys": it registers disks' keys with a key server.
package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
)

// connect makes a client of the server that the flags name.
type connect func() (*adminapi.Client, error)

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Register disks' keys with a key server, list and withdraw them",
		Long: `Speak to rootvouch-kms over its admin socket. Its own user and root may do everything,
others what their role allows (read, operate, destroy).

A key that you register never comes back in the clear: keep your own copy. "export"
writes it sealed to the break-glass recipients of the server's configuration. A
replaced or deleted record is kept for a while: "restore" brings it back, and "purge"
destroys it.

The server at the socket must run as root or as the user that runs this command. If
the server has a user of its own, as it should, name it with --kms-user.

Environment: ROOTVOUCH_KMS_SOCKET and ROOTVOUCH_KMS_USER stand for --kms-socket and
--kms-user if these are not given.`,
	}
	socket := cmd.PersistentFlags().String("kms-socket", "", "admin socket of rootvouch-kms")
	var owner cli.KMSUser
	if given := os.Getenv(cli.KMSSocketVariable); given != "" {
		*socket = given
	} else if err := cmd.MarkPersistentFlagRequired("kms-socket"); err != nil {
		panic("rootvouch: internal error: " + err.Error())
	}
	cmd.PersistentFlags().Var(&owner, "kms-user", cli.KMSUserUsage)
	userGiven := cmd.PersistentFlags().Lookup("kms-user")
	ticket := cmd.PersistentFlags().String("ticket", "", "reason for a change, in your own words (goes on the log)")
	client := func() (*adminapi.Client, error) {
		if given := os.Getenv(cli.KMSUserVariable); given != "" && !userGiven.Changed {
			if err := owner.Set(given); err != nil {
				return nil, command.Usage(fmt.Errorf("$%s is %q: %w", cli.KMSUserVariable, given, err))
			}
		}
		c := adminapi.NewClient(*socket, owner...)
		c.Ticket = *ticket
		if err := adminapi.CheckTicket(c.Ticket); err != nil {
			return nil, command.Usage(fmt.Errorf("--ticket: %w", err))
		}
		return c, nil
	}
	cmd.AddCommand(
		newPutCommand(client),
		newShowCommand(client),
		newListCommand(client),
		newUpdateCommand(client),
		newConfirmCommand(client),
		newWithdrawCommand(client),
		newEnableCommand(client),
		newStateCommand(client, "disable", "Keep a disk's key from being released", "", (*adminapi.Client).Disable),
		newRetireCommand(client),
		newDeleteCommand(client),
		newRestoreCommand(client),
		newPurgeCommand(client),
		newReleasesCommand(client),
		newStatusCommand(client),
		newMakeCommand(client),
		newPageCommand(client),
		newBackupCommand(client),
		newExportCommand(client),
		newRewrapCommand(client),
		newVolumeCommand(client),
	)
	return cmd
}

// hintForKeys adds a hint to an error of the key server.
func hintForKeys(err error) error {
	if refused, ok := errors.AsType[*adminapi.Error](err); ok && refused.Status == http.StatusForbidden {
		return command.WithHint(err, "the server's configuration has the roles (admin_roles) and the recipients of exports (break_glass)")
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return command.WithHint(err, "rootvouch-kms makes the socket when it serves; its own user and root may use it")
	}
	return err
}

// hintForPut adds a hint to the key server's error about a record.
func hintForPut(err error) error {
	if refused, ok := errors.AsType[*adminapi.Error](err); ok && refused.Status == http.StatusConflict {
		return command.WithHint(err, "--replace registers a new key for a disk, --beside keeps the old one in force until a boot confirms the new, --change-root-of-trust allows another root of trust, --same-vm says that disks belong to one VM")
	}
	return hintForKeys(err)
}

// ofDisk runs a command about the disk that its one argument names.
func ofDisk(connect connect, run func(*cobra.Command, *adminapi.Client, pins.UUID) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		disk, err := pins.ParseUUID(args[0])
		if err != nil {
			return command.Usage(err)
		}
		client, err := connect()
		if err != nil {
			return err
		}
		return hintForKeys(run(cmd, client, disk))
	}
}
