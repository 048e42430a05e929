package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/spire/trust"
)

func newInitCommand() *cobra.Command {
	var dir, domain string
	v := trust.Validity{}
	cmd := &cobra.Command{
		Use:   "init --ca-dir DIR --trust-domain NAME",
		Short: "Make the long-lived root of a trust domain",
		Long: `Make a root CA that outlives every VM measured with it, and an intermediate CA under
it for the SPIRE server (UpstreamAuthority "disk").

A stock SPIRE server makes a new CA of its own every day; VMs know the root above it.
Keys are ECDSA P-256, in files of mode 0600. The command replaces no existing file.`,
		Example: `  rootvouch spire init --ca-dir ca --trust-domain example.org --years 10`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			td, err := parseTrustDomain(domain)
			if err != nil {
				return err
			}
			if err := trust.Init(dir, td, v, time.Now(), rand.Reader); err != nil {
				if errors.Is(err, os.ErrExist) {
					return command.WithHint(err, "a second root needs a new measurement of every VM; to renew the intermediate, use spire renew")
				}
				return err
			}
			return printTrust(cmd.OutOrStdout(), dir, td)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "ca-dir", "", "directory of the trust root (to make, or an existing one)")
	flags.IntVar(&v.RootYears, "years", 10, "validity of the root in years")
	flags.IntVar(&v.UpstreamYears, "upstream-years", 1, "validity of the intermediate in years")
	command.Require(cmd, "ca-dir")
	trustDomainFlag(cmd, &domain)
	return cmd
}

func printTrust(w io.Writer, dir string, td spiffeid.TrustDomain) error {
	_, err := fmt.Fprintf(w, `Trust root of %s:
  %s  public: into boot.json (rootvouch initramfs config), and to the owner's SPIRE agent
  %s  secret: take it offline; only "rootvouch spire renew" needs it again
  %s  to the SPIRE server
  %s  secret: to the SPIRE server
`, td, filepath.Join(dir, trust.RootCert), filepath.Join(dir, trust.RootKey),
		filepath.Join(dir, trust.UpstreamCert), filepath.Join(dir, trust.UpstreamKey))
	return err
}

func newCheckCommand() *cobra.Command {
	var dir string
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "check --ca-dir DIR",
		Short: "Report how long root and intermediate are valid, for a monitor",
		Long: `Report how long the root of a trust domain and the intermediate under it are valid. The
command reads only their certificates, so a copy of them is enough.

Exit status: 1 if one of them ends within --within, or has ended. If the intermediate
has ended, the SPIRE server can make no new CA, and within a day nobody attests.`,
		Example: `  rootvouch spire check --ca-dir ca --within 720h || mail -s "spire renew" ops@example.org`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ends, err := trust.Ends(dir)
			if err != nil {
				return err
			}
			var soon []error
			for _, c := range ends {
				left := time.Until(c.End)
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s ends at %s, in %d days\n", c.Name, c.End.UTC().Format(time.RFC3339), int(left.Hours()/24)); err != nil {
					return err
				}
				if left < within {
					soon = append(soon, fmt.Errorf("%s ends within %v", filepath.Join(dir, c.Name), within))
				}
			}
			if len(soon) > 0 {
				return command.WithHint(errors.Join(soon...), "rootvouch spire renew makes a new intermediate; a new root needs a new measurement of every VM")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "ca-dir", "", "directory of the trust root (its certificates)")
	cmd.Flags().DurationVar(&within, "within", 30*24*time.Hour, "how long both must be valid")
	command.Require(cmd, "ca-dir")
	return cmd
}

func newRenewCommand() *cobra.Command {
	var dir string
	var years int
	cmd := &cobra.Command{
		Use:   "renew --ca-dir DIR",
		Short: "Make a new intermediate CA under the trust root",
		Long: `Make a new intermediate CA, with a new key, under the root in DIR. It replaces the
present one. Its files go to the SPIRE server, which uses them when it next makes itself
a CA. No VM needs a new measurement, because the root is the same.`,
		Example: `  rootvouch spire renew --ca-dir ca`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := trust.Renew(dir, years, time.Now(), rand.Reader); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n", filepath.Join(dir, trust.UpstreamCert), filepath.Join(dir, trust.UpstreamKey))
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "ca-dir", "", "directory of the trust root (its key included)")
	flags.IntVar(&years, "upstream-years", 1, "validity of the intermediate in years (never longer than the root)")
	command.Require(cmd, "ca-dir")
	return cmd
}
