// Package refval is "rootvouch refval": it makes and checks reference values.
package refval

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/filekind"
	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "refval",
		Short: "Make and check reference values: what you expect of a VM",
	}
	cmd.AddCommand(newNewCommand(), newCheckCommand())
	return cmd
}

type newFlags struct {
	root, ark, pins                string
	measurements, products         []string
	minimumFrom                    []string
	hostData, vmpl, aliasCheck     string
	idKeyDigests, authorKeyDigests []string
	hostCode, bareKernel           bool
	unmeasuredKernel               bool
	out                            cli.Output
}

func newNewCommand() *cobra.Command {
	var f newFlags
	cmd := &cobra.Command{
		Use:   "new --root-of-trust amd --product NAME=MIN-TCB… | --root-of-trust emulated --ark CERT --measurements FILE --out REFVAL",
		Short: "Make refval.json from launch digests",
		Long: `Make reference values that accept the given launch digests. The file lists every
choice by name; edit it for choices that have no flag.

The root of trust is either AMD, or one emulated ARK, given by its certificate, which
is NOT CONFIDENTIAL.

--product names an accepted processor, and the oldest firmware accepted on it. Each
version must be named: a forgotten version would accept firmware with flaws that AMD
has fixed since:

  --product Genoa=bootloader:10,tee:0,snp:26,microcode:84
  --product Turin=fmc:1,bootloader:1,tee:1,snp:4,microcode:81

--minimum-tcb-from takes both from the files that "host identify" wrote on the hosts
that may run the VM. It takes the lowest TCB of each product, and prints it. That is
the hosts' word. AMD's security bulletins say which versions fix a flaw, and a verdict
of "report verify" shows the versions of a host. NAME=any accepts any firmware, and each
verdict then has a note. With AMD as the root of trust there is no default. With an
emulated root the default is Genoa=any. Software on a Milan host can extract the key
that signs its reports (arXiv 2605.12990): each verdict says that Milan is accepted.

By default the reference values want: a report that a VCEK signed and that VMPL 0 asked
for; a guest without debugging, migration and CXL; no ID block; and, if AMD vouches for
the host, a check of the host's memory for aliases since its last reset. They accept any
HOST_DATA, which is the host's word, and any value of all other fields.`,
		Example: `  rootvouch measure --mode snp --firmware OVMF.hardened.fd --kernel gated.efi --initrd initramfs.img \
    --append 'console=ttyS0' --vcpus 2,4 --vcpu-type EPYC-v4 --json >measurements.json
  rootvouch refval new --root-of-trust amd --product Genoa=bootloader:10,tee:0,snp:26,microcode:84 \
    --measurements measurements.json --pins pins.json --out refval.json`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.root, "root-of-trust", "", "root of trust (amd, or emulated with --ark)")
	flags.StringVar(&f.ark, "ark", "", "emulated: the ARK's certificate, DER or PEM")
	flags.StringVar(&f.pins, "pins", "", "pins of the disk (default: any)")
	flags.StringArrayVar(&f.measurements, "measurements", nil, "output of rootvouch measure --json; - is standard input (repeatable)")
	flags.StringArrayVar(&f.products, "product", nil, "Milan, Genoa or Turin (followed by = and its minimum TCB, or by =any; repeatable; emulated: default Genoa=any)")
	flags.StringArrayVar(&f.minimumFrom, "minimum-tcb-from", nil, "product and minimum TCB as a host reports them (a file of host identify; repeatable)")
	flags.StringVar(&f.hostData, "host-data", "any", "HOST_DATA, 32 bytes in hex (or any)")
	flags.StringVar(&f.vmpl, "vmpl", "0", "VMPL that asked for the report, 0 to 3, or any")
	flags.StringVar(&f.aliasCheck, "alias-check", "", "ALIAS_CHECK_COMPLETE: required or any (default: required of amd, any of emulated)")
	flags.StringArrayVar(&f.idKeyDigests, "id-key-digest", nil, "digest of a key that may have signed the ID block, 48 bytes in hex (repeatable), or any (default: no ID block)")
	flags.StringArrayVar(&f.authorKeyDigests, "author-key-digest", nil, "digest of a key that may have signed the ID key, 48 bytes in hex (repeatable), or any (default: none)")
	cli.HostCode(cmd, &f.hostCode)
	cli.BareKernel(cmd, &f.bareKernel)
	cli.UnmeasuredKernel(cmd, &f.unmeasuredKernel)
	f.out.Bind(cmd, "reference values")
	command.Require(cmd, "root-of-trust", "measurements")
	return cmd
}

func (f *newFlags) run(cmd *cobra.Command) error {
	root, err := f.rootOfTrust()
	if err != nil {
		return err
	}
	cli.SayEmulated(cmd, !root.IsAMD())
	products, err := f.accepted(cmd)
	if err != nil {
		return err
	}
	if root.IsAMD() && len(products) == 0 {
		return command.Usage(errors.New("--product is missing: with AMD as the root of trust, name each accepted processor with its minimum TCB or any"))
	}
	measurements, err := readMeasurements(f.measurements)
	if err != nil {
		return err
	}
	for _, m := range measurements {
		if m.HostCode != refval.HostCodeNone && !f.hostCode {
			return fmt.Errorf("the firmware of %v has host_code %q: it may run code of its host, and --%s does not accept that here", m.Digest, m.HostCode, cli.HostCodeFlag)
		}
	}
	for _, m := range measurements {
		if m.Gate == refval.GateNone && m.Kernel == refval.KernelMeasured && !f.bareKernel {
			return fmt.Errorf("the kernel of %v has gate %q: it runs ACPI code of its host, and --%s does not accept that here", m.Digest, m.Gate, cli.BareKernelFlag)
		}
	}
	values := refval.New(root, measurements, products...)
	if err := cli.CheckKernels(values, f.unmeasuredKernel); err != nil {
		return err
	}
	if err := f.choose(&values); err != nil {
		return err
	}
	text, err := values.Encode()
	if err != nil {
		return err
	}
	return f.out.Write(text)
}

// accepted returns the processors from the flags and from the files of hosts.
func (f *newFlags) accepted(cmd *cobra.Command) ([]refval.Product, error) {
	var products []refval.Product
	named := map[snp.Product]bool{}
	for _, text := range f.products {
		p, err := refval.ParseProduct(text)
		if err != nil {
			return nil, command.Usage(fmt.Errorf("--product: %w", err))
		}
		products, named[p.Name] = append(products, p), true
	}
	lowest := map[snp.Product]snp.TCB{}
	for _, path := range f.minimumFrom {
		id, err := cli.ReadHost(path)
		if err != nil {
			return nil, err
		}
		tcb, err := id.Reported()
		if err != nil {
			return nil, cli.Malformed("%s: %w", path, err)
		}
		if named[id.Product] {
			return nil, command.Usage(fmt.Errorf("--product names %s, and so does --minimum-tcb-from %s: give one of them", id.Product, path))
		}
		if before, ok := lowest[id.Product]; ok {
			tcb = tcb.Lowest(before)
		}
		lowest[id.Product] = tcb
	}
	for _, product := range snp.Products() {
		if tcb, ok := lowest[product]; ok {
			cli.Say(cmd, "minimum TCB of %s, which is the hosts' word: %s", product, tcb)
			products = append(products, refval.Product{Name: product, MinimumTCB: refval.Exactly(tcb)})
		}
	}
	return products, nil
}

// choose applies the flags that have a default.
func (f *newFlags) choose(values *refval.Values) error {
	var err error
	if values.HostData, err = parseWant(f.hostData, new(snp.HostData)); err != nil {
		return command.Usage(fmt.Errorf("--host-data: %w", err))
	}
	values.VMPL = refval.Any[uint32]()
	if f.vmpl != "any" {
		n, err := strconv.ParseUint(f.vmpl, 10, 32)
		if err != nil || n > 3 {
			return command.Usage(fmt.Errorf("--vmpl is %q, want 0 to 3 or any", f.vmpl))
		}
		values.VMPL = refval.Exactly(uint32(n))
	}
	switch f.aliasCheck {
	case "":
	case "required", "any":
		values.PlatformInfo.AliasCheckComplete = refval.Bit(f.aliasCheck)
	default:
		return command.Usage(fmt.Errorf("--alias-check is %q, want required or any", f.aliasCheck))
	}
	if err := wantDigests(&values.IDKeyDigests, f.idKeyDigests); err != nil {
		return command.Usage(fmt.Errorf("--id-key-digest: %w", err))
	}
	if err := wantDigests(&values.AuthorKeyDigests, f.authorKeyDigests); err != nil {
		return command.Usage(fmt.Errorf("--author-key-digest: %w", err))
	}
	if f.pins == "" {
		return nil
	}
	p, err := cli.ReadPins(f.pins)
	if err != nil {
		return err
	}
	values.Pins = refval.Exactly(p)
	return nil
}

// parseWant parses "any" or a value into v.
func parseWant[T any, P interface {
	*T
	encoding.TextUnmarshaler
}](text string, v P) (refval.Want[T], error) {
	if text == "any" {
		return refval.Any[T](), nil
	}
	if err := v.UnmarshalText([]byte(text)); err != nil {
		return refval.Want[T]{}, err
	}
	return refval.Exactly(*v), nil
}

// wantDigests sets want from the values of a flag that was given: either "any" alone, or
// digests.
func wantDigests(want *refval.Want[[]snp.KeyDigest], texts []string) error {
	if len(texts) == 0 {
		return nil
	}
	if slices.Equal(texts, []string{"any"}) {
		*want = refval.Any[[]snp.KeyDigest]()
		return nil
	}
	digests := make([]snp.KeyDigest, len(texts))
	for i, text := range texts {
		if err := digests[i].UnmarshalText([]byte(text)); err != nil {
			return err
		}
	}
	*want = refval.Exactly(digests)
	return nil
}

func (f *newFlags) rootOfTrust() (refval.RootOfTrust, error) {
	switch {
	case f.root == "amd" && f.ark == "":
		return refval.AMD(), nil
	case f.root == "amd":
		return refval.RootOfTrust{}, command.Usage(errors.New("--ark goes with --root-of-trust emulated; AMD's roots are built in"))
	case f.root != "emulated":
		return refval.RootOfTrust{}, command.Usage(fmt.Errorf("--root-of-trust is %q, want amd or emulated", f.root))
	case f.ark == "":
		return refval.RootOfTrust{}, command.Usage(errors.New("--root-of-trust emulated needs the ARK's certificate: --ark"))
	}
	const want = cli.Named("a certificate")
	data, err := os.ReadFile(f.ark)
	if err != nil {
		return refval.RootOfTrust{}, cli.Unfit(f.ark, want, err)
	}
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	cert, err := x509.ParseCertificate(data)
	if err != nil {
		return refval.RootOfTrust{}, cli.Unfit(f.ark, want, fmt.Errorf("parsing the ARK's certificate: %w", err))
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return refval.RootOfTrust{}, cli.Malformed("%s: the issuer is %q, want an ARK, which is self-signed", f.ark, cert.Issuer)
	}
	return refval.EmulatedARK(sha256.Sum256(data)), nil
}

// readMeasurements joins outputs of `rootvouch measure --json`.
func readMeasurements(paths []string) ([]refval.Measurement, error) {
	var all []refval.Measurement
	for _, path := range paths {
		data, err := readFileOrStdin(path)
		if err != nil {
			return nil, cli.Unfit(path, filekind.Measurements, err)
		}
		var f cli.Measurements
		if err := strictjson.Unmarshal(data, &f); err != nil {
			return nil, cli.Unfit(path, filekind.Measurements, fmt.Errorf("decoding measurements: %w", err))
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

func newCheckCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "check REFVAL...",
		Short:   "Check reference values, and say what they accept",
		Example: "  rootvouch refval check refval.json",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			all := make([]accepts, len(paths))
			for i, path := range paths {
				values, _, err := cli.ReadValues(path)
				if err != nil {
					return err
				}
				cli.SayEmulated(cmd, !values.RootOfTrust.IsAMD())
				all[i] = acceptedBy(path, values)
				if !asJSON {
					all[i].print(cmd.OutOrStdout())
				}
			}
			if asJSON {
				return cli.PrintJSON(cmd.OutOrStdout(), all)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// accepts is what a file of reference values accepts.
type accepts struct {
	RefVal           string             `json:"refval"`
	RootOfTrust      refval.RootOfTrust `json:"root_of_trust"`
	Measurements     int                `json:"measurements"`
	HostCode         bool               `json:"accepts_host_code"`
	BareKernel       bool               `json:"accepts_bare_kernel"`
	UnmeasuredKernel bool               `json:"accepts_unmeasured_kernel"`
	Products         []refval.Product   `json:"products"`
}

func acceptedBy(path string, values refval.Values) accepts {
	return accepts{
		RefVal: path, RootOfTrust: values.RootOfTrust, Measurements: len(values.Measurements),
		HostCode: values.AcceptsHostCode(), BareKernel: values.AcceptsBareKernel(), UnmeasuredKernel: values.CheckKernels() != nil,
		Products: values.Products,
	}
}

func (a accepts) print(w io.Writer) {
	fmt.Fprintf(w, "%s: root of trust %v, %d measurements\n", a.RefVal, a.RootOfTrust, a.Measurements)
	if a.HostCode {
		fmt.Fprintf(w, "%s: a firmware that may run code of its host before the kernel\n", a.RefVal)
	}
	if a.BareKernel {
		fmt.Fprintf(w, "%s: a kernel that runs ACPI code of its host\n", a.RefVal)
	}
	if a.UnmeasuredKernel {
		fmt.Fprintf(w, "%s: a measurement that covers no kernel: any kernel on that firmware\n", a.RefVal)
	}
	for _, p := range a.Products {
		minimum := "any TCB: firmware with known flaws passes"
		if tcb, bounded := p.MinimumTCB.Value(); bounded {
			minimum = "TCB " + tcb.String() + " or newer"
		}
		fmt.Fprintf(w, "%s: %s with %s\n", a.RefVal, p.Name, minimum)
	}
}
