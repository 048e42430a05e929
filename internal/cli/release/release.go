// Package release is "rootvouch release": it builds versions of a VM and rolls them out.
package release

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/image"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/release"
)

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Build a VM's next version from one file, roll it out, see what runs, roll back",
		Long: `Build versions of a VM from one file, vm.json, and roll them out.

release build     makes a directory with all that a launch needs
release check     compares such a directory with its manifest
release plan      shows what the SPIRE server and the key server lack of a release
release apply     makes exactly these changes
release status    shows, by attestation, which release each VM runs, and which launches had a key
release retire    takes a release away
release rollback  makes an older release live again, and retires the newer one

Two releases can be live side by side. Each has a disk, a key, reference values and
SPIRE entries of its own. docs/release.md describes an update; docs/spec/release.md has
the format of vm.json.`,
	}
	cmd.AddCommand(newBuildCommand(), newCheckCommand(), newPlanCommand(), newApplyCommand(), newStatusCommand(), newRetireCommand(), newRollbackCommand())
	return cmd
}

type buildFlags struct {
	vm, out, key, seed string
	keyFrom            string
	recipients         []string
	tempDir, cache     string
}

func newBuildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build --vm VM-JSON --out-dir DIR --key-to key-server|age|-",
		Short: "Make a directory with all that a VM needs",
		Long: `Make a directory with all that a launch of the VM needs: the encrypted disk and its
pins, firmware, kernel behind the gate, initramfs with boot.json, reference values
with the launch digest of each shape, and a manifest with the SHA-256 of each file.
The release's ID is the beginning of the manifest's SHA-256. The directory appears
complete, or not at all.

No file has the disk's key in the clear. --key-to says where the key goes:
  key-server  to the key server of vm.json, with these reference values; the key is
              nowhere else
  age         into DIR/disk.key.age, encrypted to each --age-recipient
  -           to standard output, a pipe and not a terminal: 32 bytes
With --key-from key-server the key server makes the key, with the randomness of its own
machine. This machine has the key in memory while it encrypts the disk, and sends it to
nobody. A build that fails leaves the key at the server for a week, without a record.

The firmware must run no code of its host (vm.json can accept that by name). Notes say
what is likely to be wrong with the root.

Everything except the secrets is reproducible. With --seed (hex, or @FILE with hex in
it; at least 32 bytes) two builds from equal inputs and with the same clock floor have
equal bytes, except for disk.key.age. The clock floor comes from vm.json, otherwise from
SOURCE_DATE_EPOCH, otherwise it is now. Protect a seed like the key.`,
		Example: `  rootvouch release build --vm vm.json --out-dir release-1 --key-to key-server
  rootvouch release build --vm vm.json --out-dir release-1 --key-to age --age-recipient age1…`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.vm, "vm", "", "vm.json")
	flags.StringVar(&f.out, "out-dir", "", "directory to write (the release; must not exist)")
	flags.StringVar(&f.key, "key-to", "", "where the disk's key goes (key-server, age, or - for standard output, a pipe)")
	flags.StringVar(&f.keyFrom, "key-from", "here", "where the disk's key is made (here, or key-server with --key-to key-server)")
	flags.StringArrayVar(&f.recipients, "age-recipient", nil, "age recipient that can open the key, age1… (repeatable)")
	flags.StringVar(&f.seed, "seed", "", "derive all keys, salts and UUIDs from this secret: hex or @FILE")
	flags.StringVar(&f.tempDir, "temp-dir", "", "where a compressed or piped tar is unpacked (default: the system's)")
	flags.StringVar(&f.cache, "cache-dir", "", "directory that keeps compressed bases, to build faster (default: none)")
	command.Require(cmd, "vm", "out-dir", "key-to")
	command.Choices(cmd, "key-to", "key-server", "age", "-")
	command.Choices(cmd, "key-from", "here", "key-server")
	command.NotEmpty(cmd, "age-recipient", "seed", "temp-dir", "cache-dir")
	return cmd
}

func (f *buildFlags) run(cmd *cobra.Command) error {
	vm, err := readVM(f.vm)
	if err != nil {
		return err
	}
	cli.SayEmulated(cmd, vm.Emulated())
	o := release.Options{
		Dir: filepath.Clean(f.out), Rand: rand.Reader, TempDir: f.tempDir, Cache: f.cache,
		Say:  func(step string) { cli.Say(cmd, "building %s", step) },
		Note: func(name, text string) { fmt.Fprintf(cmd.ErrOrStderr(), "note: %s: %s\n", name, text) },
	}
	made, err := f.maker(vm, &o)
	if err != nil {
		return err
	}
	if o.Keep, err = f.keeper(cmd, vm, made); err != nil {
		return err
	}
	if o.Now, err = buildTime(); err != nil {
		return command.Usage(err)
	}
	if f.seed != "" {
		seed, err := cli.ReadSeed(f.seed)
		if err != nil {
			return command.Usage(err)
		}
		defer clear(seed)
		if o.Rand, err = image.SeedReader(seed); err != nil {
			return command.Usage(err)
		}
	}
	r, err := release.Build(cmd.Context(), vm, o)
	if err != nil {
		return hint(cli.HintHostCode(err))
	}
	summary := cmd.OutOrStdout()
	if f.key == "-" {
		summary = cmd.ErrOrStderr()
	}
	fmt.Fprintf(summary, "release %s of %s in %s: disk %s, %s\n", r.Manifest.Release, r.Manifest.Name, r.Dir, r.Manifest.DiskUUID, plural(len(r.Manifest.Shapes), "launch digest"))
	return nil
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}

// maker has the key server make the disk's key, if the flags say so. The name that the key
// has there stands in made once the disk is built; it is empty if the key is made here.
func (f *buildFlags) maker(vm release.VM, o *release.Options) (made *string, err error) {
	made = new(string)
	switch f.keyFrom {
	case "here":
		return made, nil
	case "key-server":
	default:
		return nil, command.Usage(fmt.Errorf("--key-from is %q, want here or key-server", f.keyFrom))
	}
	if f.key != "key-server" {
		return nil, command.Usage(fmt.Errorf("--key-from key-server goes with --key-to key-server, and --key-to is %q", f.key))
	}
	if f.seed != "" {
		return nil, command.Usage(errors.New("--seed derives the disk's key, and --key-from key-server has the key server make it: give one of them"))
	}
	client, err := keyServer(vm)
	if err != nil {
		return nil, err
	}
	o.Key = func(ctx context.Context) ([]byte, error) {
		answer, key, err := client.MakeKey(ctx)
		*made = answer.ID
		return key, err
	}
	return made, nil
}

// keeper returns the function that stores the key.
func (f *buildFlags) keeper(cmd *cobra.Command, vm release.VM, made *string) (func(*release.Release, []byte) error, error) {
	if (f.key == "age") != (len(f.recipients) > 0) {
		return nil, command.Usage(errors.New("want both of --key-to age and --age-recipient, or none"))
	}
	switch f.key {
	case "age":
		return func(r *release.Release, key []byte) error {
			return release.SealKey(r.Path(release.SealedKeyFile), key, f.recipients)
		}, nil
	case "key-server":
		client, err := keyServer(vm)
		if err != nil {
			return nil, err
		}
		if _, err := client.Status(cmd.Context()); err != nil { // before the work
			return nil, hint(err)
		}
		return func(r *release.Release, key []byte) error {
			record, err := release.Register(cmd.Context(), client, r, key, *made)
			for _, note := range record.Notes {
				sayNote(cmd, note)
			}
			return err
		}, nil
	case "-":
		out := cmd.OutOrStdout()
		pipe, err := cli.KeyPipe("--key-to -", out)
		if err != nil {
			return nil, err
		}
		return func(_ *release.Release, key []byte) error {
			_, err := pipe.Write(key)
			return err
		}, nil
	}
	return nil, command.Usage(fmt.Errorf("--key-to is %q, want key-server, age or -", f.key))
}

// buildTime is the current time of a reproducible build
// (https://reproducible-builds.org/specs/source-date-epoch/).
func buildTime() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is %q, want seconds since 1970", text)
	}
	return time.Unix(seconds, 0), nil
}

func sayNote(cmd *cobra.Command, text string) { fmt.Fprintf(cmd.ErrOrStderr(), "note: %s\n", text) }

func readVM(path string) (release.VM, error) {
	data, err := cli.ReadInput(path, release.MaxVM)
	if err != nil {
		return release.VM{}, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return release.VM{}, err
	}
	vm, err := release.Decode(data, dir)
	if err != nil {
		return release.VM{}, cli.Malformed("%s: %w", path, err)
	}
	return vm, nil
}

// keyServer is a client of vm.json's key server.
func keyServer(vm release.VM) (*adminapi.Client, error) {
	var user cli.KMSUser
	if vm.KMS.User != "" {
		if err := user.Set(vm.KMS.User); err != nil {
			return nil, fmt.Errorf("kms.user: %w", err)
		}
	}
	return adminapi.NewClient(vm.KMS.Socket, user...), nil
}

// site is the SPIRE server and the key server that vm.json names.
func site(vm release.VM) (release.Site, error) {
	kms, err := keyServer(vm)
	if err != nil {
		return release.Site{}, err
	}
	program, err := cli.SpirePath()
	if err != nil {
		return release.Site{}, err
	}
	return release.Site{
		SPIRE: spireServer{program, vm.SPIRE.Socket, vm.TrustDomain, vm.KMS.SPIFFEID},
		KMS:   kms, RefvalDir: vm.SPIRE.RefvalDir, Now: time.Now(),
	}, nil
}

func newCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check DIR",
		Short: "Compare a release's files with its manifest",
		Long: `Read every file of a release and compare it with the manifest. A missing, changed or
additional file is an error. Only disk.key.age is not in the manifest; the command does
not read it.`,
		Example: `  rootvouch release check release-1`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := release.Open(args[0])
			if err == nil {
				err = r.Verify()
			}
			if err != nil {
				return err
			}
			cli.SayEmulated(cmd, r.Manifest.Emulated)
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "release %s of %s is as it was built: %s\n", r.Manifest.Release, r.Manifest.Name, plural(len(r.Manifest.Files), "file"))
			return err
		},
	}
}

// rollout are the flags of plan and apply.
type rollout struct {
	end, oldEnd, key, identity string
	volumeKeys                 []string
}

func (f *rollout) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.end, "end", "", "when it ends (the release: RFC 3339, or a time from now such as 48h; default: never)")
	cmd.Flags().StringVar(&f.oldEnd, "old-end", "", "when the VM's other releases end: RFC 3339, a time from now such as 48h, or now (default: unchanged)")
	command.NotEmpty(cmd, "end", "old-end")
}

// target reads the ends.
func (f *rollout) target(now time.Time) (release.Target, error) {
	var t release.Target
	if f.end != "" {
		end, err := parseEnd(f.end, now)
		if err != nil {
			return t, command.Usage(fmt.Errorf("--end: %w", err))
		}
		if !end.After(now) {
			return t, command.Usage(fmt.Errorf("--end is %s, which has passed", f.end))
		}
		t.End = end
	}
	if f.oldEnd != "" {
		end, err := parseEnd(f.oldEnd, now)
		if err != nil {
			return t, command.Usage(fmt.Errorf("--old-end: %w", err))
		}
		t.OldEnd = &end
	}
	return t, nil
}

func parseEnd(text string, now time.Time) (time.Time, error) {
	if text == "now" {
		return now.UTC().Truncate(time.Second), nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(d).UTC().Truncate(time.Second), nil
	}
	end, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("got %q, want RFC 3339, a time from now such as 48h, or now", text)
	}
	return end.UTC().Truncate(time.Second), nil
}

// plan opens a release and returns the steps that are to be done.
func (f *rollout) plan(cmd *cobra.Command, dir string) ([]release.Step, *release.Release, error) {
	r, err := release.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	cli.SayEmulated(cmd, r.Manifest.Emulated)
	s, err := site(r.VM)
	if err != nil {
		return nil, nil, err
	}
	s.Key, s.VolumeKeys, s.Note = f.keySource(cmd, r), f.readVolumeKeys, func(text string) { sayNote(cmd, text) }
	target, err := f.target(s.Now)
	if err != nil {
		return nil, nil, err
	}
	steps, err := s.Plan(cmd.Context(), r, target)
	return steps, r, hint(err)
}

// keySource returns the source of the key, in case the key server lacks it.
func (f *rollout) keySource(cmd *cobra.Command, r *release.Release) func() ([]byte, error) {
	switch {
	case f.identity != "":
		return func() ([]byte, error) { return release.OpenKey(r.Path(release.SealedKeyFile), f.identity) }
	case f.key != "":
		return func() ([]byte, error) { return cli.ReadKey(f.key, cmd.InOrStdin()) }
	}
	return nil
}

// readVolumeKeys reads the key files of volumes.
func (f *rollout) readVolumeKeys() (keys [][]byte, err error) {
	for _, path := range f.volumeKeys {
		if path == "-" {
			return keys, command.Usage(errors.New("--volume-key is -, want a file: standard input is the disk's key"))
		}
		key, err := cli.ReadKey(path, nil)
		if err != nil {
			return keys, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func newPlanCommand() *cobra.Command {
	var f rollout
	cmd := &cobra.Command{
		Use:   "plan DIR",
		Short: "Show what the SPIRE server and the key server lack of a release",
		Long: `Compare a release with the state of the SPIRE server and the key server of its
vm.json, and print each difference that "release apply" would remove. The command
changes nothing.

Exit status: 0, also if there are differences.`,
		Example: `  rootvouch release plan release-2 --old-end 48h`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			steps, r, err := f.plan(cmd, args[0])
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), steps, r.Manifest.Release)
		},
	}
	f.bind(cmd)
	return cmd
}

func show(w io.Writer, steps []release.Step, id string) error {
	if len(steps) == 0 {
		_, err := fmt.Fprintf(w, "release %s: nothing to do\n", id)
		return err
	}
	for _, s := range steps {
		if _, err := fmt.Fprintf(w, "to do: %s\n", s.What); err != nil {
			return err
		}
	}
	return nil
}

func newApplyCommand() *cobra.Command {
	var f rollout
	cmd := &cobra.Command{
		Use:   "apply DIR",
		Short: "Make a release live",
		Long: `Make exactly the changes that "release plan" shows: the disk's record at the key
server, the reference values for the SPIRE server's plugin, and the registration
entries, in this order. If it is repeated with the same --end, it does nothing. After a
crash at any point, run it again: it continues.

The release is live beside the others. --old-end gives the others an end, unless they
have an earlier one. At that time the SPIRE server removes their entries, within
minutes, and their launches get no more keys. Running VMs are left alone. When a
release's end has come, the next apply removes its remains.

If the key server has no record of the disk, apply needs the key: --age-identity opens
DIR/disk.key.age, --key - reads it from standard input. It also needs the key of a
volume without a record: --volume-key.

A volume has one record for all releases that mount it. apply lets the launches of this
release have its key, and withdraws that from releases that have ended.`,
		Example: `  rootvouch release apply release-2 --old-end 48h
  rootvouch release apply release-1 --volume-key data.key
  rootvouch release apply release-2 --age-identity key.txt`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			steps, r, err := f.plan(cmd, args[0])
			if err != nil {
				return err
			}
			return apply(cmd, steps, fmt.Sprintf("release %s of %s is live", r.Manifest.Release, r.Manifest.Name))
		},
	}
	f.bind(cmd)
	f.bindKey(cmd)
	return cmd
}

func (f *rollout) bindKey(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.key, "key", "", "key file of the disk (32 bytes; - is standard input)")
	cmd.Flags().StringVar(&f.identity, "age-identity", "", "file with the age identity that opens the sealed key")
	cmd.Flags().StringArrayVar(&f.volumeKeys, "volume-key", nil, "key file of a volume that the key server does not know yet (repeatable)")
	cmd.MarkFlagsMutuallyExclusive("key", "age-identity")
	command.NotEmpty(cmd, "key", "age-identity", "volume-key")
}

func apply(cmd *cobra.Command, steps []release.Step, done string) error {
	err := release.Apply(cmd.Context(), steps, func(what string) { fmt.Fprintln(cmd.OutOrStdout(), what) })
	if err != nil {
		return hint(err)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), done)
	return err
}

func newRetireCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "retire DIR",
		Short: "Take a release away",
		Long: `Take a release away: its entries at the SPIRE server, its record at the key server,
which is retired, and its reference values. From then on its launches get no key.
Running VMs are left alone. The key stays with the key server: "release apply" or
"release rollback" makes the release live again; "keys delete" and then "keys purge"
destroy the key.`,
		Example: `  rootvouch release retire release-1`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := release.Open(args[0])
			if err != nil {
				return err
			}
			s, err := site(r.VM)
			if err != nil {
				return err
			}
			steps, err := s.PlanRetire(cmd.Context(), r.Manifest.Name, r.Manifest.Release)
			if err != nil {
				return hint(err)
			}
			if dryRun {
				return show(cmd.OutOrStdout(), steps, r.Manifest.Release)
			}
			return apply(cmd, steps, fmt.Sprintf("release %s of %s is retired", r.Manifest.Release, r.Manifest.Name))
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	return cmd
}

func newRollbackCommand() *cobra.Command {
	var f rollout
	var to string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "rollback DIR --to OLD-DIR",
		Short: "Make an older release live again, and retire the newer one",
		Long: `Make the release in OLD-DIR live again, without an end, and then retire the one in DIR.
Both must be releases of one VM. Running VMs are left alone: launch them again from
OLD-DIR, and check with "release status" that no VM runs the other release.`,
		Example: `  rootvouch release rollback release-2 --to release-1`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := release.Open(args[0])
			if err != nil {
				return err
			}
			old, err := release.Open(to)
			if err != nil {
				return err
			}
			if from.Manifest.Name != old.Manifest.Name || from.Manifest.TrustDomain != old.Manifest.TrustDomain {
				return fmt.Errorf("%s is a release of %s in %s, %s one of %s in %s, want one VM", args[0], from.Manifest.Name, from.Manifest.TrustDomain, to, old.Manifest.Name, old.Manifest.TrustDomain)
			}
			s, err := site(old.VM)
			if err != nil {
				return err
			}
			s.Key, s.VolumeKeys, s.Note = f.keySource(cmd, old), f.readVolumeKeys, func(text string) { sayNote(cmd, text) }
			steps, err := s.PlanRollback(cmd.Context(), old, from.Manifest.Release)
			if err != nil {
				return hint(err)
			}
			if dryRun {
				return show(cmd.OutOrStdout(), steps, old.Manifest.Release)
			}
			return apply(cmd, steps, fmt.Sprintf("release %s of %s is live, %s is retired", old.Manifest.Release, old.Manifest.Name, from.Manifest.Release))
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "directory of the older release")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	f.bindKey(cmd)
	command.Require(cmd, "to")
	return cmd
}

// hint adds a hint to an error of a server.
func hint(err error) error {
	if errors.Is(err, release.ErrNoKey) {
		return command.WithHint(err, "--age-identity opens the sealed key, --key - reads it from standard input")
	}
	if errors.Is(err, release.ErrNoVolumeKey) {
		return command.WithHint(err, "--volume-key names the key file that \"volume create\" wrote")
	}
	if refused, ok := errors.AsType[*adminapi.Error](err); ok && refused.Status == http.StatusConflict {
		return command.WithHint(err, "rootvouch keys list shows the key server's records")
	}
	if _, ok := errors.AsType[*adminapi.PeerError](err); ok {
		return command.WithHint(err, "nothing was sent; kms.user in vm.json names the user that rootvouch-kms runs as")
	}
	return err
}
