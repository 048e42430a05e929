package keys

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

func newShowCommand(client connect) *cobra.Command {
	return &cobra.Command{
		Use:   "show --kms-socket SOCKET DISK-UUID",
		Short: "Show a disk's record, never its key, as JSON",
		Long: `Show a disk's record as JSON, with its reference values. "staged" has the record that
stands beside it, "before" the records that are no longer in force and can be restored.
If the disk's record was deleted, the command shows the one that "keys restore" would
bring back.`,
		Example: "  rootvouch keys show --kms-socket kms.sock 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b",
		Args:    cobra.ExactArgs(1),
		RunE: ofDisk(client, func(cmd *cobra.Command, client *adminapi.Client, disk pins.UUID) error {
			record, err := client.Get(cmd.Context(), disk)
			if err != nil {
				return err
			}
			cli.SayEmulated(cmd, record.Emulated())
			return cli.PrintJSON(cmd.OutOrStdout(), record)
		}),
	}
}

type listFlags struct {
	spiffeID, state, measurement, root, after string
	limit                                     uint32
	count, kept, asJSON                       bool
}

func newListCommand(client connect) *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list --kms-socket SOCKET",
		Short: "List records, or count them",
		Long: `List the records in the order of their disks' UUIDs, with the start of each launch
digest that they accept; * marks one that expires. A record must match all given flags.

--limit ends the list early, and prints how to continue. --kept lists the records that
were replaced, deleted or withdrawn, and the earliest time at which they are
destroyed.`,
		Example: `  rootvouch keys list --kms-socket /run/rootvouch-kms/admin.sock
  rootvouch keys list --kms-socket kms.sock --state disabled --limit 100
  rootvouch keys list --kms-socket kms.sock --count`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client()
			if err != nil {
				return err
			}
			return f.run(cmd, c)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.spiffeID, "spiffe-id", "", "SPIFFE ID of the workload that gets the disk's key (show its records)")
	flags.StringVar(&f.state, "state", "", "enabled, disabled or retired")
	flags.StringVar(&f.measurement, "measurement", "", "launch digest that they accept, 96 hex digits")
	flags.StringVar(&f.root, "root-of-trust", "", "root of trust (of the records to show, as the list has it)")
	flags.StringVar(&f.after, "after", "", "UUID of the disk after which the list begins")
	flags.Uint32Var(&f.limit, "limit", 0, "records to show at most (0: all)")
	flags.BoolVar(&f.count, "count", false, "print only the number of records")
	flags.BoolVar(&f.kept, "kept", false, "list the records that are no longer in force")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	command.NotEmpty(cmd, "spiffe-id", "state", "measurement", "root-of-trust", "after")
	return cmd
}

func (f listFlags) run(cmd *cobra.Command, client *adminapi.Client) error {
	q := adminapi.Query{SPIFFEID: f.spiffeID, State: f.state, RootOfTrust: f.root, Limit: adminapi.MaxPage}
	filtered := f.spiffeID+f.state+f.measurement+f.root != ""
	if f.kept && (filtered || f.count || f.limit != 0 || f.after != "") {
		return command.Usage(errors.New("--kept goes only with --json"))
	}
	if f.state != "" && f.state != "enabled" && f.state != "disabled" && f.state != "retired" {
		return command.Usage(fmt.Errorf("--state is %q, want enabled, disabled or retired", f.state))
	}
	var err error
	if f.measurement != "" {
		if q.Measurement, err = snp.ParseMeasurement(f.measurement); err != nil {
			return command.Usage(fmt.Errorf("--measurement: %w", err))
		}
	}
	if f.after != "" {
		if q.After, err = pins.ParseUUID(f.after); err != nil {
			return command.Usage(fmt.Errorf("--after: %w", err))
		}
	}
	if f.kept {
		return f.listKept(cmd, client)
	}
	if f.count && !filtered && f.limit == 0 && f.after == "" {
		q.Limit = 1
		page, err := client.Page(cmd.Context(), q)
		if err != nil {
			return hintForKeys(err)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), page.Total)
		return err
	}
	all, next, err := f.collect(cmd, client, q)
	if err != nil {
		return hintForKeys(err)
	}
	if f.count {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), len(all))
		return err
	}
	cli.SayEmulated(cmd, slices.ContainsFunc(all, adminapi.Record.Emulated))
	if f.asJSON {
		err = cli.PrintJSON(cmd.OutOrStdout(), all)
	} else {
		err = printRecords(cmd.OutOrStdout(), all)
	}
	if err == nil && next != (pins.UUID{}) {
		cli.Say(cmd, "there may be more: --after %s", next)
	}
	return err
}

// collect reads pages until it has enough records or all.
func (f listFlags) collect(cmd *cobra.Command, client *adminapi.Client, q adminapi.Query) (all []adminapi.Record, next pins.UUID, err error) {
	all = []adminapi.Record{}
	for {
		if f.limit != 0 {
			q.Limit = min(adminapi.MaxPage, int(f.limit)-len(all))
		}
		page, err := client.Page(cmd.Context(), q)
		if err != nil {
			return nil, pins.UUID{}, err
		}
		all = append(all, page.Records...)
		if page.Next == (pins.UUID{}) || f.limit != 0 && len(all) == int(f.limit) {
			return all, page.Next, nil
		}
		q.After = page.Next
	}
}

func printRecords(w io.Writer, all []adminapi.Record) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DISK\tSTATE\tGENERATION\tEVIDENCE\tSPIFFE ID\tROOT OF TRUST\tCHANGED\tMEASUREMENTS")
	for _, r := range all {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", r.DiskUUID, r.State, r.Generation, r.Evidence, r.SPIFFEID, r.RootOfTrust,
			r.Changed.Format(time.DateTime), measurements(r))
	}
	return table.Flush()
}

// measurements returns the first digits of some launch digests that a record accepts. * marks
// those that expire.
func measurements(r adminapi.Record) string {
	const shown = 3
	var words []string
	for i, m := range r.Measurements {
		if i == shown {
			words = append(words, fmt.Sprintf("and %d more", len(r.Measurements)-shown))
			break
		}
		word := m.Digest.String()[:12]
		if !m.Until.IsZero() {
			word += "*"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func (f listFlags) listKept(cmd *cobra.Command, client *adminapi.Client) error {
	all := []adminapi.Record{}
	for after, generation := (pins.UUID{}), uint64(0); ; {
		page, err := client.Kept(cmd.Context(), after, generation)
		if err != nil {
			return hintForKeys(err)
		}
		all = append(all, page.Records...)
		if page.Next == (pins.UUID{}) {
			break
		}
		after, generation = page.Next, all[len(all)-1].Generation
	}
	cli.SayEmulated(cmd, slices.ContainsFunc(all, adminapi.Record.Emulated))
	if f.asJSON {
		return cli.PrintJSON(cmd.OutOrStdout(), all)
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DISK\tGENERATION\tWHY\tSINCE\tKEPT UNTIL\tSPIFFE ID")
	for _, r := range all {
		if r.Kept == nil {
			return fmt.Errorf("record of disk %s, generation %d, does not say why it is kept", r.DiskUUID, r.Generation)
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\n", r.DiskUUID, r.Generation, r.Kept.Why,
			r.Kept.At.Format(time.DateTime), r.Kept.Until.Format(time.DateTime), r.SPIFFEID)
	}
	return table.Flush()
}

func newReleasesCommand(client connect) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "releases --kms-socket SOCKET DISK-UUID",
		Short: "List the launches that got a disk's key, oldest first",
		Long: `List the launches that got a disk's key, oldest first. REPORT_ID names a launch: the
report of the VM with the key has the same REPORT_ID. Any other VM has another one,
even a genuine VM with the same measurement.`,
		Example: "  rootvouch keys releases --kms-socket kms.sock 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b",
		Args:    cobra.ExactArgs(1),
		RunE: ofDisk(client, func(cmd *cobra.Command, client *adminapi.Client, disk pins.UUID) error {
			releases, err := client.Releases(cmd.Context(), disk)
			if err != nil {
				return err
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
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
