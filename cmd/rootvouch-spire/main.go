// Rootvouch-spire sets up stock SPIRE for rootvouch. `rootvouch spire` runs this program. So
// the tool that measures and verifies does not contain the code that speaks to a SPIRE server.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/emulated"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	return command.Main(newRootCommand(), args, stdout, stderr)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:         "rootvouch-spire",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "rootvouch spire"},
		Short:       "Set up stock SPIRE for rootvouch: trust root, settings, entries",
		Long: `Set up stock SPIRE 1.13 for rootvouch.

  spire init           makes the long-lived root of a trust domain
  spire renew          makes a new intermediate CA under it
  spire server-config  prints a server.conf
  spire agent-config   prints an agent.conf for the owner's side
  spire join-token     makes a token for that agent
  spire entries        creates and updates registration entries

docs/spire.md explains them in this order.`,
	}
	root.AddCommand(newInitCommand(), newRenewCommand(), newCheckCommand(), newServerConfigCommand(), newAgentConfigCommand(),
		newJoinTokenCommand(), newEntriesCommand())
	return root
}

// sayEmulated prints the warning about emulation if is is true.
func sayEmulated(cmd *cobra.Command, is bool) {
	if is {
		fmt.Fprintf(cmd.ErrOrStderr(), "rootvouch: %s\n", emulated.Warning)
	}
}

// trustDomainFlag adds --trust-domain, which is required.
func trustDomainFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "trust-domain", "", "SPIFFE trust domain (such as example.org)")
	command.Require(cmd, "trust-domain")
}

func parseTrustDomain(name string) (spiffeid.TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return spiffeid.TrustDomain{}, command.Usage(fmt.Errorf("--trust-domain is %q: %w", name, err))
	}
	return td, nil
}
