package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/spire/conf"
	"github.com/rootvouch/rootvouch/spire/trust"
)

func newServerConfigCommand() *cobra.Command {
	var domain string
	var s conf.Server
	cmd := &cobra.Command{
		Use:   "server-config --trust-domain NAME --ca-dir DIR --data-dir DIR --plugin FILE --refval FILE|--refval-dir DIR --collateral-dir DIR",
		Short: "Print a server.conf for a stock SPIRE server",
		Long: `Print a configuration with which a stock SPIRE server attests rootvouch VMs: sqlite,
keys on disk, the intermediate CA of "spire init", the node attestor amd_sev_snp,
and join tokens for the owner's agent. If a setting differs from SPIRE's default, a
comment says why. Paths are made absolute. The plugin must exist, because the
configuration has its SHA-256.

--refval names a file, and can be repeated. --refval-dir names a directory of files
NAME.json. A file that is added, replaced or removed takes effect at the next
attestation, without a restart. "rootvouch release apply" keeps such a directory.`,
		Example: `  rootvouch spire server-config --trust-domain example.org --ca-dir ca --data-dir spire \
    --plugin bin/snp-server-plugin --refval refval.json --collateral-dir crls >server.conf
  mkdir -m 700 spire && spire-server run -config server.conf`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if s.TrustDomain, err = parseTrustDomain(domain); err != nil {
				return err
			}
			if s.Socket == "" {
				s.Socket = filepath.Join(s.DataDir, "server.sock")
			}
			paths := []*string{&s.CADir, &s.DataDir, &s.Socket, &s.Plugin, &s.CollateralDir}
			if len(s.RefvalFiles) == 0 && s.RefvalDir == "" {
				return command.Usage(errors.New("got no reference values, want --refval or --refval-dir"))
			}
			if s.RefvalDir != "" {
				paths = append(paths, &s.RefvalDir)
			}
			for i := range s.RefvalFiles {
				paths = append(paths, &s.RefvalFiles[i])
			}
			if err := makeAbsolute(paths...); err != nil {
				return err
			}
			if s.PluginSHA256, err = fileSHA256("plugin", s.Plugin); err != nil {
				return err
			}
			for _, dir := range []string{s.CollateralDir, s.RefvalDir} {
				if _, err := os.Stat(dir); dir != "" && err != nil {
					hintMissing(cmd, err)
				}
			}
			if err := lookAtRefvals(cmd, s.RefvalFiles); err != nil {
				return err
			}
			return printConfig(cmd, s.Config)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.Bind, "bind", "127.0.0.1:8081", "address for agents, host:port")
	flags.StringVar(&s.CADir, "ca-dir", "", "directory of the trust root (with root.crt, upstream.crt and upstream.key)")
	flags.StringVar(&s.DataDir, "data-dir", "", "directory of keys and state")
	flags.StringVar(&s.Socket, "socket", "", "admin socket of the SPIRE server (default: server.sock in the data directory)")
	flags.StringVar(&s.Plugin, "plugin", "", "snp-server-plugin")
	flags.StringArrayVar(&s.RefvalFiles, "refval", nil, "reference values (evidence must satisfy one of them; repeatable)")
	flags.StringVar(&s.RefvalDir, "refval-dir", "", "directory of reference values, each in a file NAME.json, read again on change")
	flags.StringVar(&s.CollateralDir, "collateral-dir", "", "directory of CRLs and certificates")
	flags.StringVar(&s.AgentPathTemplate, "agent-path-template", "", "template of agent IDs (default: one ID for each launch)")
	flags.StringArrayVar(&s.Selectors, "selector", nil, "name of a selector that agents get (repeatable; default: those that the entries of spire entries use)")
	flags.DurationVar(&s.CacheReload, "cache-reload", conf.DefaultCacheReload, "how often the server looks for new entries and agents")
	command.Require(cmd, "ca-dir", "data-dir", "plugin", "collateral-dir")
	command.NotEmpty(cmd, "refval-dir")
	trustDomainFlag(cmd, &domain)
	return cmd
}

func hintMissing(cmd *cobra.Command, err error) {
	fmt.Fprintf(cmd.ErrOrStderr(), "rootvouch-spire: hint: %v: the server does not start without it\n", err)
}

// lookAtRefvals refuses reference values that the server would refuse at its start. A missing
// file is no error, because it may come later.
func lookAtRefvals(cmd *cobra.Command, paths []string) error {
	isEmulated := false
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			hintMissing(cmd, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("reading reference values: %w", err)
		}
		values, err := refval.Decode(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		isEmulated = isEmulated || !values.RootOfTrust.IsAMD()
	}
	sayEmulated(cmd, isEmulated)
	return nil
}

func newAgentConfigCommand() *cobra.Command {
	var domain, caDir string
	var a conf.Agent
	cmd := &cobra.Command{
		Use:   "agent-config --trust-domain NAME --ca-dir DIR --data-dir DIR",
		Short: "Print an agent.conf for the stock SPIRE agent on the owner's side",
		Long: `Print a configuration for the stock SPIRE agent that gives rootvouch-kms its
identity. The agent attests once, by join token (spire join-token), and keeps its key on
disk. PID 1 configures the agents inside VMs, from boot.json.

Give the token in a file that nobody else can read. On a command line each local user
sees it, and can be the agent first. The file must stay, because the agent reads it at
each start. After the agent has attested, the token in it is worthless.`,
		Example: `  mkdir -m 700 agent
  (umask 077; rootvouch spire join-token --trust-domain example.org --socket spire/server.sock >agent/token)
  rootvouch spire agent-config --trust-domain example.org --ca-dir ca --data-dir agent \
    --join-token-file agent/token >agent.conf
  spire-agent run -config agent.conf`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if a.TrustDomain, err = parseTrustDomain(domain); err != nil {
				return err
			}
			if a.Socket == "" {
				a.Socket = filepath.Join(a.DataDir, "agent.sock")
			}
			a.TrustBundle = filepath.Join(caDir, trust.RootCert)
			paths := []*string{&a.DataDir, &a.Socket, &a.TrustBundle}
			if a.JoinTokenFile != "" {
				paths = append(paths, &a.JoinTokenFile)
			}
			if err := makeAbsolute(paths...); err != nil {
				return err
			}
			return printConfig(cmd, a.Config)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&a.Server, "spire-address", "127.0.0.1:8081", "SPIRE server, host:port")
	flags.StringVar(&caDir, "ca-dir", "", "directory of the trust root (with root.crt)")
	flags.StringVar(&a.DataDir, "data-dir", "", "directory of keys and state")
	flags.StringVar(&a.Socket, "workload-api-socket", "", "Workload API socket (default: agent.sock in the data directory)")
	flags.StringVar(&a.JoinTokenFile, "join-token-file", "", "file with a join token that nobody else can read (default: none)")
	flags.DurationVar(&a.Sync, "sync", conf.DefaultSync, "how often the agent asks for new entries")
	command.Require(cmd, "ca-dir", "data-dir")
	trustDomainFlag(cmd, &domain)
	return cmd
}

func printConfig(cmd *cobra.Command, config func() ([]byte, error)) error {
	text, err := config()
	if err != nil {
		return command.Usage(err)
	}
	_, err = cmd.OutOrStdout().Write(text)
	return err
}

func makeAbsolute(paths ...*string) error {
	for _, p := range paths {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("making %s absolute: %w", *p, err)
		}
		*p = abs
	}
	return nil
}

// fileSHA256 returns the SHA-256 of a program.
func fileSHA256(what, path string) (pins.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return pins.Digest{}, fmt.Errorf("reading %s: %w", what, err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return pins.Digest{}, fmt.Errorf("reading %s: %w", what, err)
	}
	return pins.Digest(h.Sum(nil)), nil
}
