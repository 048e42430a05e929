package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// verifyFlags are the flags of report verify, as given.
type verifyFlags struct {
	report, kind, leaf, refval, at, reportData string
	bundle                                     string
	chain, crl, roots                          []string
	acceptUnknown, authenticityOnly, asJSON    bool
}

func newVerifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify (--report FILE [--leaf FILE] | --bundle FILE) (--refval FILE | --authenticity-only)",
		Short: "Verify an attestation report and appraise it",
		Long: `Verify an attestation report offline, and appraise it by reference values.

The report's signature is verified with the certificate of its VCEK or VLEK
(--leaf). That certificate is verified with ASK or ASVK and ARK (--chain; AMD's are
built in). The root must be one of AMD's, or that of --refval; with --authenticity-only
it must be one of --roots. Revocation needs a CRL that is fresh at --at (--crl), unless
--accept-unknown-revocation waives it. Files are PEM or DER.

Without --report-data, REPORT_DATA is not compared. The report may then be old,
and anyone may present it, so the verdict is "freshness unknown" and never "trusted".
For an Azure HCL blob the user data is compared, which is inside the runtime data that
REPORT_DATA vouches for.

--bundle takes a file of "rootvouch attest --bundle", and judges it with the time and
the collateral in it. --crl adds later lists; a certificate that they revoke is refused.
Time and nonce are the bundle's word. So the best verdict is "trusted as of" that time,
and notes say what was fresh then.

--authenticity-only says nothing about the guest: any VM on genuine hardware passes.

Exit status:
  0   trusted; with --authenticity-only: authentic; with --bundle: trusted as of then
  1   refused by policy: authentic, but not what the reference values accept
  2   not authentic: signature, chain, validity, binding or revocation
  3   malformed report, certificate, CRL or reference values
  4   freshness unknown: all else holds, but REPORT_DATA was not compared
  64  usage, and files that cannot be read`,
		Example: `  rootvouch report verify --report report.bin --leaf vcek.der --crl genoa.crl --refval refval.json
  rootvouch report verify --report hcl.bin --leaf vcek.pem --accept-unknown-revocation \
    --at 2025-07-01T00:00:00Z --authenticity-only --json`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, time.Now())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.report, "report", "", "attestation report (raw, in an Azure HCL blob, or evidence in JSON)")
	flags.StringVar(&f.bundle, "bundle", "", "file with an answer and all that judged it (of attest --bundle; in place of --report)")
	flags.StringVar(&f.kind, "kind", cli.KindAuto, "the report's form: plain, azure-hcl, or auto to tell it from the file")
	flags.StringVar(&f.leaf, "leaf", "", "certificate of the VCEK or VLEK; evidence in JSON may carry it")
	flags.StringArrayVar(&f.chain, "chain", nil, "certificates above the leaf (repeatable)")
	flags.StringArrayVar(&f.crl, "crl", nil, "revocation list of the root (repeatable)")
	flags.BoolVar(&f.acceptUnknown, "accept-unknown-revocation", false, "accept evidence whose revocation status is unknown")
	flags.StringArrayVar(&f.roots, "roots", nil, "root certificates (the ones that may vouch with --authenticity-only; repeatable)")
	flags.StringVar(&f.at, "at", "", "time of the judgement, RFC 3339 (default: now)")
	flags.StringVar(&f.refval, "refval", "", "reference values")
	flags.BoolVar(&f.authenticityOnly, "authenticity-only", false, "judge only whether the report is authentic")
	flags.StringVar(&f.reportData, "report-data", "", "the 64 bytes that REPORT_DATA must be, in hex")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	return cmd
}

func (f *verifyFlags) run(cmd *cobra.Command, now time.Time) error {
	// An empty value, from an unset shell variable, must not turn a check off.
	for _, name := range []string{"report-data", "at", "leaf", "refval", "kind", "bundle"} {
		if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
			return command.Usage(fmt.Errorf("--%s is empty", name))
		}
	}
	if f.bundle != "" {
		return f.runBundle(cmd)
	}
	q, err := f.build(now)
	if err != nil {
		return err
	}
	verdict, err := q.judge(f)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if f.asJSON {
		if err := cli.PrintJSON(out, verdict); err != nil {
			return err
		}
		return cli.ExplainMeasurement(verdict, verdictError(verdict))
	}
	word := "refused"
	switch {
	case verdict.Trusted():
		word = "trusted"
	case f.authenticityOnly && verdict.Authentic():
		word = "authentic"
	case verdict.Outcome() == appraise.FreshnessUnknown:
		word = "freshness unknown"
	}
	if _, err := fmt.Fprintf(out, "%sverdict: %s\n", verdict, word); err != nil {
		return err
	}
	return cli.ExplainMeasurement(verdict, verdictError(verdict))
}

// question is verifyFlags, checked and read.
type question struct {
	input      cli.Report
	reportData *[64]byte
	collateral appraise.Collateral
	anchors    appraise.Anchors
	now        time.Time
	revocation appraise.RevocationMode
}

// build checks the flags and reads the files that they name.
func (f *verifyFlags) build(now time.Time) (question, error) {
	q := question{now: now, anchors: appraise.AMDAnchors()}
	switch {
	case f.report == "":
		return q, command.Usage(fmt.Errorf("--report is missing"))
	case (f.refval == "") == !f.authenticityOnly:
		return q, command.Usage(fmt.Errorf("want exactly one of --refval and --authenticity-only"))
	case len(f.crl) > 0 && f.acceptUnknown:
		return q, command.Usage(fmt.Errorf("want at most one of --crl and --accept-unknown-revocation"))
	}
	if f.acceptUnknown {
		q.revocation = appraise.AcceptUnknownRevocation
	}
	if f.at != "" {
		var err error
		if q.now, err = time.Parse(time.RFC3339, f.at); err != nil {
			return q, command.Usage(fmt.Errorf("--at is %q, want RFC 3339 such as 2026-11-23T12:00:00Z", f.at))
		}
	}
	if f.reportData != "" {
		b, err := hex.DecodeString(f.reportData)
		if err != nil || len(b) != 64 {
			return q, command.Usage(fmt.Errorf("--report-data is %q, want 64 bytes in hex", f.reportData))
		}
		q.reportData = (*[64]byte)(b)
	}
	var err error
	if q.input, err = cli.ReadReport(f.report, f.kind); err != nil {
		return q, err
	}
	return q, f.readCertificates(&q)
}

// readCertificates reads leaf, chain, roots and lists.
func (f *verifyFlags) readCertificates(q *question) error {
	if f.leaf != "" {
		certs, _, err := cli.ReadCollateral(f.leaf)
		if err != nil {
			return err
		}
		if len(certs) != 1 {
			return cli.Malformed("%s has %d certificates, want 1", f.leaf, len(certs))
		}
		q.input.Evidence.Certificates = append([][]byte{certs[0].Raw}, q.input.Evidence.Certificates...)
	} else if len(q.input.Evidence.Certificates) == 0 {
		return command.Usage(fmt.Errorf("--leaf is missing: %s carries no certificate", f.report))
	}
	q.collateral.Certificates = kds.AMDCertificates()
	for _, name := range append(append([]string{}, f.chain...), f.roots...) {
		certs, crls, err := cli.ReadCollateral(name)
		if err != nil {
			return err
		}
		q.collateral.Certificates = append(q.collateral.Certificates, certs...)
		q.collateral.CRLs = append(q.collateral.CRLs, crls...)
	}
	for _, name := range f.crl {
		_, crls, err := cli.ReadCollateral(name)
		if err != nil {
			return err
		}
		if len(crls) == 0 {
			return cli.Malformed("%s has no revocation list", name)
		}
		q.collateral.CRLs = append(q.collateral.CRLs, crls...)
	}
	if len(f.roots) == 0 {
		return nil
	}
	var named []pins.Digest
	for _, name := range f.roots {
		certs, _, err := cli.ReadCollateral(name)
		if err != nil {
			return err
		}
		for _, c := range certs {
			if c.IsCA && bytes.Equal(c.RawIssuer, c.RawSubject) {
				named = append(named, sha256.Sum256(c.Raw))
			}
		}
	}
	if len(named) == 0 {
		return cli.Malformed("--roots has no root certificate, want one that issued itself")
	}
	q.anchors = appraise.NamedAnchors(named...)
	return nil
}

// judge appraises the question.
func (q question) judge(f *verifyFlags) (appraise.Verdict, error) {
	parsed, err := appraise.Parse(q.input.Evidence, q.input.Kind)
	if err != nil {
		return appraise.NotEvidence(err), nil
	}
	if f.authenticityOnly {
		return appraise.Authenticate(appraise.AuthenticityRequest{
			Evidence: parsed, Anchors: q.anchors, ReportData: q.reportData,
			Collateral: q.collateral, Now: q.now, Revocation: q.revocation,
		}), nil
	}
	values, err := f.values()
	if err != nil {
		return appraise.Verdict{}, err
	}
	r := appraise.Request{
		Evidence: parsed, Values: values, AcceptAnyReportData: q.reportData == nil,
		Collateral: q.collateral, Now: q.now, Revocation: q.revocation,
	}
	if q.reportData != nil {
		r.ReportData = *q.reportData
	}
	return appraise.Appraise(r), nil
}
