package vm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/platform/asp"
)

// openASP opens a software AMD-SP and gives its collateral a fresh CRL.
func openASP(dir string) (*asp.Chip, error) {
	chip, err := asp.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, command.WithHint(err, "rootvouch vm asp init --asp "+dir+" makes one")
	}
	if err != nil {
		return nil, err
	}
	return chip, chip.WriteCollateral(filepath.Join(dir, asp.CollateralDir), rand.Reader, time.Now())
}

func newASPCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "asp",
		Short: "Make the software AMD-SP of emulated VMs",
		Long: `Make the software AMD-SP that signs the reports of emulated VMs.

It vouches for nothing: a user who can read its directory can sign any report.
NOT CONFIDENTIAL.`,
	}
	cmd.AddCommand(newASPInitCommand(), newASPShowCommand())
	return cmd
}

func newASPInitCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "init --asp DIR",
		Short: "Make a software AMD-SP with keys of its own",
		Long: `Make a software AMD-SP in a new directory: a throw-away ARK → ASK → VCEK chain
with its private keys, readable by the owner only. An existing directory is
refused.

DIR/collateral is for verifiers and holds no private key: ark.der, ask.der and
ark.crl, which is fresh for 30 days and renewed by each "vm run".

The command prints the SHA-256 of the ARK, by which reference values name the chain
as their root of trust.`,
		Example: `  rootvouch vm asp init --asp amd-sp`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cli.Say(cmd, "%s: making throw-away keys", platform.Warning)
			now := time.Now()
			chip, err := asp.New(rand.Reader, now)
			if err != nil {
				return err
			}
			if err := chip.Create(dir, rand.Reader, now); err != nil {
				return err
			}
			return printARK(cmd.OutOrStdout(), chip)
		},
	}
	cmd.Flags().StringVar(&dir, "asp", "", "directory of the software AMD-SP (to make)")
	command.Require(cmd, "asp")
	return cmd
}

func newASPShowCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "show --asp DIR",
		Short:   "Print the SHA-256 of a software AMD-SP's ARK",
		Long:    `Print the SHA-256 of a software AMD-SP's ARK, as "vm asp init" does.`,
		Example: `  rootvouch vm asp show --asp amd-sp`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chip, err := asp.Open(dir)
			if err != nil {
				return err
			}
			cli.SayEmulated(cmd, true)
			return printARK(cmd.OutOrStdout(), chip)
		},
	}
	cmd.Flags().StringVar(&dir, "asp", "", "directory of the software AMD-SP")
	command.Require(cmd, "asp")
	return cmd
}

func printARK(out io.Writer, chip *asp.Chip) error {
	_, err := fmt.Fprintln(out, chip.ARKDigest())
	return err
}
