package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/spire/admin"
)

// spireTimeout bounds a request to a SPIRE server on this machine.
const spireTimeout = 30 * time.Second

type entriesFlags struct {
	socket, domain, name, workload, fetchkey, fetchkeyPath string
	refvals                                                []string
	kms, kmsPath, kmsID, kmsParent, kmsUser                string
	ttl                                                    time.Duration
	unmeasuredKernel                                       bool // accepts a measurement that covers no kernel
	emulated                                               bool // whether some reference values have an emulated root of trust

	fetchkeySHA256, release, end, format string
	kmsSelectors                         []string
	dryRun, remove, list, asJSON         bool
}

func newEntriesCommand() *cobra.Command {
	var f entriesFlags
	cmd := &cobra.Command{
		Use:   "entries --trust-domain NAME --socket SOCKET|--format FORMAT [--name VM --refval FILE --fetchkey FILE] [--kms FILE]",
		Short: "Create and update registration entries on a running SPIRE server",
		Long: `Create, update and remove registration entries on a running stock SPIRE server, so
that they match the arguments. Entries of others are left alone, and a second run changes
nothing. If entries of an earlier run are no longer wanted, the command shows them and
changes nothing; with --remove it removes them. A second --refval keeps the entries for
VMs with other measurements. --dry-run shows every change and makes none.

With --release-id the entries are those of one release of the VM, beside those of its
other releases, and --end is when the server removes them. Without --refval, --end
changes the end of the existing entries (never: no end), --remove removes them, and
--list lists the releases. "rootvouch release apply" does all of this.

--format prints entries and asks no server: clusterstaticentry for spire-controller-manager
(YAML), entry-create for "spire-server entry create -data". With --kms-selector the key
server's entry has these selectors, such as those of its pod, instead of path, SHA-256
and user.

For a VM (--name, --refval, --fetchkey) the command makes two kinds of entries. For each
launch digest in the reference values there is a node alias, spiffe://NAME/node/VM. It
also selects the root of trust, and HOST_DATA, the ID block's keys, family and image ID
unless they are "any". Below the alias is the workload fetchkey, selected by its path in
the initramfs and its SHA-256. Its SPIFFE ID is the one on the disk's record at the KMS.

For the KMS (--kms) the command makes the workload rootvouch-kms, selected by path,
SHA-256 and user, below the alias of the owner's agent. The user is the caller's uid
unless --kms-user names another. The user matters because every user of the machine
reaches the agent's Workload API and can run the program: with "any" each of them can be
the key server. Run the command again when the program has changed.

No VM can be named "owner", and no VM can have the key server's SPIFFE ID. If the KMS
does not have the default ID, give --kms-spiffe-id with VMs too.`,
		Example: `  rootvouch spire entries --socket spire/server.sock --trust-domain example.org \
    --name web1 --refval refval.json --fetchkey bin/guest/fetchkey \
    --kms /usr/bin/rootvouch-kms --kms-user rootvouch-kms
  rootvouch spire entries --trust-domain example.org --format clusterstaticentry \
    --name web1 --refval refval.json --fetchkey bin/guest/fetchkey \
    --kms-selector k8s:ns:rootvouch --kms-selector k8s:sa:rootvouch-kms >entries.yaml`,
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
	flags.StringVar(&f.kmsUser, "kms-user", "", "user that rootvouch-kms runs as (a name, a number, or any; default: the user that runs this command)")
	flags.DurationVar(&f.ttl, "ttl", 0, "lifetime (of the SVIDs; default: the server's)")
	flags.BoolVar(&f.unmeasuredKernel, "unmeasured-kernel", false, "accept a measurement that covers no kernel: the host then chooses the kernel, and each verdict says so")
	flags.StringVar(&f.fetchkeySHA256, "fetchkey-sha256", "", "SHA-256 of the fetchkey program, in place of --fetchkey")
	flags.StringArrayVar(&f.kmsSelectors, "kms-selector", nil, "selector of the key server, TYPE:VALUE, in place of --kms (repeatable)")
	flags.StringVar(&f.release, "release-id", "", "ID of the VM's release: lower-case letters, digits and hyphens")
	flags.StringVar(&f.end, "end", "", "when it ends (the entries: RFC 3339, or never; default: never)")
	flags.StringVar(&f.format, "format", "", "form of the output (clusterstaticentry or entry-create: print the entries; default: apply them)")
	flags.BoolVar(&f.dryRun, "dry-run", false, "show what would change, and change nothing")
	flags.BoolVar(&f.remove, "remove", false, "remove entries that are no longer wanted")
	flags.BoolVar(&f.list, "list", false, "list the releases of the VM that have entries")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	command.NotEmpty(cmd, "fetchkey-sha256", "kms-selector", "release-id", "end", "format")
	cmd.MarkFlagsMutuallyExclusive("fetchkey", "fetchkey-sha256")
	cmd.MarkFlagsMutuallyExclusive("kms", "kms-selector")
	cmd.MarkFlagsMutuallyExclusive("socket", "format")
	cmd.MarkFlagsOneRequired("socket", "format")
	cmd.MarkFlagsMutuallyExclusive("format", "list")
	trustDomainFlag(cmd, &f.domain)
	return cmd
}

func (f *entriesFlags) run(cmd *cobra.Command) error {
	if f.list {
		return f.printReleases(cmd)
	}
	end, err := f.parseEnd()
	if err != nil {
		return err
	}
	if f.onlyEnds() {
		return f.withClient(cmd, func(ctx context.Context, client *admin.Client) error {
			plan, err := client.PlanEnd(ctx, f.name, f.release, end)
			if err != nil {
				return err
			}
			return f.carryOut(ctx, cmd, client, plan)
		})
	}
	groups, err := f.groups(end)
	if err != nil {
		return err
	}
	sayEmulated(cmd, f.emulated)
	if f.format != "" {
		return f.printFormat(cmd.OutOrStdout(), groups)
	}
	return f.withClient(cmd, func(ctx context.Context, client *admin.Client) error {
		var plan []admin.Change
		for _, g := range groups {
			more, err := client.Plan(ctx, g)
			if err != nil {
				return err
			}
			plan = append(plan, more...)
		}
		return f.carryOut(ctx, cmd, client, plan)
	})
}

// onlyEnds reports whether the command only changes the end of a release's entries.
func (f *entriesFlags) onlyEnds() bool {
	return f.release != "" && len(f.refvals) == 0 && !f.remove && f.end != "" && f.kms == "" && len(f.kmsSelectors) == 0
}

// parseEnd parses --end.
func (f *entriesFlags) parseEnd() (time.Time, error) {
	switch {
	case f.end == "" || f.end == "never":
		return time.Time{}, nil
	case f.release == "":
		return time.Time{}, command.Usage(errors.New("--end goes with --release-id"))
	case f.format == formatStaticEntry:
		return time.Time{}, command.Usage(fmt.Errorf("--end does not go with --format %s", f.format))
	}
	end, err := time.Parse(time.RFC3339, f.end)
	if err != nil {
		return time.Time{}, command.Usage(fmt.Errorf("reading --end: %w", err))
	}
	return end.UTC().Truncate(time.Second), nil
}

func (f *entriesFlags) withClient(cmd *cobra.Command, do func(context.Context, *admin.Client) error) error {
	client, err := admin.Dial(f.socket)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), spireTimeout)
	defer cancel()
	if err := do(ctx, client); err != nil {
		if status.Code(err) == codes.Unavailable {
			return command.WithHint(err, "does the SPIRE server run? "+f.socket+" is its admin socket, for its own user and root")
		}
		return err
	}
	return nil
}

// carryOut prints a plan, and makes its changes unless --dry-run is set.
func (f *entriesFlags) carryOut(ctx context.Context, cmd *cobra.Command, client *admin.Client, plan []admin.Change) error {
	removes := slices.ContainsFunc(plan, func(c admin.Change) bool { return c.Action == admin.Removed })
	refused := removes && !f.remove && !f.dryRun
	if f.dryRun || refused {
		if err := f.print(cmd.OutOrStdout(), plan, true); err != nil {
			return err
		}
		if refused {
			return command.WithHint(errors.New("entries would be removed, so nothing was changed"),
				"--remove removes them; a further --refval keeps those of other measurements")
		}
		return nil
	}
	if err := client.CarryOut(ctx, plan); err != nil {
		return err
	}
	return f.print(cmd.OutOrStdout(), plan, false)
}

// groups makes the entries of all that the flags name.
func (f *entriesFlags) groups(end time.Time) ([]admin.Group, error) {
	td, err := parseTrustDomain(f.domain)
	if err != nil {
		return nil, err
	}
	var groups []admin.Group
	if f.name != "" || len(f.refvals) > 0 || f.fetchkey != "" || f.fetchkeySHA256 != "" || f.release != "" {
		g, err := f.vm(td, end)
		if err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	if f.kms != "" || len(f.kmsSelectors) > 0 {
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

func (f *entriesFlags) vm(td spiffeid.TrustDomain, end time.Time) (admin.Group, error) {
	vm := admin.VM{Name: f.name, Release: f.release, End: end, TTL: f.ttl, Fetchkey: admin.Executable{Path: f.fetchkeyPath}}
	hasFetchkey := f.fetchkey != "" || f.fetchkeySHA256 != ""
	if f.remove && f.name != "" && len(f.refvals) == 0 && !hasFetchkey {
		return vm.NoEntries()
	}
	if f.name == "" || len(f.refvals) == 0 || !hasFetchkey {
		return admin.Group{}, command.Usage(errors.New("a VM needs --name, --refval and --fetchkey"))
	}
	var err error
	if vm.Workload, err = idOr(td, "spiffe-id", f.workload, "/vm/"+f.name); err != nil {
		return admin.Group{}, err
	}
	if vm.KMS, err = idOr(td, "kms-spiffe-id", f.kmsID, admin.KMSPath); err != nil {
		return admin.Group{}, err
	}
	if f.fetchkey != "" {
		vm.Fetchkey.SHA256, err = fileSHA256("fetchkey", f.fetchkey)
	} else if vm.Fetchkey.SHA256, err = pins.ParseDigest(f.fetchkeySHA256); err != nil {
		err = command.Usage(fmt.Errorf("--fetchkey-sha256: %w", err))
	}
	if err != nil {
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
	if len(f.kmsSelectors) > 0 {
		var selectors []admin.Selector
		for _, text := range f.kmsSelectors {
			kind, value, ok := strings.Cut(text, ":")
			if !ok || kind == "" || value == "" {
				return admin.Group{}, command.Usage(fmt.Errorf("--kms-selector is %q, want TYPE:VALUE", text))
			}
			selectors = append(selectors, admin.Selector{Type: kind, Value: value})
		}
		return admin.KMSBySelectors(id, parent, selectors, f.ttl)
	}
	program := admin.Executable{Path: f.kmsPath}
	if program.Path == "" {
		// The unix attestor reads /proc/PID/exe, where all links are resolved.
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

// parseUser parses --kms-user.
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

// idOr parses a flag's SPIFFE ID. Without one it returns the ID with this path in the trust
// domain.
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
