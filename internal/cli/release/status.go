package release

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/attest"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/release"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// exitRefused is the exit status of status if a VM runs no live release.
const exitRefused = 1

type statusFlags struct {
	vm, collateral string
	addresses      []string
	timeout        time.Duration
	asJSON         bool
}

func newStatusCommand() *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use:   "status --vm VM-JSON [--address HOST:PORT…]",
		Short: "Say which release each VM runs, attested, and which launches had which key",
		Long: `Show the state of a VM's releases: the entries at the SPIRE server and their end, the
record at the key server, and the launches that got the disk's key.

The command asks each --address for evidence with a fresh nonce, and appraises it by
the reference values of every live release. The VM's release is the one whose reference
values the evidence satisfies. Its launch must be among those that got that release's
key. Nothing depends on the VM's own word.

Evidence needs a CRL of the root that vouches: a *.crl file in --collateral-dir.

Exit status: 1 if a VM gives no answer, runs no live release, or had no key.`,
		Example: `  rootvouch release status --vm vm.json --collateral-dir crls \
    --address vm1.example.org:8444 --address vm2.example.org:8444`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.vm, "vm", "", "vm.json")
	flags.StringArrayVar(&f.addresses, "address", nil, "address of the VM's attestd, host:port (repeatable)")
	flags.StringVar(&f.collateral, "collateral-dir", "", "directory of CRLs and certificates")
	flags.DurationVar(&f.timeout, "timeout", 90*time.Second, "how long to wait before giving up (for each VM's answer)")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	command.Require(cmd, "vm")
	command.NotEmpty(cmd, "address", "collateral-dir")
	return cmd
}

// liveRelease is the known state of a release.
type liveRelease struct {
	Release  string             `json:"release"`
	Entries  int                `json:"entries"`
	End      string             `json:"end"` // RFC 3339, never, or none without entries
	Disk     pins.UUID          `json:"disk_uuid"`
	Record   string             `json:"record"` // enabled, disabled, retired or none
	Launches []adminapi.Release `json:"launches"`

	values refval.Values
}

// running is the known state of a VM.
type running struct {
	Address     string       `json:"address"`
	Release     string       `json:"release"` // "": no live release
	Trusted     bool         `json:"trusted"`
	ReportID    snp.ReportID `json:"report_id"`
	KeyReleased *time.Time   `json:"key_released,omitempty"`
	Error       string       `json:"error,omitempty"`
}

func (f *statusFlags) run(cmd *cobra.Command) error {
	for _, a := range f.addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return command.Usage(fmt.Errorf("--address: %w", err))
		}
	}
	vm, err := readVM(f.vm)
	if err != nil {
		return err
	}
	cli.SayEmulated(cmd, vm.Emulated())
	live, err := f.live(cmd.Context(), vm)
	if err != nil {
		return hint(err)
	}
	var vms []running
	if len(f.addresses) > 0 {
		if vms, err = f.ask(cmd.Context(), live); err != nil {
			return err
		}
	}
	if f.asJSON {
		err = cli.PrintJSON(cmd.OutOrStdout(), struct {
			Version  int           `json:"version"`
			Name     string        `json:"name"`
			Releases []liveRelease `json:"releases"`
			VMs      []running     `json:"vms"`
		}{1, vm.Name, append([]liveRelease{}, live...), append([]running{}, vms...)})
	} else {
		err = printStatus(cmd.OutOrStdout(), live, vms)
	}
	if err != nil {
		return err
	}
	if bad := countBad(vms); bad > 0 {
		return cli.WithStatus(fmt.Errorf("%d of %s not proven to run a live release", bad, plural(len(vms), "VM")), exitRefused)
	}
	return nil
}

func countBad(vms []running) (n int) {
	for _, v := range vms {
		if !v.Trusted || v.KeyReleased == nil {
			n++
		}
	}
	return n
}

// live reads the state of the VM's releases from both servers.
func (f *statusFlags) live(ctx context.Context, vm release.VM) ([]liveRelease, error) {
	s, err := site(vm)
	if err != nil {
		return nil, err
	}
	values, err := s.Live(vm.Name)
	if err != nil {
		return nil, err
	}
	entries, err := s.SPIRE.Releases(ctx, vm.Name)
	if err != nil {
		return nil, err
	}
	found := map[string]*liveRelease{}
	for id, v := range values {
		found[id] = &liveRelease{Release: id, End: "none", Record: "none", Launches: []adminapi.Release{}, values: v}
	}
	for _, e := range entries {
		if found[e.Release] == nil {
			found[e.Release] = &liveRelease{Release: e.Release, Record: "none", Launches: []adminapi.Release{}}
		}
		found[e.Release].Entries, found[e.Release].End = e.Count, endText(e.End)
	}
	client, err := keyServer(vm)
	if err != nil {
		return nil, err
	}
	var all []liveRelease
	for _, id := range slices.Sorted(maps.Keys(found)) {
		l := found[id]
		if err := l.askKeyServer(ctx, client); err != nil {
			return nil, err
		}
		all = append(all, *l)
	}
	return all, nil
}

func (l *liveRelease) askKeyServer(ctx context.Context, client *adminapi.Client) error {
	p, ok := l.values.Pins.Value()
	if !ok {
		return nil
	}
	l.Disk = p.DiskUUID
	record, err := client.Get(ctx, p.DiskUUID)
	if refused, ok := errors.AsType[*adminapi.Error](err); ok && refused.Status == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	l.Record = record.State
	launches, err := client.Releases(ctx, p.DiskUUID)
	l.Launches = append(l.Launches, launches...)
	return err
}

// ask attests each VM.
func (f *statusFlags) ask(ctx context.Context, live []liveRelease) ([]running, error) {
	x := attest.Expectation{}
	if f.collateral != "" {
		var err error
		if x.Collateral.Certificates, x.Collateral.CRLs, err = kds.LoadDir(f.collateral); err != nil {
			return nil, err
		}
	}
	x.Collateral.Certificates = append(x.Collateral.Certificates, kds.AMDCertificates()...)
	var vms []running
	for _, address := range f.addresses {
		r := running{Address: address}
		if err := r.attest(ctx, f.timeout, x, live); err != nil {
			r.Error = err.Error()
		}
		vms = append(vms, r)
	}
	return vms, ctx.Err()
}

func (r *running) attest(ctx context.Context, limit time.Duration, x attest.Expectation, live []liveRelease) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	nonce, err := evidence.NewNonce(rand.Reader)
	if err != nil {
		return err
	}
	answer, err := attest.Ask(ctx, r.Address, nonce)
	if err != nil {
		return err
	}
	x.Now = time.Now()
	var values []refval.Values
	var known []liveRelease
	for _, l := range live {
		if l.values.Version != 0 {
			values, known = append(values, l.values), append(known, l)
		}
	}
	at, result := attest.JudgeByOneOf(answer, values, x)
	if at < 0 {
		return errors.New("no release to compare with")
	}
	if result.Authentic() {
		r.ReportID = result.Verdict.Report.ReportID
	}
	if !result.Trusted() {
		return fmt.Errorf("refused: %w", result.Why())
	}
	r.Release, r.Trusted = known[at].Release, true
	var launches []attest.Launch
	for _, l := range known[at].Launches {
		launches = append(launches, attest.Launch{ReportID: l.ReportID, Generation: l.Generation, Time: l.Time})
		if l.ReportID == r.ReportID {
			r.KeyReleased = &l.Time
		}
	}
	if result.CheckInstance(known[at].Disk, launches); !result.Trusted() {
		r.KeyReleased = nil
		return result.Why()
	}
	return nil
}

func printStatus(w io.Writer, live []liveRelease, vms []running) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "RELEASE\tENTRIES\tEND\tKEY\tLAUNCHES\tDISK")
	for _, l := range live {
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%d\t%s\n", l.Release, l.Entries, l.End, l.Record, len(l.Launches), l.Disk)
	}
	if len(vms) > 0 {
		fmt.Fprintln(table, "\nVM\tRELEASE\tLAUNCH\tKEY RELEASED")
	}
	for _, v := range vms {
		id, released := "-", "-"
		if v.ReportID != (snp.ReportID{}) {
			id = v.ReportID.String()[:16]
		}
		if v.KeyReleased != nil {
			released = v.KeyReleased.UTC().Format(time.RFC3339)
		}
		name := v.Release
		if name == "" {
			name = "none"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", v.Address, name, id, released)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, l := range live {
		for _, launch := range l.Launches {
			if _, err := fmt.Fprintf(w, "launch %s got the key of release %s at %s\n", launch.ReportID.String()[:16], l.Release, launch.Time.UTC().Format(time.RFC3339)); err != nil {
				return err
			}
		}
	}
	for _, v := range vms {
		if v.Error != "" {
			if _, err := fmt.Fprintln(w, attest.Printable(v.Address+": "+v.Error)); err != nil {
				return err
			}
		}
	}
	return nil
}
