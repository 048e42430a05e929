// Package attest is "rootvouch attest": it asks a running VM for proof and judges it.
package attest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/attest"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// Exit statuses of attest, documented in its help.
const (
	exitRefused     = 1
	exitNoJudgement = 2
)

// attestError is an attestation without a trusted verdict.
type attestError struct {
	error
	code int
}

func (e attestError) ExitCode() int { return e.code }
func (e attestError) Unwrap() error { return e.error }

type attestFlags struct {
	address, refval, collateral, kmsSocket, disk string
	evidenceOut, bootLogOut                      string
	kmsUser                                      cli.KMSUser
	bundle                                       string
	release, confirm                             bool
	acceptUnknown, asJSON, verbose               bool
	timeout, interval                            time.Duration
	targets                                      string
	watch                                        bool
}

// New makes the command.
func New() *cobra.Command {
	var f attestFlags
	cmd := &cobra.Command{
		Use:   "attest --address HOST:PORT --refval REFVAL | --targets FILE",
		Short: "Ask a running VM for proof of what it is, and judge it",
		Long: `Ask the attestd of a booted VM for evidence with a fresh nonce, and appraise it by
reference values. The answer is one screen: which VM it is, what was checked in
five groups (hardware, freshness, platform, guest, disk), each failed check, and
notes. The last line is "verdict: trusted" or "verdict: refused" alone. With
--verbose each check has a line of its own, with the value in the evidence and the
value that is wanted, and the VM's boot log follows.

--bundle keeps the proof: nonce, time, TLS key, evidence, boot log and collateral in
one file. "rootvouch report verify --bundle" can judge that file again at any time.

The connection is TLS to a key that was made inside the VM. No CA knows the key;
the evidence binds it instead.

Evidence says what the VM is, not which one. With --release the command compares its
REPORT_ID with the launches that got the disk's key, as the audit log of the KMS has
them. Without --release the line is "instance: not checked". The disk is the one in the
reference values' pins, unless --disk-uuid names another. With --confirm a trusted VM
that booted with the key from "keys put --beside" confirms that key: it replaces the
disk's own. If it is the disk's own already, there is nothing to do. If the VM booted
with another key, nothing is confirmed.

The boot log is the booted OS's word: root inside the VM could write another one. The
measured root hash proves the disk. The boot log is in the evidence. If its root
hash or disk UUID is not that of the reference values, the VM is refused. Another header
digest, which a rekey makes, gets a note. If the evidence is not authentic, the boot log
is neither shown nor written (--boot-log-out).

Evidence needs a CRL of the root that vouches: a *.crl file in --collateral-dir.

--targets asks a fleet. Each line of FILE is a name, an address and one or more files
of reference values, such as those of the old and the new release. A VM is judged by
the file that trusts it. Empty lines and lines that begin with # are skipped. Each VM
has one line: verdict, name, launch, the file, and the first failed check. With --json
it is one line of JSON. --watch asks again after each --interval, and prints a line
only when it has changed.

Exit status:
  0   trusted
  1   refused, or nothing confirmed
  2   nothing was judged: no answer, or a file that cannot be read or written
  64  usage`,
		Example: `  rootvouch attest --address 127.0.0.1:8444 --refval refval.json --collateral-dir asp/collateral
  rootvouch attest --address vm.example.org:8444 --refval refval.json --collateral-dir crls/ \
    --release --kms-socket /run/rootvouch-kms/admin.sock --kms-user rootvouch-kms --json
  rootvouch attest --address vm.example.org:8444 --refval new-refval.json --collateral-dir crls/ \
    --release --confirm --kms-socket /run/rootvouch-kms/admin.sock --kms-user rootvouch-kms
  printf 'web1 10.0.0.5:8444 release-1/refval.json release-2/refval.json\n' >fleet
  rootvouch attest --targets fleet --collateral-dir crls/ --watch`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			run := f.run
			if f.targets != "" {
				run = f.runTargets
			}
			err := run(cmd)
			var usage command.UsageError
			var judged attestError
			var file *fs.PathError // a missing file is not a usage error
			if err == nil || errors.As(err, &judged) || errors.As(err, &usage) && !errors.As(err, &file) {
				return err
			}
			return attestError{err, exitNoJudgement}
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.address, "address", "", "address of the VM's attestd, host:port")
	flags.StringVar(&f.refval, "refval", "", "reference values")
	flags.StringVar(&f.collateral, "collateral-dir", "", "directory of CRLs and certificates")
	flags.BoolVar(&f.acceptUnknown, "accept-unknown-revocation", false, "accept evidence whose revocation status is unknown")
	flags.StringVar(&f.evidenceOut, "evidence-out", "", "write the evidence, trusted or not, to this file, for \"rootvouch report\" (must not exist)")
	flags.StringVar(&f.bootLogOut, "boot-log-out", "", "write the VM's boot log to this file (must not exist)")
	flags.BoolVar(&f.release, "release", false, "compare REPORT_ID with the KMS's releases of the disk's key")
	flags.BoolVar(&f.confirm, "confirm", false, "with --release, confirm the disk's new key if the VM booted with it")
	flags.StringVar(&f.kmsSocket, "kms-socket", "", "admin socket of rootvouch-kms (for --release)")
	flags.Var(&f.kmsUser, "kms-user", cli.KMSUserUsage)
	flags.StringVar(&f.disk, "disk-uuid", "", "UUID of the disk (for --release; default: that of the reference values' pins)")
	flags.DurationVar(&f.timeout, "timeout", 90*time.Second, "how long to wait before giving up (for the VM's answer)")
	flags.StringVar(&f.bundle, "bundle", "", "file with an answer and all that judged it (to write, trusted or not; must not exist)")
	flags.BoolVar(&f.verbose, "verbose", false, "print every check on a line of its own, and the boot log")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	flags.StringVar(&f.targets, "targets", "", "file with a fleet: name, address and reference values on each line")
	flags.BoolVar(&f.watch, "watch", false, "with --targets, ask again and again")
	flags.DurationVar(&f.interval, "interval", time.Minute, "with --watch, how long to wait between two rounds")
	cmd.MarkFlagsOneRequired("address", "targets")
	cmd.MarkFlagsRequiredTogether("address", "refval")
	for _, one := range []string{"address", "refval", "bundle", "evidence-out", "boot-log-out", "disk-uuid", "confirm", "verbose"} {
		cmd.MarkFlagsMutuallyExclusive("targets", one)
	}
	command.NotEmpty(cmd, "targets", "address", "refval", "bundle", "evidence-out", "boot-log-out", "collateral-dir", "disk-uuid")
	return cmd
}

func (f *attestFlags) run(cmd *cobra.Command) error {
	x, disk, err := f.read()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	nonce, err := evidence.NewNonce(rand.Reader)
	if err != nil {
		return err
	}
	answer, err := attest.Ask(ctx, f.address, nonce)
	if err != nil {
		return err
	}
	x.Now = time.Now()
	result := attest.Judge(answer, x)
	if f.release {
		launches, err := f.launches(ctx, disk)
		if err != nil {
			return err
		}
		result.CheckInstance(disk, launches)
	}
	if err := f.keep(answer, x, result); err != nil {
		return err
	}
	if f.asJSON {
		err = cli.PrintJSON(cmd.OutOrStdout(), result)
	} else {
		err = result.Print(cmd.OutOrStdout(), f.verbose)
	}
	if err != nil {
		return err
	}
	if !result.Trusted() {
		return cli.ExplainMeasurement(result.Verdict, attestError{errors.New("the VM is not trusted"), exitRefused})
	}
	if f.confirm {
		return f.confirmKey(ctx, cmd, disk, result.BootLog.KeyGeneration)
	}
	return nil
}

// confirmKey confirms the record whose key a trusted VM booted with.
func (f *attestFlags) confirmKey(ctx context.Context, cmd *cobra.Command, disk pins.UUID, generation uint64) error {
	client := adminapi.NewClient(f.kmsSocket, f.kmsUser...)
	record, err := client.Get(ctx, disk)
	if err != nil {
		return fmt.Errorf("getting the record of disk %s: %w", disk, err)
	}
	switch {
	case record.Staged == nil && record.Generation == generation:
		cmd.PrintErrf("disk %s has the key of generation %d already\n", disk, generation)
		return nil
	case record.Staged == nil || record.Staged.Generation != generation:
		newest := record.Generation
		if record.Staged != nil {
			newest = record.Staged.Generation
		}
		return attestError{fmt.Errorf("confirming nothing: the VM booted with the key of generation %d of disk %s, want %d", generation, disk, newest), exitRefused}
	}
	if _, err := client.Confirm(ctx, disk, generation); err != nil {
		return fmt.Errorf("confirming generation %d of disk %s: %w", generation, disk, err)
	}
	cmd.PrintErrf("confirmed generation %d of disk %s\n", generation, disk)
	return nil
}

// keep writes the files that the flags name: all of them, or none.
func (f *attestFlags) keep(answer attest.Answer, x attest.Expectation, result attest.Result) error {
	var files durable.Set
	defer files.Abort()
	if f.bundle != "" && result.Err == nil {
		bundle, err := attest.Bundle{Answer: answer, Time: x.Now, Collateral: x.Collateral}.Encode()
		if err != nil {
			return err
		}
		if err := files.AddFile(f.bundle, bundle, 0o644); err != nil {
			return fmt.Errorf("writing the bundle: %w", err)
		}
	}
	if f.evidenceOut != "" && result.Err == nil {
		if err := files.AddFile(f.evidenceOut, answer.Evidence, 0o644); err != nil {
			return fmt.Errorf("writing the evidence: %w", err)
		}
	}
	if f.bootLogOut != "" && result.Authentic() {
		if err := files.AddFile(f.bootLogOut, answer.BootLog, 0o644); err != nil {
			return fmt.Errorf("writing the boot log: %w", err)
		}
	}
	return files.Commit()
}

// read checks the flags, and reads the files that they name.
func (f *attestFlags) read() (attest.Expectation, pins.UUID, error) {
	var x attest.Expectation
	_, _, err := net.SplitHostPort(f.address)
	switch {
	case f.watch:
		return x, pins.UUID{}, command.Usage(errors.New("--watch goes with --targets"))
	case err != nil:
		return x, pins.UUID{}, command.Usage(fmt.Errorf("--address: %w", err))
	case f.kmsUser != nil && !f.release:
		return x, pins.UUID{}, command.Usage(errors.New("--kms-user goes with --release"))
	case f.release != (f.kmsSocket != ""):
		return x, pins.UUID{}, command.Usage(errors.New("want both of --release and --kms-socket, or none"))
	case f.confirm && !f.release:
		return x, pins.UUID{}, command.Usage(errors.New("--confirm goes with --release"))
	case f.disk != "" && !f.release:
		return x, pins.UUID{}, command.Usage(errors.New("--disk-uuid goes with --release"))
	case f.timeout <= 0:
		return x, pins.UUID{}, command.Usage(fmt.Errorf("--timeout is %v, want more than 0", f.timeout))
	}
	if x.Values, _, err = cli.ReadValues(f.refval); err != nil {
		return x, pins.UUID{}, err
	}
	if err := f.readCollateral(&x); err != nil {
		return x, pins.UUID{}, err
	}
	disk, err := f.diskUUID(x.Values)
	return x, disk, err
}

// readCollateral reads the inputs that are the same for all VMs.
func (f *attestFlags) readCollateral(x *attest.Expectation) (err error) {
	if f.acceptUnknown {
		x.Revocation = appraise.AcceptUnknownRevocation
	}
	if f.collateral != "" {
		if x.Collateral.Certificates, x.Collateral.CRLs, err = kds.LoadDir(f.collateral); err != nil {
			return err
		}
	}
	x.Collateral.Certificates = append(x.Collateral.Certificates, kds.AMDCertificates()...)
	return nil
}

// diskUUID returns the disk whose releases are compared. It never comes from the boot log.
func (f *attestFlags) diskUUID(v refval.Values) (pins.UUID, error) {
	if !f.release {
		return pins.UUID{}, nil
	}
	p, pinned := v.Pins.Value()
	if f.disk == "" {
		if !pinned {
			return pins.UUID{}, command.Usage(errors.New("the reference values have no pins: name the disk with --disk-uuid"))
		}
		return p.DiskUUID, nil
	}
	disk, err := pins.ParseUUID(f.disk)
	if err != nil {
		return pins.UUID{}, command.Usage(fmt.Errorf("--disk-uuid: %w", err))
	}
	return disk, nil
}

func (f *attestFlags) launches(ctx context.Context, disk pins.UUID) ([]attest.Launch, error) {
	releases, err := adminapi.NewClient(f.kmsSocket, f.kmsUser...).Releases(ctx, disk)
	if err != nil {
		return nil, fmt.Errorf("getting the releases of disk %s: %w", disk, err)
	}
	var launches []attest.Launch
	for _, r := range releases {
		if r.DiskUUID == disk {
			launches = append(launches, attest.Launch{ReportID: r.ReportID, Generation: r.Generation, Time: r.Time})
		}
	}
	return launches, nil
}
