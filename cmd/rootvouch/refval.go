package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

func newRefvalCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "refval",
		Short: "Make and check reference values: what you expect of a VM",
	}
	cmd.AddCommand(newRefvalNewCommand(), newRefvalCheckCommand())
	return cmd
}

type refvalNewFlags struct {
	root, ark, pins string
	measurements    []string
	products        []string
	out             outputFile
}

func newRefvalNewCommand() *cobra.Command {
	var f refvalNewFlags
	cmd := &cobra.Command{
		Use:   "new --root-of-trust amd|emulated [--ark CERT] --measurements FILE --out REFVAL",
		Short: "Make refval.json from launch digests",
		Long: `Make reference values that accept the launch digests given, with the safe choice
everywhere else: signed by a VCEK, from VMPL 0, no debugging, no migration agent.
The file lists every choice by name; edit it to be stricter, or to allow more.

The root of trust is exactly one: AMD, or the one emulated ARK whose certificate
is given, which is NOT CONFIDENTIAL. Products are Genoa and Turin unless named.
Milan has to be named, since software on a Milan host can extract the key that
signs its reports (arXiv 2605.12990).`,
		Example: `  rootvouch measure --mode snp --firmware OVMF.amdsev.fd --kernel vmlinuz --initrd initramfs.img \
    --append 'console=ttyS0' --vcpus 2,4 --vcpu-type EPYC-v4 --json >measurements.json
  rootvouch refval new --root-of-trust amd --measurements measurements.json --pins pins.json --out refval.json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return f.run() },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.root, "root-of-trust", "", "amd, or emulated (with --ark)")
	flags.StringVar(&f.ark, "ark", "", "emulated: the ARK's certificate, DER or PEM")
	flags.StringVar(&f.pins, "pins", "", "pins.json of the disk (default: any)")
	flags.StringArrayVar(&f.measurements, "measurements", nil, "what rootvouch measure --json printed; - is standard input (repeatable)")
	flags.StringArrayVar(&f.products, "product", nil, "Milan, Genoa or Turin (repeatable; default Genoa and Turin)")
	f.out.flags(cmd, "reference values to write")
	requireFlags(cmd, "root-of-trust", "measurements")
	return cmd
}

func (f *refvalNewFlags) run() error {
	root, err := f.rootOfTrust()
	if err != nil {
		return err
	}
	measurements, err := readMeasurements(f.measurements)
	if err != nil {
		return err
	}
	products := make([]snp.Product, len(f.products))
	for i, name := range f.products {
		products[i] = snp.Product(name)
	}
	values := refval.New(root, measurements, products...)
	if f.pins != "" {
		data, err := os.ReadFile(f.pins)
		if err != nil {
			return err
		}
		p, err := pins.Decode(data)
		if err != nil {
			return fmt.Errorf("%s: %w", f.pins, err)
		}
		values.Pins = refval.Exactly(p)
	}
	text, err := values.Encode()
	if err != nil {
		return err
	}
	return f.out.write(text)
}

func (f *refvalNewFlags) rootOfTrust() (refval.RootOfTrust, error) {
	switch {
	case f.root == "amd" && f.ark == "":
		return refval.AMD(), nil
	case f.root == "amd":
		return refval.RootOfTrust{}, usageError{errors.New("--ark goes with --root-of-trust emulated; AMD's own are built in")}
	case f.root != "emulated":
		return refval.RootOfTrust{}, usageError{fmt.Errorf("--root-of-trust is %q, want amd or emulated", f.root)}
	case f.ark == "":
		return refval.RootOfTrust{}, usageError{errors.New("--root-of-trust emulated takes the ARK's certificate: --ark")}
	}
	data, err := os.ReadFile(f.ark)
	if err != nil {
		return refval.RootOfTrust{}, err
	}
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	if _, err := x509.ParseCertificate(data); err != nil {
		return refval.RootOfTrust{}, fmt.Errorf("%s: parsing the ARK's certificate: %w", f.ark, err)
	}
	return refval.EmulatedARK(sha256.Sum256(data)), nil
}

// readMeasurements joins what `rootvouch measure --json` printed.
func readMeasurements(paths []string) ([]refval.Measurement, error) {
	var all []refval.Measurement
	for _, path := range paths {
		data, err := readFileOrStdin(path)
		if err != nil {
			return nil, err
		}
		var f fragment
		if err := strictjson.Unmarshal(data, &f); err != nil {
			return nil, fmt.Errorf("%s: decoding measurements: %w", path, err)
		}
		all = append(all, f.Measurements...)
	}
	return all, nil
}

func readFileOrStdin(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(path)
}

func newRefvalCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "check REFVAL...",
		Short:   "Check reference values, and say what they accept",
		Example: "  rootvouch refval check refval.json",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			for _, path := range paths {
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				values, err := refval.Decode(data)
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: root of trust %v, %d measurements\n", path, values.RootOfTrust, len(values.Measurements))
			}
			return nil
		},
	}
}
