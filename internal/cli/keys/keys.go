// Package keys is "rootvouch keys": it registers disks' keys with a key server.
package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
)

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Register disks' keys with a key server, see and withdraw them",
		Long: `Speak to rootvouch-kms over its admin socket, which takes its own user and root.

A key goes to the server and never comes back: keep your own copy.

Whoever serves the socket must be root or the user that runs this; where the server
has a user of its own, as it should, name it with --kms-user.`,
	}
	socket := cmd.PersistentFlags().String("kms-socket", "", "admin socket of rootvouch-kms")
	if err := cmd.MarkPersistentFlagRequired("kms-socket"); err != nil {
		panic("rootvouch: internal error: " + err.Error())
	}
	var owner cli.KMSUser
	cmd.PersistentFlags().Var(&owner, "kms-user", cli.KMSUserUsage)
	client := func() *adminapi.Client { return adminapi.NewClient(*socket, owner...) }
	cmd.AddCommand(
		newPutCommand(client),
		newShowCommand(client),
		newListCommand(client),
		newStateCommand(client, "enable", "Let a disk's key be released again", (*adminapi.Client).Enable),
		newStateCommand(client, "disable", "Keep a disk's key from being released", (*adminapi.Client).Disable),
		newDeleteCommand(client),
		newReleasesCommand(client),
		newStatusCommand(client),
	)
	return cmd
}

type putFlags struct {
	spiffeID, pins, refval, keyFile, evidence string
	sameVM, replace, changeRoot               bool
	unmeasuredKernel                          bool
}

func newPutCommand(client func() *adminapi.Client) *cobra.Command {
	var f putFlags
	cmd := &cobra.Command{
		Use:   "put --kms-socket SOCKET --spiffe-id ID --pins PINS --refval REFVAL --key KEY|-",
		Short: "Register a disk's key, and who may have it",
		Long: `Register the key of the disk that PINS describes. The server releases it to the
workload with this SPIFFE ID whose evidence satisfies REFVAL, once per launch,
together with the disk's header pin.

The key file has 32 bytes; - reads them from standard input, to its end and before
anything else is read, so that "image build --key-out -" can be at the other end.

Two disks may not share a SPIFFE ID and a measurement, since one VM could then
have both keys: --same-vm says that they do belong to one VM.

--evidence not-required turns the second lock off for this disk: whoever gets the
SVID gets the key, as often as they like. Then there is no --refval.

A disk that has a record is refused, unless --replace is given. The new record has
the next generation, and a launch that got the old key does not get the new one. If
its root of trust is another one, --change-root-of-trust has to say so.`,
		Example: `  rootvouch keys put --kms-socket /run/rootvouch-kms/admin.sock --kms-user rootvouch-kms \
    --spiffe-id spiffe://example.org/vm/web \
    --pins pins.json --refval refval.json --key disk.key`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, client()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.spiffeID, "spiffe-id", "", "SPIFFE ID of the workload that gets the disk's key")
	flags.StringVar(&f.pins, "pins", "", "pins of the disk")
	flags.StringVar(&f.refval, "refval", "", "reference values (for the workload's evidence)")
	flags.StringVar(&f.keyFile, "key", "", "key file of the disk (32 bytes; - is standard input)")
	flags.StringVar(&f.evidence, "evidence", adminapi.EvidenceRequired, "required, or not-required: NOT SAFE against a stolen SVID")
	flags.BoolVar(&f.sameVM, "same-vm", false, "all disks with this SPIFFE ID belong to one VM")
	flags.BoolVar(&f.replace, "replace", false, "replace the record that the disk has")
	flags.BoolVar(&f.changeRoot, "change-root-of-trust", false, "with --replace: let the new record have another root of trust (amd, an emulated ARK, or none without evidence)")
	cli.UnmeasuredKernel(cmd, &f.unmeasuredKernel)
	command.Require(cmd, "spiffe-id", "pins", "key")
	return cmd
}

func (f *putFlags) run(cmd *cobra.Command, client *adminapi.Client) error {
	put := adminapi.Put{SPIFFEID: f.spiffeID, Evidence: f.evidence, SameVM: f.sameVM, Replace: f.replace, ChangeRootOfTrust: f.changeRoot}
	switch {
	case f.changeRoot && !f.replace:
		return command.Usage(errors.New("--change-root-of-trust goes with --replace"))
	case f.evidence != adminapi.EvidenceRequired && f.evidence != adminapi.EvidenceNotRequired:
		return command.Usage(fmt.Errorf("--evidence is %q, want %s or %s", f.evidence, adminapi.EvidenceRequired, adminapi.EvidenceNotRequired))
	case f.evidence == adminapi.EvidenceRequired && f.refval == "":
		return command.Usage(errors.New("--refval is missing: evidence is required"))
	case f.evidence == adminapi.EvidenceNotRequired && f.refval != "":
		return command.Usage(errors.New("--refval has no use with --evidence not-required"))
	}
	// The key first: "image build --key-out -" gives it once the pins are there.
	key, err := readKey(f.keyFile, cmd.InOrStdin())
	if err != nil {
		return err
	}
	defer clear(key)
	disk, err := cli.ReadPins(f.pins)
	if err != nil {
		return err
	}
	put.Header = disk.Header
	if f.refval != "" {
		if put.ReferenceValues, err = os.ReadFile(f.refval); err != nil {
			return err
		}
		values, err := refval.Decode(put.ReferenceValues)
		if err != nil {
			return fmt.Errorf("%s: %w", f.refval, err)
		}
		if err := cli.CheckKernels(values, f.unmeasuredKernel); err != nil {
			return fmt.Errorf("%s: %w", f.refval, err)
		}
		cli.SayEmulated(cmd, !values.RootOfTrust.IsAMD())
	}
	record, err := client.Put(cmd.Context(), put, key)
	if err != nil {
		return hintForKeys(err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "registered disk %s, generation %d, for %s, evidence %s\n",
		record.DiskUUID, record.Generation, record.SPIFFEID, record.Evidence)
	return nil
}

// readKey reads a key of exactly keyapi.KeySize bytes. The caller wipes it.
func readKey(path string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	key := make([]byte, keyapi.KeySize+1)
	n, err := io.ReadFull(in, key)
	if n != keyapi.KeySize || !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(key)
		return nil, fmt.Errorf("key file %s does not have exactly %d bytes", path, keyapi.KeySize)
	}
	return key[:keyapi.KeySize], nil
}

// hintForKeys adds advice to what the key server says.
func hintForKeys(err error) error {
	if refused, ok := errors.AsType[*adminapi.Error](err); ok && refused.Status == http.StatusConflict {
		return command.WithHint(err, "--replace registers a new key for a disk, --change-root-of-trust lets it have another root of trust, --same-vm says that disks belong to one VM")
	}
	if _, ok := errors.AsType[*adminapi.PeerError](err); ok {
		return command.WithHint(err, "nothing was sent; --kms-user names the user that rootvouch-kms runs as")
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return command.WithHint(err, "rootvouch-kms makes the socket when it serves; its own user and root may use it")
	}
	return err
}

func newShowCommand(client func() *adminapi.Client) *cobra.Command {
	return &cobra.Command{
		Use:     "show --kms-socket SOCKET DISK-UUID",
		Short:   "Show a disk's record, never its key, as JSON",
		Example: "  rootvouch keys show --kms-socket kms.sock 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			disk, err := pins.ParseUUID(args[0])
			if err != nil {
				return command.Usage(err)
			}
			record, err := client().Get(cmd.Context(), disk)
			if err != nil {
				return hintForKeys(err)
			}
			return cli.PrintJSON(cmd.OutOrStdout(), record)
		},
	}
}

func newListCommand(client func() *adminapi.Client) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list --kms-socket SOCKET",
		Short:   "List all records",
		Example: "  rootvouch keys list --kms-socket /run/rootvouch-kms/admin.sock",
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			records, err := client().List(cmd.Context())
			if err != nil {
				return hintForKeys(err)
			}
			if asJSON {
				return cli.PrintJSON(cmd.OutOrStdout(), records)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "DISK\tSTATE\tGENERATION\tEVIDENCE\tSPIFFE ID\tROOT OF TRUST")
			for _, r := range records {
				fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\n", r.DiskUUID, r.State, r.Generation, r.Evidence, r.SPIFFEID, r.RootOfTrust)
			}
			return table.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// changeState is Client.Enable or Client.Disable.
type changeState func(*adminapi.Client, context.Context, pins.UUID) (adminapi.Record, error)

func newStateCommand(client func() *adminapi.Client, verb, short string, change changeState) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " --kms-socket SOCKET DISK-UUID",
		Short:   short,
		Example: "  rootvouch keys " + verb + " --kms-socket kms.sock 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			disk, err := pins.ParseUUID(args[0])
			if err != nil {
				return command.Usage(err)
			}
			record, err := change(client(), cmd.Context(), disk)
			if err != nil {
				return hintForKeys(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "disk %s is %s\n", record.DiskUUID, record.State)
			return nil
		},
	}
}

func newDeleteCommand(client func() *adminapi.Client) *cobra.Command {
	return &cobra.Command{
		Use:   "delete --kms-socket SOCKET DISK-UUID",
		Short: "Delete a disk's record and key",
		Long: `Delete a disk's record and its key from the server. Without another copy of the
key the disk's contents are lost. The list of releases stays, and so does the
rule that no launch gets the key of this disk twice.`,
		Example: "  rootvouch keys delete --kms-socket kms.sock 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			disk, err := pins.ParseUUID(args[0])
			if err != nil {
				return command.Usage(err)
			}
			if err := client().Delete(cmd.Context(), disk); err != nil {
				return hintForKeys(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "deleted disk %s\n", disk)
			return nil
		},
	}
}

func newReleasesCommand(client func() *adminapi.Client) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "releases --kms-socket SOCKET DISK-UUID",
		Short: "List the launches that got a disk's key, oldest first",
		Long: `List the launches that got a disk's key, oldest first. REPORT_ID names a launch:
the report of the VM that has the key says the same, and that of any other VM,
genuine and with the same measurement, says another.`,
		Example: "  rootvouch keys releases --kms-socket kms.sock 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			disk, err := pins.ParseUUID(args[0])
			if err != nil {
				return command.Usage(err)
			}
			releases, err := client().Releases(cmd.Context(), disk)
			if err != nil {
				return hintForKeys(err)
			}
			if asJSON {
				return cli.PrintJSON(cmd.OutOrStdout(), releases)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "TIME\tGENERATION\tREPORT_ID\tSPIFFE ID")
			for _, r := range releases {
				fmt.Fprintf(table, "%s\t%d\t%s\t%s\n", r.Time.Format(time.RFC3339), r.Generation, r.ReportID, r.SPIFFEID)
			}
			return table.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newStatusCommand(client func() *adminapi.Client) *cobra.Command {
	var checkpoint bool
	cmd := &cobra.Command{
		Use:   "status --kms-socket SOCKET",
		Short: "Show the key server's SPIFFE ID, and the state of its log",
		Long: `Show the key server's SPIFFE ID, the key that verifies its log, and how far the log is.

--checkpoint-only prints the log's signed checkpoint alone. Kept where the server cannot
change it, it shows later whether the log has all that it had: give it to
` + "`rootvouch-kms audit verify --checkpoint`" + `, and the key with --log-key.`,
		Example: "  rootvouch keys status --kms-socket kms.sock --checkpoint-only > checkpoint-2026-11-28",
		Args:    command.NoArguments,
	}
	cmd.Flags().BoolVar(&checkpoint, "checkpoint-only", false, "print the log's signed checkpoint")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		status, err := client().Status(cmd.Context())
		if err != nil {
			return hintForKeys(err)
		}
		if checkpoint {
			_, err := io.WriteString(cmd.OutOrStdout(), status.Checkpoint)
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "spiffe id   %s\nlog key     %s\nlog         %d leaves, complete at %s\n",
			status.SPIFFEID, status.LogKey, status.LogSize, status.Published.Format(time.RFC3339))
		return nil
	}
	return cmd
}
