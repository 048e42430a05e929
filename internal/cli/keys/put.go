package keys

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/image"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
)

type putFlags struct {
	spiffeID, pins, refval, keyFile, evidence string
	disk, made                                string
	sameVM, replace, beside, changeRoot       bool
	unmeasuredKernel, json                    bool
	maxReleases                               uint32
}

func newPutCommand(client connect) *cobra.Command {
	var f putFlags
	cmd := &cobra.Command{
		Use:   "put --kms-socket SOCKET --spiffe-id ID --pins PINS --refval REFVAL --key KEY|-",
		Short: "Register a disk's key, and who may have it",
		Long: `Register the key of the disk that PINS describes. The server releases it to the
workload with this SPIFFE ID whose evidence satisfies REFVAL, once per launch,
together with the disk's header pin.

The key file has 32 bytes. With --key - the command reads standard input to its end
before it reads anything else, so that "image build --key-out -" can write to the pipe.

Two disks may not share a SPIFFE ID and a measurement, since one VM could then
have both keys: --same-vm says that they do belong to one VM.

--evidence not-required turns the second lock off for this disk: any caller with the
SVID gets the key, as often as it asks. Then there is no --refval.

--made-key takes a key that "keys make" had the server make. Then no key is sent.

With --disk nothing is sent unless this key opens this disk's header, and the header
is the one in PINS. So a wrong key shows now, and not at the next boot.

If the disk has a record, the server refuses unless --replace or --beside is given. The
new record has the next generation, and a launch that got the old key does not get the
new one. With --replace the new record is in force at once, and the old one is kept for
a while ("keys restore"). With --beside both are in force: each launch gets the key of
the record whose reference values it satisfies, until "keys confirm" or "keys withdraw"
ends that. No measurement may be in both. If the root of trust changes,
--change-root-of-trust must allow it.

--max-releases-per-hour limits the launches that get the key within an hour. It stops a
host that launches an image again and again, and the server warns of it in its
log and with the metric rootvouch_kms_ill{check="cap"}.`,
		Example: `  rootvouch keys put --kms-socket /run/rootvouch-kms/admin.sock --kms-user rootvouch-kms \
    --spiffe-id spiffe://example.org/vm/web \
    --pins pins.json --refval refval.json --key disk.key --disk disk.img`,
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
	flags.StringVar(&f.spiffeID, "spiffe-id", "", "SPIFFE ID of the workload that gets the disk's key")
	flags.StringVar(&f.pins, "pins", "", "pins of the disk")
	flags.StringVar(&f.refval, "refval", "", "reference values (for the workload's evidence)")
	flags.StringVar(&f.keyFile, "key", "", "key file of the disk (32 bytes; - is standard input)")
	flags.StringVar(&f.evidence, "evidence", adminapi.EvidenceRequired, "required, or not-required: NOT SAFE against a stolen SVID")
	flags.BoolVar(&f.sameVM, "same-vm", false, "all disks with this SPIFFE ID belong to one VM")
	flags.BoolVar(&f.replace, "replace", false, "replace the record that the disk has")
	flags.BoolVar(&f.beside, "beside", false, "keep the disk's present record in force beside the new one until a boot confirms the new one")
	flags.StringVar(&f.made, "made-key", "", "name of a key that the server has made (in place of --key)")
	flags.StringVar(&f.disk, "disk", "", "disk image (send nothing unless the key opens it)")
	flags.Uint32Var(&f.maxReleases, "max-releases-per-hour", 0, "launches that may have the key within an hour (0: any number)")
	flags.BoolVar(&f.changeRoot, "change-root-of-trust", false, "let the record have another root of trust (with --replace or --beside)")
	flags.BoolVar(&f.json, "json", false, "print JSON (the record)")
	cli.UnmeasuredKernel(cmd, &f.unmeasuredKernel)
	command.Require(cmd, "spiffe-id", "pins")
	command.NotEmpty(cmd, "disk", "key", "made-key")
	check := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		f.alsoRequire(cmd)
		return check(cmd, args)
	}
	return cmd
}

// alsoRequire marks flags as required if no other flag replaces them, so that one error names
// all missing flags.
func (f *putFlags) alsoRequire(cmd *cobra.Command) {
	also := map[string]bool{"key": f.made == "", "refval": f.evidence != adminapi.EvidenceNotRequired}
	for flag, required := range also {
		if required {
			if err := cmd.MarkFlagRequired(flag); err != nil {
				panic("keys: internal error: " + err.Error())
			}
		}
	}
}

func (f *putFlags) run(cmd *cobra.Command, client *adminapi.Client) error {
	put := adminapi.Put{SPIFFEID: f.spiffeID, Evidence: f.evidence, SameVM: f.sameVM, Replace: f.replace, Beside: f.beside, ChangeRootOfTrust: f.changeRoot, MaxReleases: f.maxReleases}
	switch {
	case (f.keyFile == "") == (f.made == ""):
		return command.Usage(errors.New("want one of --key and --made-key"))
	case f.made != "" && f.disk != "":
		return command.Usage(errors.New("--disk goes with --key, not with a key that the server made"))
	case f.replace && f.beside:
		return command.Usage(errors.New("want one of --replace and --beside"))
	case f.changeRoot && !f.replace && !f.beside:
		return command.Usage(errors.New("--change-root-of-trust goes with --replace or --beside"))
	case f.evidence != adminapi.EvidenceRequired && f.evidence != adminapi.EvidenceNotRequired:
		return command.Usage(fmt.Errorf("--evidence is %q, want %s or %s", f.evidence, adminapi.EvidenceRequired, adminapi.EvidenceNotRequired))
	case f.evidence == adminapi.EvidenceRequired && f.refval == "":
		return command.Usage(errors.New("--refval is missing: evidence is required"))
	case f.evidence == adminapi.EvidenceNotRequired && f.refval != "":
		return command.Usage(errors.New("--refval has no use with --evidence not-required"))
	}
	// The key is read first, because "image build --key-out -" writes it once the pins exist.
	var key []byte
	if put.MadeKey = f.made; f.made == "" {
		var err error
		if key, err = cli.ReadKey(f.keyFile, cmd.InOrStdin()); err != nil {
			return err
		}
		defer clear(key)
	}
	disk, err := cli.ReadPins(f.pins)
	if err != nil {
		return err
	}
	put.Header = disk.Header
	if f.refval != "" {
		if put.ReferenceValues, err = readValues(cmd, f.refval, f.unmeasuredKernel); err != nil {
			return err
		}
	}
	if f.disk != "" {
		if err := proveKey(f.disk, disk, key); err != nil {
			return fmt.Errorf("%s: %w: nothing was sent", f.disk, err)
		}
	}
	record, err := client.Put(cmd.Context(), put, key)
	if err != nil {
		return hintForPut(err)
	}
	what := "registered"
	if f.beside {
		what = "staged"
	}
	sayNotes(cmd, record)
	if f.json {
		return cli.PrintJSON(cmd.OutOrStdout(), record)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s disk %s, generation %d, for %s, evidence %s\n",
		what, record.DiskUUID, record.Generation, record.SPIFFEID, record.Evidence)
	return nil
}

// sayNotes prints what keeps a registered key from being released.
func sayNotes(cmd *cobra.Command, record adminapi.Record) {
	for _, note := range record.Notes {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: %s\n", note)
	}
}

// readValues reads reference values as they will be sent, and prints warnings about them.
func readValues(cmd *cobra.Command, path string, unmeasuredKernel bool) ([]byte, error) {
	values, data, err := cli.ReadValues(path)
	if err != nil {
		return nil, err
	}
	if err := cli.CheckKernels(values, unmeasuredKernel); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	cli.SayEmulated(cmd, !values.RootOfTrust.IsAMD())
	return data, nil
}

// proveKey returns an error unless a disk is the one of the pins and the key opens it.
func proveKey(path string, want pins.Pins, key []byte) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	raw, size, err := image.Contents(file, info.Size())
	if err != nil {
		return err
	}
	disk, err := image.OpenDisk(raw, size)
	if err != nil {
		return err
	}
	if err := disk.Check(want); err != nil {
		return err
	}
	volumeKey, err := disk.Container.VolumeKey(key)
	clear(volumeKey)
	return err
}
