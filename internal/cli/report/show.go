package report

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/snp"
)

// Exit statuses of report verify, as its help documents them.
const (
	exitRefused      = 1
	exitNotAuthentic = 2
	exitFreshness    = 4
)

// verdictError maps a verdict's outcome to the exit status. It is the only place that does.
func verdictError(v appraise.Verdict) error {
	switch v.Outcome() {
	case appraise.Accepted:
		return nil
	case appraise.FreshnessUnknown:
		if !v.Values { // the user asked only for authenticity
			return nil
		}
		return cli.WithStatus(errors.New("the report's freshness is unknown: REPORT_DATA was not compared (--report-data)"), exitFreshness)
	case appraise.Refused:
		return cli.WithStatus(errors.New("report refused by policy"), exitRefused)
	case appraise.NotAuthentic:
		return cli.WithStatus(errors.New("report not authentic"), exitNotAuthentic)
	default:
		return cli.WithStatus(errors.New("report malformed"), cli.ExitMalformed)
	}
}

func newShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Print the fields of an attestation report",
		Long: `Print every field of an attestation report, by AMD's names. The report is
parsed strictly but not verified: the fields are only its claims.

Exit status: 0 shown, 3 malformed, 64 usage.`,
		Example: `  rootvouch report show report.bin
  rootvouch report show --json hcl.bin`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := cli.ReadReport(args[0], cli.KindAuto)
			if err != nil {
				return err
			}
			raw := in.Evidence.Report
			if in.Kind == evidence.AzureHCL {
				hcl, err := evidence.ParseHCL(raw)
				if err != nil {
					return cli.Malformed("%v", err)
				}
				raw = hcl.Report
			}
			report, err := snp.ParseReport(raw)
			if err != nil {
				return cli.Malformed("%v", err)
			}
			if asJSON {
				return cli.PrintJSON(cmd.OutOrStdout(), showJSON(report, in.Kind))
			}
			return showReport(cmd.OutOrStdout(), report, in.Kind)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// tcbs returns the four TCB versions by name. They are decoded if the report names its product.
func tcbs(r *snp.Report) []struct{ name, value string } {
	product, err := r.Product()
	text := func(v snp.TCBVersion) string {
		if err == nil {
			if tcb, err := product.DecodeTCB(v); err == nil {
				return fmt.Sprintf("%s (%s)", v, tcb)
			}
		}
		return v.String()
	}
	return []struct{ name, value string }{
		{"CURRENT_TCB", text(r.CurrentTCB)}, {"REPORTED_TCB", text(r.ReportedTCB)},
		{"COMMITTED_TCB", text(r.CommittedTCB)}, {"LAUNCH_TCB", text(r.LaunchTCB)},
	}
}

// showReport prints one field per line.
func showReport(w io.Writer, r *snp.Report, kind evidence.Kind) error {
	product := "not named: a version 2 report carries no CPUID"
	if p, err := r.Product(); err == nil {
		product = fmt.Sprintf("%s (CPUID %s)", p, r.CPUID)
	}
	vmpl := fmt.Sprint(r.VMPL)
	if r.VMPL == snp.VMPLHost {
		vmpl = "the host's"
	}
	rows := []struct{ name, value string }{
		{"kind", kind.String()}, {"VERSION", fmt.Sprint(r.Version)}, {"product", product},
		{"MEASUREMENT", r.Measurement.String()}, {"REPORT_DATA", r.ReportData.String()}, {"HOST_DATA", r.HostData.String()},
		{"POLICY", r.Policy.String()}, {"PLATFORM_INFO", r.PlatformInfo.String()}, {"VMPL", vmpl}, {"GUEST_SVN", fmt.Sprint(r.GuestSVN)},
		{"FAMILY_ID", r.FamilyID.String()}, {"IMAGE_ID", r.ImageID.String()},
		{"ID_KEY_DIGEST", r.IDKeyDigest.String()}, {"AUTHOR_KEY_DIGEST", r.AuthorKeyDigest.String()},
		{"AUTHOR_KEY_EN", fmt.Sprint(r.AuthorKeyEnabled)}, {"REPORT_ID", r.ReportID.String()}, {"REPORT_ID_MA", r.ReportIDMA.String()},
		{"CHIP_ID", r.ChipID.String()}, {"MASK_CHIP_KEY", fmt.Sprint(r.MaskChipKey)}, {"SIGNING_KEY", r.SigningKey.String()},
	}
	rows = append(rows, tcbs(r)...)
	rows = append(rows, []struct{ name, value string }{
		{"CURRENT firmware", r.Current.String()}, {"COMMITTED firmware", r.Committed.String()},
		{"LAUNCH_MIT_VECTOR", fmt.Sprintf("%#x", r.LaunchMitVector)}, {"CURRENT_MIT_VECTOR", fmt.Sprintf("%#x", r.CurrentMitVector)},
	}...)
	for _, row := range rows {
		if _, err := fmt.Fprintf(w, "%-19s %s\n", row.name, row.value); err != nil {
			return err
		}
	}
	return nil
}

type shown struct {
	Kind    string            `json:"kind"`
	Product snp.Product       `json:"product"`
	TCB     map[string]string `json:"tcb"`
	Report  *snp.Report       `json:"report"`
}

func showJSON(r *snp.Report, kind evidence.Kind) shown {
	product, _ := r.Product() // none in version 2
	s := shown{Kind: kind.String(), Product: product, TCB: make(map[string]string), Report: r}
	for _, t := range tcbs(r) {
		s.TCB[t.name] = t.value
	}
	return s
}
