package main

import (
	"crypto/rand"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
)

func newKEKCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kek",
		Short: "Make a key-encryption key",
	}
	create := &cobra.Command{
		Use:   "create --config FILE",
		Short: "Make the key-encryption key that the configuration names",
		Long: `Make the key-encryption key that "kek" in the configuration names: a file, or a file
that its provider has sealed. An existing one is refused. Make a systemd credential with
systemd-creds, and a key that a provider keeps for itself (per_release) at the provider.

To change the key-encryption key: move "kek" to "old_keks", give "kek" another name
and file, make it with this command, restart the server, and run "rootvouch keys
rewrap". Then "old_keks" can be removed.`,
		Example: "  rootvouch-kms kek create --config /etc/rootvouch-kms/kms.json",
		Args:    command.NoArguments,
	}
	path := configFlag(create)
	create.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*path)
		if err != nil {
			return err
		}
		made, err := c.KEK.Create(rand.Reader)
		if err != nil {
			return err
		}
		if made == "" {
			return fmt.Errorf("key-encryption key %q cannot be made here: its source is a credential or per_release", c.KEK.Title())
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "made key-encryption key %q in %s\n", c.KEK.Title(), made)
		return err
	}
	cmd.AddCommand(create)
	return cmd
}
