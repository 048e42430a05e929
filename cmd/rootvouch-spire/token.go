package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/spire/admin"
)

func newJoinTokenCommand() *cobra.Command {
	var socket, domain string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "join-token --socket SOCKET --trust-domain NAME",
		Short: "Make a join token for the agent on the owner's side",
		Long: `Make a token with which one SPIRE agent can attest, once, and print it. The agent
gets the identity spiffe://NAME` + admin.OwnerPath + ` beside its own. The entries of "spire entries --kms"
are below that identity, and outlive the agent. Whoever has the token can be that agent,
so give it a short life. Keep it in a file that nobody else can read (spire agent-config
--join-token-file), not on a command line.`,
		Example: `  (umask 077; rootvouch spire join-token --socket spire/server.sock --trust-domain example.org >agent/token)`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			td, err := parseTrustDomain(domain)
			if err != nil {
				return err
			}
			client, err := admin.Dial(socket)
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), spireTimeout)
			defer cancel()
			token, err := client.JoinToken(ctx, spiffeid.RequireFromPath(td, admin.OwnerPath), ttl)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&socket, "socket", "", "admin socket of the SPIRE server")
	flags.DurationVar(&ttl, "ttl", 10*time.Minute, "lifetime (of the token)")
	command.Require(cmd, "socket")
	trustDomainFlag(cmd, &domain)
	return cmd
}
