// Package collateral is "rootvouch collateral": it gets certificates and revocation
// lists for verifiers that are offline.
package collateral

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/emulated"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
	"github.com/rootvouch/rootvouch/snp/snphost"
)

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "collateral",
		Short: "Get certificates and revocation lists for offline verifiers",
		Long: `Get what an appraisal needs besides the evidence: AMD's certificates and
revocation lists. Servers take a directory of it as collateral_dir, and report
verify takes its files one by one.

The directory makes nothing trusted: an appraisal verifies all of it from the
root that its reference values name.`,
	}
	cmd.AddCommand(newFetchCommand(), newPackCommand())
	return cmd
}

type fetchFlags struct {
	dir, baseURL string
	products     []string
	reports      []string
	hosts        []string
	roots        []string
	every        time.Duration
}

// again is how soon a failed round is repeated.
const again = 10 * time.Minute

func newFetchCommand() *cobra.Command {
	var f fetchFlags
	cmd := &cobra.Command{
		Use:   "fetch --collateral-dir DIR (--product PRODUCT | --report FILE | --host FILE)",
		Short: "Fetch collateral from AMD's key distribution service, or a mirror",
		Long: `Fetch the certificate chains and revocation lists of products into a directory,
and the certificate of the VCEK that signed a report, or that will sign the reports of
a host ("host identify" wrote its file). Files in the directory are used again: a
certificate for ever, a revocation list for an hour. The service accepts one request
for a chip in ten seconds, so several reports of one chip take a while.

With --every the command repeats this until it is stopped, for a service without a
timer. A failed round is reported and repeated after 10 minutes.

A version 2 report does not name its product: give exactly one --product then.
A VLEK's certificate cannot be fetched: the cloud that uses the VLEK provides it.`,
		Example: `  rootvouch collateral fetch --collateral-dir collateral --product Genoa --product Turin
  rootvouch collateral fetch --collateral-dir collateral --report report.bin
  rootvouch collateral fetch --collateral-dir collateral --host host.json`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("every") {
				return f.runEvery(cmd)
			}
			return f.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&f.every, "every", 0, "time from one round to the next, such as 12h (default: one round)")
	flags.StringVar(&f.dir, "collateral-dir", "", "directory of CRLs and certificates (to fill; it must exist)")
	flags.StringArrayVar(&f.products, "product", nil, "Milan, Genoa or Turin (repeatable)")
	flags.StringArrayVar(&f.reports, "report", nil, "attestation report (whose VCEK to fetch; repeatable)")
	flags.StringArrayVar(&f.hosts, "host", nil, "what host identify says of a host (whose VCEKs to fetch; repeatable)")
	flags.StringVar(&f.baseURL, "base-url", kds.AMDBaseURL, "the service, or a mirror with the same paths")
	flags.StringArrayVar(&f.roots, "roots", nil, "root certificates (of the revocation lists; repeatable; default: AMD's)")
	return cmd
}

// runEvery repeats the round until the command is stopped.
func (f *fetchFlags) runEvery(cmd *cobra.Command) error {
	if f.every < time.Hour {
		return command.Usage(fmt.Errorf("--every is %v, want at least 1h: a younger list is not fetched again", f.every))
	}
	for {
		pause := f.every
		err := f.run(cmd)
		if _, ok := errors.AsType[command.UsageError](err); ok {
			return err
		}
		if err != nil && cmd.Context().Err() == nil {
			pause = again
			cli.Say(cmd, "%v: again in %v", err, pause)
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (f *fetchFlags) run(cmd *cobra.Command) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	if f.dir == "" || len(f.products)+len(f.reports)+len(f.hosts) == 0 {
		return command.Usage(fmt.Errorf("want --collateral-dir, and at least one --product, --report or --host"))
	}
	if info, err := os.Stat(f.dir); err != nil || !info.IsDir() {
		return command.Usage(fmt.Errorf("--collateral-dir %s is not a directory", f.dir))
	}
	client, err := f.client(cmd)
	if err != nil {
		return err
	}
	products := make(map[snp.Product]map[snp.SigningKey]bool) // :: product -> keys whose chain is wanted
	want := func(p snp.Product, k snp.SigningKey) {
		if products[p] == nil {
			products[p] = make(map[snp.SigningKey]bool)
		}
		products[p][k] = true
	}
	for _, name := range f.products {
		product, err := snp.ParseProduct(name)
		if err != nil {
			return command.Usage(fmt.Errorf("--product: %w", err))
		}
		want(product, snp.VCEK)
		want(product, snp.VLEK)
	}
	for _, path := range f.reports {
		report, product, err := f.readReport(path)
		if err != nil {
			return err
		}
		want(product, report.SigningKey)
		if err := fetchVCEK(ctx, client, report, product, path, out); err != nil {
			return err
		}
	}
	for _, path := range f.hosts {
		id, err := cli.ReadHost(path)
		if err != nil {
			return err
		}
		want(id.Product, snp.VCEK)
		if err := fetchHost(ctx, client, id, path, out); err != nil {
			return err
		}
	}
	for _, product := range snp.Products() {
		for _, kind := range []snp.SigningKey{snp.VCEK, snp.VLEK} {
			if !products[product][kind] {
				continue
			}
			if err := fetchProduct(ctx, client, product, kind, out); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fetchFlags) client(cmd *cobra.Command) (*kds.Client, error) {
	useFallbackRoots()
	retry := func(why error, pause time.Duration) { cli.Say(cmd, "%v: again in %v", why, pause) }
	config := kds.Config{BaseURL: f.baseURL, CacheDir: f.dir, HTTP: &http.Client{}, Retry: retry}
	for _, name := range f.roots {
		certs, _, err := cli.ReadCollateral(name)
		if err != nil {
			return nil, err
		}
		cli.SayEmulated(cmd, isEmulated(certs))
		config.Roots = append(config.Roots, certs...)
	}
	client, err := kds.NewClient(config)
	if err != nil {
		return nil, command.Usage(err)
	}
	return client, nil
}

// readReport reads a report and returns it with its product.
func (f *fetchFlags) readReport(path string) (*snp.Report, snp.Product, error) {
	in, err := cli.ReadReport(path, cli.KindAuto)
	if err != nil {
		return nil, "", err
	}
	raw := in.Evidence.Report
	if in.Kind == evidence.AzureHCL {
		hcl, err := evidence.ParseHCL(raw)
		if err != nil {
			return nil, "", cli.Malformed("%s: %w", path, err)
		}
		raw = hcl.Report
	}
	report, err := snp.ParseReport(raw)
	if err != nil {
		return nil, "", cli.Malformed("%s: %w", path, err)
	}
	if report.Version >= 3 {
		product, err := report.Product()
		return report, product, err
	}
	if len(f.products) != 1 {
		return nil, "", command.Usage(fmt.Errorf("%s is of version 2 and does not name its product, want exactly one --product", path))
	}
	product, err := snp.ParseProduct(f.products[0])
	if err != nil {
		return nil, "", command.Usage(fmt.Errorf("--product: %w", err))
	}
	return report, product, nil
}

func fetchVCEK(ctx context.Context, client *kds.Client, report *snp.Report, product snp.Product, path string, out io.Writer) error {
	if report.SigningKey != snp.VCEK {
		_, err := fmt.Fprintf(out, "%s: signed by a VLEK: its cloud provides the certificate\n", path)
		return err
	}
	tcb, err := product.DecodeTCB(report.ReportedTCB)
	if err != nil {
		return cli.Malformed("%s: REPORTED_TCB: %w", path, err)
	}
	if _, err := client.VCEK(ctx, product, report.ChipID, tcb); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, err = fmt.Fprintf(out, "%s: VCEK of a %s at %s\n", path, product, tcb)
	return err
}

// fetchHost fetches the certificates of the keys of all chips of a host.
func fetchHost(ctx context.Context, client *kds.Client, id snphost.Identity, path string, out io.Writer) error {
	tcb, err := id.Reported()
	if err != nil {
		return err
	}
	for _, chip := range id.ChipIDs {
		if _, err := client.VCEK(ctx, id.Product, chip, tcb); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if _, err := fmt.Fprintf(out, "%s: VCEK of a %s at %s\n", path, id.Product, tcb); err != nil {
			return err
		}
	}
	for _, note := range id.Notes() {
		if _, err := fmt.Fprintf(out, "%s: note: %s\n", path, note); err != nil {
			return err
		}
	}
	return nil
}

func fetchProduct(ctx context.Context, client *kds.Client, product snp.Product, kind snp.SigningKey, out io.Writer) error {
	if _, err := client.Chain(ctx, product, kind); err != nil {
		return fmt.Errorf("%s: %w", product, err)
	}
	crl, err := client.CRL(ctx, product, kind)
	if err != nil {
		return fmt.Errorf("%s: %w", product, err)
	}
	_, err = fmt.Fprintf(out, "%s: %s chain, CRL %s good until %s\n", product, kind, crl.Number, crl.NextUpdate.UTC().Format("2006-01-02 15:04 MST"))
	return err
}

func newPackCommand() *cobra.Command {
	var dir string
	var file cli.Output
	cmd := &cobra.Command{
		Use:   "pack --collateral-dir DIR --out FILE.pem",
		Short: "Join a directory of collateral into one file",
		Long: `Join the certificates and revocation lists of a directory into one PEM file,
for a machine without a network: the file can be copied into a collateral_dir.
A directory with a damaged file is refused.`,
		Example: `  rootvouch collateral pack --collateral-dir collateral --out collateral.pem`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			certs, crls, err := kds.LoadDir(dir)
			if err != nil {
				return err
			}
			if len(certs)+len(crls) == 0 {
				return fmt.Errorf("%s has no collateral", dir)
			}
			cli.SayEmulated(cmd, isEmulated(certs))
			if err := file.Write(packPEM(certs, crls)); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d certificates, %d revocation lists\n", len(certs), len(crls))
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "collateral-dir", "", "directory of CRLs and certificates")
	file.Bind(cmd, "PEM")
	command.Require(cmd, "collateral-dir")
	return cmd
}

// isEmulated reports whether a certificate belongs to an emulated chain, by its names.
func isEmulated(certs []*x509.Certificate) bool {
	return slices.ContainsFunc(certs, func(c *x509.Certificate) bool {
		return strings.Contains(c.Subject.String()+c.Issuer.String(), emulated.Warning)
	})
}

func packPEM(certs []*x509.Certificate, crls []*x509.RevocationList) []byte {
	var out bytes.Buffer
	seen := make(map[string]bool)
	add := func(kind string, der []byte) {
		if !seen[string(der)] {
			seen[string(der)] = true
			out.Write(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
		}
	}
	for _, c := range certs {
		add("CERTIFICATE", c.Raw)
	}
	for _, c := range crls {
		add("X509 CRL", c.Raw)
	}
	return out.Bytes()
}
