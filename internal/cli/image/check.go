package image

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/image"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/internal/filekind"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
)

// openDisk opens a disk image. The caller closes the file.
func openDisk(name string) (*image.Disk, *os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	size, err := f.Seek(0, io.SeekEnd) // works for a block device, too
	if err == nil {
		var disk io.ReaderAt
		if disk, size, err = image.Contents(f, size); err == nil {
			var d *image.Disk
			if d, err = image.OpenDisk(disk, size); err == nil {
				return d, f, nil
			}
		}
	}
	f.Close()
	return nil, nil, fmt.Errorf("opening disk %s: %w", name, cli.Instead(name, err, filekind.LUKS, filekind.QCOW2))
}

// maxKeyFile bounds a key file in bytes.
const maxKeyFile = 4096

// readKeyFile reads a key file. The caller clears the key.
func readKeyFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	defer f.Close()
	key := make([]byte, maxKeyFile+1)
	n, err := io.ReadFull(f, key)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(key)
		if err == nil {
			err = fmt.Errorf("%s has more than %d bytes", name, maxKeyFile)
		} else if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%s is empty", name)
		}
		return nil, fmt.Errorf("reading key: %w", err)
	}
	return key[:n], nil
}

func newInspectCommand() *cobra.Command {
	var pinsName, keyName string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect DISK",
		Short: "Show what a disk's header says, without its key",
		Long: `Show what a disk's header says. No key is needed.

The header is read by the same code as in PID 1: a header that PID 1 would refuse is
refused here with the same error. With --pins the disk is compared with its pins. With
--key as well, the kind of filesystem and the superblock of the hash tree are shown,
unverified ("image verify" verifies).`,
		Example: "  rootvouch image inspect --pins pins.json disk.img",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keyName != "" && pinsName == "" {
				return command.Usage(errors.New("--key needs --pins"))
			}
			return inspectImage(cmd.OutOrStdout(), args[0], pinsName, keyName, asJSON)
		},
	}
	cmd.Flags().StringVar(&pinsName, "pins", "", "pins of the disk (to compare it with)")
	cmd.Flags().StringVar(&keyName, "key", "", "key file of the disk (shows what is inside)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// inspection is the output of "image inspect".
type inspection struct {
	Disk          string          `json:"disk"`
	Bytes         int64           `json:"bytes"`
	Header        pins.Header     `json:"header"`
	SequenceID    uint64          `json:"sequence_id"`
	PayloadOffset uint64          `json:"payload_offset"`
	Cipher        string          `json:"cipher"`
	SectorSize    int             `json:"sector_size"`
	MatchesPins   bool            `json:"matches_pins,omitempty"`
	Filesystem    pins.Filesystem `json:"filesystem,omitempty"`
	VerityUUID    *pins.UUID      `json:"verity_uuid,omitempty"`
}

func inspectImage(w io.Writer, name, pinsName, keyName string, asJSON bool) error {
	d, f, err := openDisk(name)
	if err != nil {
		return err
	}
	defer f.Close()
	seen := inspection{
		Disk: name, Bytes: d.Size, Header: d.Header, SequenceID: d.Container.SequenceID,
		PayloadOffset: d.Container.PayloadOffset, Cipher: luks2.Cipher, SectorSize: d.Container.SectorSize,
	}
	if pinsName != "" {
		p, err := cli.ReadPins(pinsName)
		if err != nil {
			return err
		}
		if err := d.Check(p); err != nil {
			return err
		}
		seen.MatchesPins = true
		if keyName != "" {
			key, err := readKeyFile(keyName)
			if err != nil {
				return err
			}
			defer clear(key)
			kind, superblock, err := d.Filesystem(key, p)
			if err != nil {
				return err
			}
			seen.Filesystem, seen.VerityUUID = kind, &superblock.UUID
		}
	}
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(seen)
	}
	fmt.Fprintf(w, "disk:       %s (%d bytes)\ndisk UUID:  %s\nheader:     %s (sequence %d)\npayload:    byte %d, %s, sectors of %d bytes\n",
		name, seen.Bytes, seen.Header.DiskUUID, seen.Header.HeaderSHA256, seen.SequenceID, seen.PayloadOffset, seen.Cipher, seen.SectorSize)
	if seen.MatchesPins {
		fmt.Fprintf(w, "pins:       %s: the header matches\n", pinsName)
	}
	if seen.VerityUUID != nil {
		fmt.Fprintf(w, "inside:     %s, hash tree %s (not verified)\n", seen.Filesystem, seen.VerityUUID)
	}
	return nil
}

func newVerifyCommand() *cobra.Command {
	var keyName, pinsName string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify --key KEY --pins PINS DISK",
		Short: "Check every block of a disk against its pins",
		Long: `Check every block of a disk against its pins: the LUKS2 header, each data block,
the whole hash tree and the root hash. All cores take part. The error names the first
wrong block.`,
		Example: "  rootvouch image verify --key disk.key --pins pins.json disk.img",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			start := time.Now()
			p, err := verifyImage(cmd, args[0], keyName, pinsName, nil)
			if err != nil {
				return err
			}
			took := time.Since(start)
			if asJSON {
				return cli.PrintJSON(cmd.OutOrStdout(), verified{
					Disk: args[0], DiskUUID: p.DiskUUID, RootHash: p.RootHash, Bytes: p.PayloadSize, Seconds: took.Seconds(),
				})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: every block matches root hash %s (%v)\n", args[0], p.RootHash, took.Round(time.Millisecond))
			return err
		},
	}
	keyAndPins(cmd, &keyName, &pinsName)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// verified is what "image verify" prints of a disk whose every block matches its pins.
type verified struct {
	Disk     string      `json:"disk"`
	DiskUUID pins.UUID   `json:"disk_uuid"`
	RootHash pins.Digest `json:"root_hash"`
	Bytes    uint64      `json:"payload_bytes"`
	Seconds  float64     `json:"seconds"`
}

func newExtractCommand() *cobra.Command {
	var keyName, pinsName, out string
	var force bool
	cmd := &cobra.Command{
		Use:   "extract --key KEY --pins PINS --out FS-IMAGE DISK",
		Short: "Take the decrypted filesystem out of a disk",
		Long: `Decrypt the filesystem of a disk into a file, verifying every block on the way. The
output appears only when all of it is right.`,
		Example: `  rootvouch image extract --key disk.key --pins pins.json --out root.erofs disk.img
  mount -o loop,ro root.erofs /mnt`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := notStdout("--out", out); err != nil {
				return err
			}
			for _, read := range []string{args[0], keyName, pinsName} {
				if durable.Replaces(out, read) {
					return fmt.Errorf("the output %s would replace %s, which is needed", out, read)
				}
			}
			f, err := durable.New(out, 0o600, force)
			if err != nil {
				return cli.HintForce(err)
			}
			defer f.Abort()
			p, err := verifyImage(cmd, args[0], keyName, pinsName, f)
			if err != nil {
				return err
			}
			if err := f.Commit(); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s of %d bytes\n", out, p.Filesystem, p.HashOffset)
			return err
		},
	}
	keyAndPins(cmd, &keyName, &pinsName)
	cmd.Flags().StringVar(&out, "out", "", "file to write (mode 0600)")
	cmd.Flags().BoolVar(&force, "force", false, "replace existing files")
	command.Require(cmd, "out")
	return cmd
}

// verifyImage verifies a disk and, when extract is not nil, decrypts it.
func verifyImage(cmd *cobra.Command, name, keyName, pinsName string, extract io.WriterAt) (pins.Pins, error) {
	p, err := cli.ReadPins(pinsName)
	if err != nil {
		return pins.Pins{}, err
	}
	key, err := readKeyFile(keyName)
	if err != nil {
		return pins.Pins{}, err
	}
	defer clear(key)
	d, f, err := openDisk(name)
	if err != nil {
		return pins.Pins{}, err
	}
	defer f.Close()
	bar := newProgress(cmd.ErrOrStderr(), "verifying")
	workers, release := imageWorkers()
	defer release()
	err = d.Verify(cmd.Context(), key, p, extract, image.Options{Workers: workers, Progress: bar.update})
	bar.done()
	if err != nil {
		return pins.Pins{}, fmt.Errorf("verifying %s: %w", name, err)
	}
	if rest := uint64(d.Size) - p.PayloadOffset - p.PayloadSize; rest > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: the last %d bytes of %s are in no pin, and nothing reads them\n", rest, name)
	}
	return p, nil
}

func newRekeyCommand() *cobra.Command {
	var keyName, pinsName string
	var files image.Files
	cmd := &cobra.Command{
		Use:   "rekey --key KEY --pins PINS --key-out NEW-KEY --pins-out NEW-PINS DISK",
		Short: "Give a disk a new key without encrypting it anew",
		Long: `Give a disk a new key. The LUKS2 header is replaced in place; data, root hash and
disk UUID stay, so no new measurement is needed when the header pin comes from
the key server. The pins change in luks2_header_sha256 alone.

This retires a key, it does not revoke it: the volume key inside stays, so the old
key and a copy of the old header can still decrypt the data. The command keeps the
old header in DISK.header-backup until the new one is safely written. The old key
opens that backup, so the new key and pins are new files beside the old ones, even
with --force. A qcow2 is refused: convert it first.`,
		Example: "  rootvouch image rekey --key disk.key --pins pins.json --key-out new.key --pins-out new.json disk.img",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if files.Key == "-" {
				return command.Usage(errors.New("--key-out is -, want a file: after a rekey only the new key opens the disk"))
			}
			if err := notStdout("--pins-out", files.Pins); err != nil {
				return err
			}
			old, err := cli.ReadPins(pinsName)
			if err != nil {
				return err
			}
			key, err := readKeyFile(keyName)
			if err != nil {
				return err
			}
			defer clear(key)
			var fresh [luks2.PassphraseSize]byte
			defer clear(fresh[:])
			if _, err := rand.Read(fresh[:]); err != nil {
				return err
			}
			files.Disk, files.Keep = args[0], []string{keyName, pinsName}
			p, err := image.Rekey(cmd.Context(), files, key, old, fresh, rand.Reader)
			if err != nil {
				return cli.HintForce(fmt.Errorf("rekeying %s: %w", args[0], cli.Instead(args[0], err, filekind.LUKS, filekind.QCOW2)))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "disk:       %s\nheader:     %s\nkey:        %s\npins:       %s\n", files.Disk, p.HeaderSHA256, files.Key, files.Pins)
			return err
		},
	}
	keyAndPins(cmd, &keyName, &pinsName)
	cmd.Flags().StringVar(&files.Key, "key-out", "", "key file to write, mode 0600")
	cmd.Flags().StringVar(&files.Pins, "pins-out", "", "pins file to write")
	cmd.Flags().BoolVar(&files.Force, "force", false, "replace existing files")
	command.Require(cmd, "key-out", "pins-out")
	return cmd
}

// keyAndPins adds the flags that name a disk's secrets and its pins.
func keyAndPins(cmd *cobra.Command, key, pins *string) {
	cmd.Flags().StringVar(key, "key", "", "key file of the disk")
	cmd.Flags().StringVar(pins, "pins", "", "pins of the disk")
	command.Require(cmd, "key", "pins")
}
