// Package volume is "rootvouch volume": it makes and checks writable volumes.
package volume

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/volume"
)

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "Make and check writable volumes",
		Long: `Make and check writable volumes. A volume is encrypted. Each sector has a tag that shows
a change. The digest of all tags tells the key server which contents were closed.
The commands need no privileges and no device-mapper. With the key, cryptsetup opens a
volume, too.`,
	}
	cmd.AddCommand(newCreateCommand(), newInspectCommand(), newVerifyCommand())
	return cmd
}

type createFlags struct {
	size                   cli.Size
	out, key, keyOut, pins string
	uuid                   string
	force                  bool
}

func newCreateCommand() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create --size SIZE --out VOLUME --key-out KEY --pins-out PINS",
		Short: "Make a volume that the first VM formats",
		Long: `Make a volume: a sparse file with only a LUKS2 header. The first VM that gets it from
the key server writes the tags and makes the filesystem. No later VM formats it, unless
"keys volume reset" makes the next one do so.

The command writes the volume, a fresh key of 32 random bytes that opens it (mode 0600),
and its pins, for "initramfs config" and "keys volume put". All three appear, or none
does.

The header is a function of key and UUID alone. So whoever has the key of a volume that
lost its header can make the header again: give --key and --uuid instead of --key-out,
and copy the first MiB.`,
		Example: `  rootvouch volume create --size 20G --out data.img --key-out data.key --pins-out data.json`,
		Args:    command.NoArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.Var(&f.size, "size", "size of the disk, such as 10G")
	flags.StringVar(&f.out, "out", "", "file to write (the volume)")
	flags.StringVar(&f.keyOut, "key-out", "", "key file to write, mode 0600")
	flags.StringVar(&f.key, "key", "", "key file of the disk (whose header to make again)")
	flags.StringVar(&f.pins, "pins-out", "", "pins file to write")
	flags.StringVar(&f.uuid, "uuid", "", "UUID of the volume (default: random)")
	flags.BoolVar(&f.force, "force", false, "replace existing files")
	command.Require(cmd, "size", "out", "pins-out")
	command.NotEmpty(cmd, "key-out", "key", "uuid")
	cmd.MarkFlagsMutuallyExclusive("key", "key-out")
	cmd.MarkFlagsOneRequired("key", "key-out")
	return cmd
}

func (f *createFlags) run(cmd *cobra.Command) error {
	if f.key != "" && f.uuid == "" {
		return command.Usage(errors.New("--key goes with --uuid: the header is a function of both"))
	}
	layout, err := volume.LayoutOf(uint64(f.size))
	if err != nil {
		return command.Usage(err)
	}
	var key [luks2.PassphraseSize]byte
	defer clear(key[:])
	var uuid pins.UUID
	if f.uuid != "" {
		if uuid, err = pins.ParseUUID(f.uuid); err != nil {
			return command.Usage(err)
		}
	} else if uuid, err = pins.NewUUID(rand.Reader); err != nil {
		return err
	}
	if f.key != "" {
		err = readKey(f.key, &key)
	} else {
		_, err = io.ReadFull(rand.Reader, key[:])
	}
	if err != nil {
		return err
	}
	header, err := volume.Header(key, uuid)
	if err != nil {
		return err
	}
	p := volume.NewPins(pins.Header{DiskUUID: uuid, HeaderSHA256: sha256.Sum256(header)}, uint64(f.size))
	if err := f.write(header, key[:], p); err != nil {
		return cli.HintForce(err)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "volume %s, %d MiB of data, header SHA-256 %s\n", uuid, layout.DataSize>>20, p.HeaderSHA256)
	return err
}

// write writes the files, and names them when all are complete: the volume last.
func (f *createFlags) write(header, key []byte, p volume.Pins) (err error) {
	var files []*durable.File
	defer func() {
		for _, file := range files {
			file.Abort()
		}
	}()
	open := func(path string, perm os.FileMode, data []byte) (*durable.File, error) {
		file, err := durable.New(path, perm, f.force)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
		_, err = file.Write(data)
		return file, err
	}
	if f.keyOut != "" {
		if _, err := open(f.keyOut, 0o600, key); err != nil {
			return err
		}
	}
	if _, err := open(f.pins, 0o644, p.Encode()); err != nil {
		return err
	}
	disk, err := open(f.out, 0o600, header)
	if err != nil {
		return err
	}
	if err := disk.Truncate(int64(p.Size)); err != nil {
		return err
	}
	for i, file := range files {
		if err := file.Commit(); err != nil {
			for _, done := range files[:i] { // all of them, or none
				os.Remove(done.Path())
			}
			return err
		}
	}
	return nil
}

// readKey reads a key file of exactly luks2.PassphraseSize bytes.
func readKey(path string, key *[luks2.PassphraseSize]byte) error {
	data, err := command.ReadFile(path, int64(len(key)))
	if err != nil {
		return err
	}
	defer clear(data)
	if len(data) != len(key) {
		return fmt.Errorf("key file %s does not have exactly %d bytes", path, len(key))
	}
	copy(key[:], data)
	return nil
}

// opened is an open volume.
type opened struct {
	file      *os.File
	layout    volume.Layout
	header    []byte
	container *luks2.Container
	formatted bool
}

func open(path string) (*opened, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	o := &opened{file: file}
	if err := o.read(); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return o, nil
}

func (o *opened) read() error {
	size, err := o.file.Seek(0, io.SeekEnd) // stat gives no size for block devices
	if err != nil {
		return err
	}
	if o.layout, err = volume.LayoutOf(uint64(size)); err != nil {
		return err
	}
	o.header = make([]byte, luks2.HeaderSize)
	if _, err := o.file.ReadAt(o.header, 0); err != nil {
		return fmt.Errorf("reading the header: %w", err)
	}
	if o.container, err = luks2.ParseAuthenticated(o.header); err != nil {
		return err
	}
	superblock := make([]byte, volume.SuperblockSize)
	if _, err := o.file.ReadAt(superblock, volume.Offset); err != nil {
		return fmt.Errorf("reading the superblock: %w", err)
	}
	for _, b := range superblock {
		if b != 0 {
			o.formatted = true
		}
	}
	if o.formatted {
		return o.layout.CheckSuperblock(superblock)
	}
	return nil
}

// report is the output of inspect.
type report struct {
	UUID         pins.UUID   `json:"disk_uuid"`
	HeaderSHA256 pins.Digest `json:"luks2_header_sha256"`
	Size         uint64      `json:"size"`
	DataSize     uint64      `json:"data_size"`
	Formatted    bool        `json:"formatted"`
	Digest       pins.Digest `json:"digest,omitzero"` // set if the volume is formatted
}

func (o *opened) report(ctx context.Context) (report, error) {
	r := report{UUID: o.container.UUID, HeaderSHA256: sha256.Sum256(o.header), Size: o.layout.Size, DataSize: o.layout.DataSize, Formatted: o.formatted}
	if !o.formatted {
		return r, nil
	}
	var err error
	r.Digest, err = volume.Digest(ctx, o.file, o.layout, func(done, size uint64) {})
	return r, err
}

func newInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect VOLUME",
		Short: "Print a volume's pins, and the digest of its contents, as JSON",
		Long: `Print a volume's pins, and the digest of its contents. A closed volume has the digest
that "keys volume show" prints. A backup of it has the digest that "keys volume restore"
takes. The command needs no key, and its output is not secret.`,
		Example: "  rootvouch volume inspect data.img",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := open(args[0])
			if err != nil {
				return err
			}
			defer o.file.Close()
			r, err := o.report(cmd.Context())
			if err != nil {
				return err
			}
			return cli.PrintJSON(cmd.OutOrStdout(), r)
		},
	}
}

func newVerifyCommand() *cobra.Command {
	var keyFile, digest string
	cmd := &cobra.Command{
		Use:   "verify --key KEY [--contents DIGEST] VOLUME",
		Short: "Compare every sector of a closed volume with its tag",
		Long: `Read all of a closed volume, and compare every sector with its tag, which only a holder
of the key can make. With --contents, also compare the digest of all tags with the last
close at the key server. Sectors that no VM has written are included: they are zero on
the disk. A volume that was not closed may have newer sectors in its journal. Open such a
volume with cryptsetup instead.`,
		Example: "  rootvouch volume verify --key data.key data.img",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var want pins.Digest
			if digest != "" {
				if err := want.UnmarshalText([]byte(digest)); err != nil {
					return command.Usage(err)
				}
			}
			return verify(cmd, args[0], keyFile, want)
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "key file of the disk (32 bytes)")
	cmd.Flags().StringVar(&digest, "contents", "", "digest of a volume's contents (that \"keys volume show\" prints)")
	command.Require(cmd, "key")
	command.NotEmpty(cmd, "contents")
	return cmd
}

func verify(cmd *cobra.Command, path, keyFile string, want pins.Digest) error {
	o, err := open(path)
	if err != nil {
		return err
	}
	defer o.file.Close()
	var key [luks2.PassphraseSize]byte
	defer clear(key[:])
	if err := readKey(keyFile, &key); err != nil {
		return err
	}
	if !o.formatted {
		return fmt.Errorf("%s is not formatted: no VM has had it", path)
	}
	volumeKey, err := o.container.VolumeKey(key[:])
	if err != nil {
		return err
	}
	defer clear(volumeKey)
	r, err := o.report(cmd.Context())
	if err != nil {
		return err
	}
	if want != (pins.Digest{}) && r.Digest != want {
		return fmt.Errorf("%s: digest is %s, want %s: the contents are not those of the last close", path, r.Digest, want)
	}
	bad, first, err := volume.Verify(cmd.Context(), o.file, o.layout, volumeKey, func(done, size uint64) {})
	if err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%s: %d sectors do not match their tags, sector %d is the first", path, bad, first)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "all %d sectors match their tags, digest %s\n", o.layout.DataSize/volume.SectorSize, r.Digest)
	return err
}
