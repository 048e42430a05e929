package report

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/attest"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/refval"
)

// values reads the reference values.
func (f *verifyFlags) values() (refval.Values, error) {
	values, _, err := cli.ReadValues(f.refval)
	var path *fs.PathError
	if err != nil && !errors.As(err, &path) {
		err = cli.Malformed("%w", err)
	}
	return values, err
}

// runBundle judges a kept answer again.
func (f *verifyFlags) runBundle(cmd *cobra.Command) error {
	for _, name := range []string{"report", "kind", "leaf", "at", "report-data", "authenticity-only", "roots"} {
		if cmd.Flags().Changed(name) {
			return command.Usage(fmt.Errorf("--%s does not go with --bundle, which has its own", name))
		}
	}
	if f.refval == "" {
		return command.Usage(errors.New("--refval is missing"))
	}
	data, err := cli.ReadInput(f.bundle, attest.MaxBundleSize)
	if err != nil {
		return err
	}
	bundle, err := attest.DecodeBundle(data)
	if err != nil {
		return cli.Malformed("%s: %w", f.bundle, err)
	}
	var x attest.Expectation
	if x.Values, err = f.values(); err != nil {
		return err
	}
	if f.acceptUnknown {
		x.Revocation = appraise.AcceptUnknownRevocation
	}
	for _, name := range append(append([]string{}, f.chain...), f.crl...) {
		certs, crls, err := cli.ReadCollateral(name)
		if err != nil {
			return err
		}
		x.Collateral.Certificates = append(x.Collateral.Certificates, certs...)
		x.Collateral.CRLs = append(x.Collateral.CRLs, crls...)
	}
	result := bundle.Judge(x)
	if f.asJSON {
		err = cli.PrintJSON(cmd.OutOrStdout(), result)
	} else {
		err = result.Print(cmd.OutOrStdout(), true)
	}
	if err != nil {
		return err
	}
	return bundleError(result)
}

// bundleError maps a result to the exit status.
func bundleError(r attest.Result) error {
	switch {
	case r.Trusted():
		return nil
	case r.Err != nil:
		return cli.WithStatus(fmt.Errorf("bundle malformed: %w", r.Err), cli.ExitMalformed)
	case r.Verdict.Outcome() == appraise.Accepted: // the boot log names another disk
		return cli.WithStatus(errors.New("bundle refused: the boot log names another disk"), exitRefused)
	}
	return cli.ExplainMeasurement(r.Verdict, verdictError(r.Verdict))
}
