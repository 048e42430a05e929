package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/spire/admin"
)

// spireTimeout bounds what is asked of a SPIRE server on this machine.
const spireTimeout = 30 * time.Second

type entriesFlags struct {
	socket, domain, name, workload, fetchkey, fetchkeyPath string
	refvals                                                []string
	kms, kmsPath, kmsID, kmsParent, kmsUser                string
	ttl                                                    time.Duration
	unmeasuredKernel                                       bool // accepts a measurement that covers none
	emulated                                               bool // whether a root of trust among the reference values is
}

func newEntriesCommand() *cobra.Command {
	var f entriesFlags
	cmd := &cobra.Command{
		Use:   "entries --socket SOCKET --trust-domain NAME [--name VM --refval FILE --fetchkey FILE] [--kms FILE]",
		Short: "Create and update registration entries on a running SPIRE server",
		Long: `Create, update and remove registration entries on a running stock SPIRE server, so
that they are what the arguments say. Entries that others made are left alone, and
a second run changes nothing.

For a VM (--name, --refval, --fetchkey): a node alias, spiffe://NAME/node/VM, for
each launch digest of the reference values together with their root of trust, and
HOST_DATA, ID block's keys, family and image ID where they are not "any"; and below
it the workload fetchkey, by its path inside the initramfs and its SHA-256.
The workload's SPIFFE ID is the one that the disk's record at the KMS has.

For the KMS (--kms): the workload rootvouch-kms, by path, SHA-256 and user, below
the alias of the owner's agent. The user is the caller's uid unless --kms-user names
another: every user of the machine reaches the agent's Workload API, and can run
the program. With "any" each of them can be the key server. Run it again when the
program has changed.

No VM can be named "owner", and no VM can have the key server's SPIFFE ID: when the
KMS has another than the default, give --kms-spiffe-id with VMs too.`,
		Example: `  rootvouch spire entries --socket spire/server.sock --trust-domain example.org \
    --name web1 --refval refval.json --fetchkey bin/guest/fetchkey \
    --kms /usr/bin/rootvouch-kms --kms-user rootvouch-kms`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.socket, "socket", "", "admin socket of the SPIRE server")
	flags.StringVar(&f.name, "name", "", "name of the VM: lower-case letters, digits and hyphens")
	flags.StringArrayVar(&f.refvals, "refval", nil, "reference values (of the VM; repeatable)")
	flags.StringVar(&f.workload, "spiffe-id", "", "SPIFFE ID of the workload that gets the disk's key (default: spiffe://TRUST-DOMAIN/vm/NAME)")
	flags.StringVar(&f.fetchkey, "fetchkey", "", "the fetchkey program that is in the initramfs, for its SHA-256")
	flags.StringVar(&f.fetchkeyPath, "fetchkey-path", bootconfig.FetchkeyPath, "its path inside the initramfs")
	flags.StringVar(&f.kms, "kms", "", "the rootvouch-kms program, for its SHA-256 and path")
	flags.StringVar(&f.kmsPath, "kms-path", "", "its path where it runs (default: that of --kms, absolute and with links resolved)")
	flags.StringVar(&f.kmsID, "kms-spiffe-id", "", "SPIFFE ID of the key server (default: spiffe://TRUST-DOMAIN/kms)")
	flags.StringVar(&f.kmsParent, "kms-parent", "", "SPIFFE ID of the owner's agent or its alias (default: spiffe://TRUST-DOMAIN"+admin.OwnerPath+")")
	flags.StringVar(&f.kmsUser, "kms-user", "", "user that rootvouch-kms runs as (a name, a number, or any; default: who runs this)")
	flags.DurationVar(&f.ttl, "ttl", 0, "lifetime (of the SVIDs; default: the server's)")
	flags.BoolVar(&f.unmeasuredKernel, "unmeasured-kernel", false, "accept a measurement that covers no kernel: the host then chooses the kernel, and each verdict says so")
	command.Require(cmd, "socket")
	trustDomainFlag(cmd, &f.domain)
	return cmd
}

func (f *entriesFlags) run(cmd *cobra.Command) error {
	groups, err := f.groups()
	if err != nil {
		return err
	}
	sayEmulated(cmd, f.emulated)
	client, err := admin.Dial(f.socket)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), spireTimeout)
	defer cancel()
	for _, g := range groups {
		changes, err := client.Apply(ctx, g)
		if printed := printChanges(cmd.OutOrStdout(), changes); printed != nil {
			return printed
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// groups makes the entries of everything that the flags name.
func (f *entriesFlags) groups() ([]admin.Group, error) {
	td, err := parseTrustDomain(f.domain)
	if err != nil {
		return nil, err
	}
	var groups []admin.Group
	if f.name != "" || len(f.refvals) > 0 || f.fetchkey != "" {
		g, err := f.vm(td)
		if err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	if f.kms != "" {
		g, err := f.keyServer(td)
		if err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	if len(groups) == 0 {
		return nil, command.Usage(errors.New("want a VM (--name, --refval, --fetchkey), the KMS (--kms), or both"))
	}
	return groups, nil
}

func (f *entriesFlags) vm(td spiffeid.TrustDomain) (admin.Group, error) {
	if f.name == "" || len(f.refvals) == 0 || f.fetchkey == "" {
		return admin.Group{}, command.Usage(errors.New("a VM takes --name, --refval and --fetchkey"))
	}
	vm := admin.VM{Name: f.name, TTL: f.ttl, Fetchkey: admin.Executable{Path: f.fetchkeyPath}}
	var err error
	if vm.Workload, err = idOr(td, "spiffe-id", f.workload, "/vm/"+f.name); err != nil {
		return admin.Group{}, err
	}
	if vm.KMS, err = idOr(td, "kms-spiffe-id", f.kmsID, admin.KMSPath); err != nil {
		return admin.Group{}, err
	}
	if vm.Fetchkey.SHA256, err = fileSHA256("fetchkey", f.fetchkey); err != nil {
		return admin.Group{}, err
	}
	for _, path := range f.refvals {
		v, err := readRefval(path)
		if err != nil {
			return admin.Group{}, err
		}
		if err := v.CheckKernels(); err != nil && !f.unmeasuredKernel {
			return admin.Group{}, command.WithHint(fmt.Errorf("%s: %w", path, err), "measure with --kernel; --unmeasured-kernel accepts any kernel")
		}
		vm.Values = append(vm.Values, v)
		f.emulated = f.emulated || !v.RootOfTrust.IsAMD()
	}
	return vm.Entries(td)
}

func readRefval(path string) (refval.Values, error) {
	data, err := command.ReadFile(path, refval.MaxSize)
	if err != nil {
		return refval.Values{}, err
	}
	values, err := refval.Decode(data)
	if err != nil {
		return refval.Values{}, fmt.Errorf("%s: %w", path, err)
	}
	return values, nil
}

func (f *entriesFlags) keyServer(td spiffeid.TrustDomain) (admin.Group, error) {
	id, err := idOr(td, "kms-spiffe-id", f.kmsID, admin.KMSPath)
	if err != nil {
		return admin.Group{}, err
	}
	parent, err := idOr(td, "kms-parent", f.kmsParent, admin.OwnerPath)
	if err != nil {
		return admin.Group{}, err
	}
	program := admin.Executable{Path: f.kmsPath}
	if program.Path == "" {
		// The unix attestor reads /proc/PID/exe, which has no links in it.
		if program.Path, err = filepath.Abs(f.kms); err != nil {
			return admin.Group{}, err
		}
		if program.Path, err = filepath.EvalSymlinks(program.Path); err != nil {
			return admin.Group{}, err
		}
	}
	if program.SHA256, err = fileSHA256("kms", f.kms); err != nil {
		return admin.Group{}, err
	}
	runsAs, err := parseUser(f.kmsUser)
	if err != nil {
		return admin.Group{}, err
	}
	return admin.KMS(id, parent, program, runsAs, f.ttl)
}

// parseUser reads --kms-user.
func parseUser(text string) (admin.User, error) {
	switch text {
	case "any":
		return admin.AnyUser(), nil
	case "":
		text = strconv.Itoa(os.Getuid())
	}
	if uid, err := strconv.ParseUint(text, 10, 32); err == nil {
		return admin.UID(uint32(uid)), nil
	}
	named, err := user.Lookup(text)
	if err != nil {
		return admin.User{}, command.Usage(fmt.Errorf("--kms-user: %w", err))
	}
	uid, err := strconv.ParseUint(named.Uid, 10, 32)
	if err != nil {
		return admin.User{}, fmt.Errorf("user %s has uid %q, want a number", text, named.Uid)
	}
	return admin.UID(uint32(uid)), nil
}

// idOr parses a flag's SPIFFE ID, or takes a path of the trust domain.
func idOr(td spiffeid.TrustDomain, flag, text, path string) (spiffeid.ID, error) {
	if text == "" {
		id, err := spiffeid.FromPath(td, path)
		if err != nil {
			return spiffeid.ID{}, command.Usage(err)
		}
		return id, nil
	}
	id, err := spiffeid.FromString(text)
	if err != nil {
		return spiffeid.ID{}, command.Usage(fmt.Errorf("--%s: %w", flag, err))
	}
	return id, nil
}

func printChanges(w io.Writer, changes []admin.Change) error {
	for _, c := range changes {
		var selectors []string
		for _, s := range c.Entry.Selectors {
			selectors = append(selectors, s.String())
		}
		if _, err := fmt.Fprintf(w, "%-9s %s parent %s %s\n", c.Action, c.Entry.SPIFFEID, c.Entry.Parent, strings.Join(selectors, " ")); err != nil {
			return err
		}
	}
	return nil
}
