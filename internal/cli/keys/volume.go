package keys

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/volume"
)

func newVolumeCommand(client connect) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "Register writable volumes, and decide what happens to them",
		Long: `Register writable volumes, and decide what happens to them. The server knows of each
volume whether a launch has it open, and the digest of its last close. Each command
here is recorded on the server's log.`,
	}
	cmd.AddCommand(
		newVolumePutCommand(client),
		newVolumeShowCommand(client),
		newWordCommand(client, adminapi.VolumeFree, "Say that the launch with the open volume is gone",
			`Say that the launch that has the volume open is gone. The next launch gets the volume.
If nothing was written since its last close, it is unchanged. Otherwise it is unclean,
and the record says whether that is accepted. The server refuses a later close by the
launch that was gone.

Make sure that the launch is gone: two VMs that write one volume destroy it.`),
		newWordCommand(client, adminapi.VolumeAccept, "Let the next launch open the volume with any contents",
			`Let the next launch open the volume with any contents, once. Its boot log, and so each
attestation, says that the contents were accepted and not compared.`),
		newWordCommand(client, adminapi.VolumeRestore, "Say that a backup was put back",
			`Say that the volume's contents have this digest, because you put back a backup. The
server cannot tell that from a rollback by the host; it takes your word.
"rootvouch volume inspect" prints the digest of the backup.`),
		newWordCommand(client, adminapi.VolumeRetire, "Keep the volume from every launch", `Keep the volume from every launch, from now on. "keys volume reset" ends that: the next
launch then formats the volume.`),
		newWordCommand(client, adminapi.VolumeReset, "Make the next launch format the volume",
			`Make the next launch format the volume: ITS CONTENTS ARE LOST. That is for a first
launch that died half-way (run "keys volume free" first), and for a volume that gets
a new use.`),
	)
	return cmd
}

type volumePutFlags struct {
	put              putFlags
	writers, unclean string
}

func newVolumePutCommand(client connect) *cobra.Command {
	var f volumePutFlags
	cmd := &cobra.Command{
		Use:   "put --kms-socket SOCKET --spiffe-id ID --pins PINS --refval REFVAL --key KEY",
		Short: "Register a volume's key, who may have it, and how launches share it",
		Long: `Register the key of a volume that "rootvouch volume create" made. The server releases
it as it does a disk's, to the workload with this SPIFFE ID whose evidence satisfies
REFVAL. Both are those of the VM that mounts the volume. So one VM has the keys of this
volume and of its root.

--writers exclusive refuses a launch while another one has the volume open, until the
other closes it, or "keys volume free" says that it is gone. --writers takeover gives
the volume to the newest launch, and refuses a close by an earlier one.

--unclean refuse makes the VM refuse a volume that was not closed and has changed since
its last close. --unclean accept makes the VM open the volume, and say so in its boot
log.

With --replace the server keeps the known state of the volume if the header is the same.`,
		Example: `  rootvouch keys volume put --kms-socket /run/rootvouch-kms/admin.sock --kms-user rootvouch-kms \
    --spiffe-id spiffe://example.org/vm/db \
    --pins data.json --refval refval.json --key data.key`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := client()
			if err != nil {
				return err
			}
			return f.run(cmd, client)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.put.spiffeID, "spiffe-id", "", "SPIFFE ID of the workload that gets the disk's key")
	flags.StringVar(&f.put.pins, "pins", "", "pins of the disk (a volume's, of \"volume create\")")
	flags.StringVar(&f.put.refval, "refval", "", "reference values (for the workload's evidence)")
	flags.StringVar(&f.put.keyFile, "key", "", "key file of the disk (32 bytes; - is standard input)")
	flags.StringVar(&f.writers, "writers", "exclusive", "exclusive or takeover: what happens if a launch asks while another has the volume open")
	flags.StringVar(&f.unclean, "unclean", "refuse", "refuse or accept: what happens to a volume that was not closed")
	flags.BoolVar(&f.put.replace, "replace", false, "replace the record that the disk has")
	cli.UnmeasuredKernel(cmd, &f.put.unmeasuredKernel)
	command.Require(cmd, "spiffe-id", "pins", "refval", "key")
	return cmd
}

func (f *volumePutFlags) run(cmd *cobra.Command, client *adminapi.Client) error {
	if f.writers != "exclusive" && f.writers != "takeover" {
		return command.Usage(fmt.Errorf("--writers is %q, want exclusive or takeover", f.writers))
	}
	if f.unclean != "refuse" && f.unclean != "accept" {
		return command.Usage(fmt.Errorf("--unclean is %q, want refuse or accept", f.unclean))
	}
	key, err := cli.ReadKey(f.put.keyFile, cmd.InOrStdin())
	if err != nil {
		return err
	}
	defer clear(key)
	data, err := cli.ReadInput(f.put.pins, 4<<10)
	if err != nil {
		return err
	}
	p, err := volume.DecodePins(data)
	if err != nil {
		return fmt.Errorf("%s: %w", f.put.pins, err)
	}
	// The header is a function of the key, so a wrong key shows here.
	header, err := volume.Header([keyapi.KeySize]byte(key), p.DiskUUID)
	if err != nil {
		return err
	}
	if got := pins.Digest(sha256.Sum256(header)); got != p.HeaderSHA256 {
		return fmt.Errorf("%s is not the key of the volume: it makes a header with SHA-256 %s, and the pins have %s", f.put.keyFile, got, p.HeaderSHA256)
	}
	put := adminapi.Put{
		Header: p.Header, SPIFFEID: f.put.spiffeID, Evidence: adminapi.EvidenceRequired, SameVM: true, Replace: f.put.replace,
		Volume: &adminapi.VolumePolicy{Writers: f.writers, Unclean: f.unclean},
	}
	if put.ReferenceValues, err = os.ReadFile(f.put.refval); err != nil {
		return err
	}
	values, err := refval.Decode(put.ReferenceValues)
	if err != nil {
		return fmt.Errorf("%s: %w", f.put.refval, err)
	}
	if err := cli.CheckKernels(values, f.put.unmeasuredKernel); err != nil {
		return fmt.Errorf("%s: %w", f.put.refval, err)
	}
	cli.SayEmulated(cmd, !values.RootOfTrust.IsAMD())
	record, err := client.Put(cmd.Context(), put, key)
	if err != nil {
		return hintForPut(err)
	}
	sayNotes(cmd, record)
	fmt.Fprintf(cmd.OutOrStdout(), "registered volume %s, generation %d of its key, for %s, writers %s, unclean %s\n",
		record.DiskUUID, record.Generation, record.SPIFFEID, f.writers, f.unclean)
	return nil
}

func newVolumeShowCommand(client connect) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show --kms-socket SOCKET VOLUME-UUID",
		Short:   "Show a volume's state at the server",
		Example: "  rootvouch keys volume show --kms-socket kms.sock 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b",
		Args:    cobra.ExactArgs(1),
		RunE: ofDisk(client, func(cmd *cobra.Command, client *adminapi.Client, uuid pins.UUID) error {
			v, err := client.Volume(cmd.Context(), uuid)
			if err != nil {
				return err
			}
			return printVolume(cmd, v, asJSON)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printVolume(cmd *cobra.Command, v adminapi.Volume, asJSON bool) error {
	if asJSON {
		return cli.PrintJSON(cmd.OutOrStdout(), v)
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(table, "%s\t%s\n", name, value)
		}
	}
	row("volume", v.DiskUUID.String())
	row("state", v.State)
	row("generation", fmt.Sprint(v.Generation))
	if v.Generation > 0 {
		row("digest", v.Digest.String())
	}
	row("launch", v.Launch)
	if v.Found != 0 {
		row("found", v.Found.String())
	}
	if v.Accepted {
		row("accepted", "with any contents, by the next launch")
	}
	row("writers", v.Writers)
	row("unclean", v.Unclean)
	row("changed", v.Changed.Format(time.RFC3339))
	return table.Flush()
}

func newWordCommand(client connect, word adminapi.VolumeWord, short, long string) *cobra.Command {
	var digest string
	use := string(word) + " --kms-socket SOCKET VOLUME-UUID"
	example := "  rootvouch keys volume " + string(word) + " --kms-socket kms.sock 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b"
	if word == adminapi.VolumeRestore {
		use = string(word) + " --kms-socket SOCKET --contents DIGEST VOLUME-UUID"
		example = "  rootvouch keys volume restore --kms-socket kms.sock --contents \"$(rootvouch volume inspect data.img | jq -r .digest)\" \\\n    0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b"
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cobra.ExactArgs(1),
		RunE: ofDisk(client, func(cmd *cobra.Command, client *adminapi.Client, uuid pins.UUID) error {
			var d pins.Digest
			if word == adminapi.VolumeRestore {
				if err := d.UnmarshalText([]byte(digest)); err != nil {
					return command.Usage(err)
				}
				if d == (pins.Digest{}) {
					return command.Usage(errors.New("--contents is all zero"))
				}
			}
			v, err := client.SayVolume(cmd.Context(), uuid, word, d)
			if err != nil {
				return hintForVolume(err)
			}
			return printVolume(cmd, v, false)
		}),
	}
	if word == adminapi.VolumeRestore {
		cmd.Flags().StringVar(&digest, "contents", "", "digest of a volume's contents (of what was put back)")
		command.Require(cmd, "contents")
	}
	return cmd
}

// hintForVolume adds a hint to the key server's error about a word.
func hintForVolume(err error) error {
	if refused, ok := errors.AsType[*adminapi.Error](err); ok && refused.Status == 409 {
		return command.WithHint(err, "keys volume show prints the state; free a volume first if a launch has it open")
	}
	return err
}
