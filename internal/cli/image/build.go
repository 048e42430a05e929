package image

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/image"
	"github.com/rootvouch/rootvouch/image/intake"
	"github.com/rootvouch/rootvouch/image/survey"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/pins"
)

// Memory in bytes that a build should stay below, and that it takes for a tree without files.
const (
	imageMemory = 208 << 20
	imageBase   = 32 << 20
)

type buildFlags struct {
	root, seed, uuid string
	key              string
	files            image.Files
	size             cli.Size
	exclude          []string
	dropXattrs       []string
	dropPAX          []string
	image            string
	strict           bool
	accept           []string
	tempDir          string
	format           string
	json             bool
}

func newBuildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build --root DIR|TAR|OCI|FS-IMAGE|- --out DISK --key-out KEY|--key KEY --pins-out PINS",
		Short: "Build a disk from a root file tree",
		Long: `Build an encrypted disk with dm-verity on top from a root file tree.

The root is a directory, a tar (plain, gzip, zstd, xz or bzip2; "-" reads one from
standard input), an OCI image layout, or a finished EROFS, squashfs or ext4
filesystem with blocks of 4096 bytes. Trees become an EROFS filesystem. A file of
another kind (a disk image, an archive of docker save) is refused, and the error
says what it is and how to make a root of it. From an OCI image layout the command
takes the image for linux/amd64; if there are several, --image names one.

Owners, modes, device nodes, hard links, holes, extended attributes, ACLs and
capabilities are kept. If one cannot be kept, the command refuses the root and names
it; --drop-xattr or --drop-pax leaves it out. File systems mounted below a directory
are part of the root, except /proc, /sys and their kind, which are left empty. The
command needs no privileges: it extracts nothing and mounts nothing. Memory stays
below 256 MiB whatever the size, and for up to a million files; a larger tree takes
170 bytes for each file, and a note says so.

Notes say what is likely to be wrong with a tree: an init that a VM cannot run, an
/etc/fstab that mounts the host's disks, host keys that all VMs of the image would
share, programs that take orders from the host. With --strict a note is an error;
--accept NAME accepts notes of one name. docs/image.md lists them. The absence of
notes proves nothing. A finished EROFS or ext4 is inspected like a tree; a filesystem
that cannot be inspected gets the note "unseen".

The command writes the disk, a fresh key of 32 random bytes that opens it (mode
0600), and its pins: the values by which the boot configuration and the key server
recognise the disk. All three appear when everything is done, or none does.

With --key-out - no file has the key. When the disk and the pins are complete, its
32 bytes go to standard output, which must be a pipe and not a terminal. The summary
goes to standard error. If the reader of the pipe has gone by then, the build fails
and leaves nothing. If the reader loses the key, the disk is lost and must be built
again.

With --format qcow2 the disk is written as QEMU's qcow2 instead of its raw bytes.
The other image commands read it as well, except rekey. Any other qcow2 must be
converted first.

With --key the disk gets a key that was made elsewhere ("keys make"), and no key is written.

With --seed (hex, or @FILE with hex in it; at least 32 bytes) all keys, salts and
UUIDs are derived from one secret, and the same input gives the same bytes. Protect
the seed like the key; other users may see it on a command line.`,
		Example: `  mmdebstrap --variant=minbase --include=systemd-sysv,udev trixie - | \
    rootvouch image build --root - --out disk.img --key-out disk.key --pins-out pins.json
  cryptsetup open --test-passphrase --key-file disk.key disk.img

  # The key goes straight into the key server. "keys put" waits for the end of the
  # group, in which the pins become an initramfs, and that reference values.
  set -o pipefail
  { rootvouch image build --root root/ --out disk.img --key-out - --pins-out pins.json &&
    ./initramfs-and-refval pins.json refval.json >&2; } | \
    rootvouch keys put --kms-socket /run/rootvouch-kms/admin.sock --spiffe-id spiffe://example.org/vm/web \
      --pins pins.json --refval refval.json --key -`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.root, "root", "", "root file tree or filesystem; - is a tar on standard input")
	flags.StringVar(&f.files.Disk, "out", "", "file to write (the disk)")
	flags.StringVar(&f.files.Key, "key-out", "", "key file to write, mode 0600 (- is standard output, for a pipe)")
	flags.StringVar(&f.key, "key", "", "key file of the disk (32 bytes that were made elsewhere; in place of --key-out)")
	flags.StringVar(&f.files.Pins, "pins-out", "", "pins file to write")
	flags.BoolVar(&f.files.Force, "force", false, "replace existing files")
	flags.Var(&f.size, "size", "size of the disk, such as 10G (default: as small as can be; the VM cannot write to it)")
	flags.StringVar(&f.format, "format", string(image.Raw), "form of the output (raw or qcow2)")
	flags.StringArrayVar(&f.exclude, "exclude", nil, "leave out names that match this pattern (repeatable)")
	flags.StringArrayVar(&f.dropXattrs, "drop-xattr", nil, "leave out extended attributes whose name matches this pattern (repeatable)")
	flags.StringArrayVar(&f.dropPAX, "drop-pax", nil, "leave out PAX records of a tar whose name matches this pattern (repeatable)")
	flags.StringVar(&f.image, "image", "", "image of an OCI layout: its tag, its digest or its platform (default: the one for linux/amd64)")
	flags.BoolVar(&f.strict, "strict", false, "refuse a root that gets a note")
	flags.StringArrayVar(&f.accept, "accept", nil, "with --strict, accept notes of this name (repeatable)")
	flags.StringVar(&f.seed, "seed", "", "derive all keys, salts and UUIDs from this secret: hex or @FILE")
	flags.StringVar(&f.uuid, "disk-uuid", "", "UUID of the disk (default: random)")
	flags.StringVar(&f.tempDir, "temp-dir", "", "where a compressed or piped tar is unpacked (default: the system's)")
	flags.BoolVar(&f.json, "json", false, "print JSON")
	command.Require(cmd, "root", "out", "pins-out")
	command.NotEmpty(cmd, "exclude", "drop-xattr", "drop-pax", "image", "accept", "seed", "disk-uuid", "temp-dir", "key", "key-out")
	return cmd
}

func (f *buildFlags) run(cmd *cobra.Command) error {
	format, err := image.ParseFormat(f.format)
	if err != nil {
		return command.Usage(err)
	}
	if (f.key == "") == (f.files.Key == "") {
		return command.Usage(errors.New("want one of --key-out and --key"))
	}
	summary := cmd.OutOrStdout()
	if err := notStdout("--out", f.files.Disk, "--pins-out", f.files.Pins); err != nil {
		return err
	}
	if f.files.Key == "-" {
		if f.files.KeyTo, err = cli.KeyPipe("--key-out -", summary); err != nil {
			return command.Usage(err)
		}
		f.files.Key, summary = "standard output", cmd.ErrOrStderr()
	}
	if f.root != "-" {
		f.files.Keep = append(f.files.Keep, f.root)
	}
	random := rand.Reader
	if f.seed != "" {
		if name, ok := strings.CutPrefix(f.seed, "@"); ok {
			f.files.Keep = append(f.files.Keep, name)
		}
		seed, err := cli.ReadSeed(f.seed)
		if err != nil {
			return command.Usage(err)
		}
		defer clear(seed)
		if random, err = image.SeedReader(seed); err != nil {
			return command.Usage(err)
		}
	}
	secrets, err := image.NewSecrets(random)
	if err != nil {
		return err
	}
	defer secrets.Wipe()
	if f.key != "" {
		if err := f.takeKey(secrets); err != nil {
			return err
		}
	}
	if f.uuid != "" {
		if secrets.DiskUUID, err = pins.ParseUUID(f.uuid); err != nil {
			return command.Usage(err)
		}
	}
	// This bounds the garbage that the collector may leave. A tree of many files raises the
	// bound.
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(imageMemory))
	start := time.Now()
	bar := newProgress(cmd.ErrOrStderr(), "unpacking")
	var notes []survey.Note
	source, closeSource, err := image.Open(cmd.Context(), image.Input{
		Path: f.root, Stdin: cmd.InOrStdin(), Exclude: f.exclude, TempDir: f.tempDir,
		DropXattrs: f.dropXattrs, DropPAX: f.dropPAX, Image: f.image,
		Unpacking: func(done uint64) { bar.update(done, 0) },
		Seen: func(s image.Summary) error {
			bar.done()
			notes = s.Notes
			return f.notes(cmd.ErrOrStderr(), s)
		},
	})
	bar.done()
	if err != nil {
		return hintRoot(fmt.Errorf("reading the root: %w", err))
	}
	defer closeSource()
	bar = newProgress(cmd.ErrOrStderr(), "building")
	workers, release := imageWorkers()
	defer release()
	p, err := image.BuildFiles(cmd.Context(), f.files, source, secrets, image.Options{Format: format, Size: uint64(f.size), Workers: workers, Progress: bar.update})
	bar.done()
	if err != nil {
		return cli.HintForce(err)
	}
	return f.summary(summary, p, notes, time.Since(start))
}

// takeKey makes the disk open with a key that exists already.
func (f *buildFlags) takeKey(secrets *image.Secrets) error {
	key, err := readKeyFile(f.key)
	if err != nil {
		return err
	}
	defer clear(key)
	if len(key) != len(secrets.Key) {
		return fmt.Errorf("reading key: %s has %d bytes, want %d", f.key, len(key), len(secrets.Key))
	}
	copy(secrets.Key[:], key)
	f.files.Keep = append(f.files.Keep, f.key)
	f.files.Key, f.files.KeyTo = f.key, io.Discard // the key file exists already
	return nil
}

// imageWorkers returns image.Options.Workers, and allows as many threads until release.
func imageWorkers() (workers int, release func()) {
	before := runtime.GOMAXPROCS(0)
	workers = before + image.Waiting
	runtime.GOMAXPROCS(workers)
	return workers, func() { runtime.GOMAXPROCS(before) }
}

// notes prints what a user should know before a tree is written.
func (f *buildFlags) notes(w io.Writer, s image.Summary) error {
	if need := s.Memory + imageBase; need > imageMemory {
		debug.SetMemoryLimit(need)
		fmt.Fprintf(w, "note: so many files take about %s of memory; a finished filesystem (as of mkfs.erofs) takes less than 256 MiB\n", bytesText(float64(need)))
	}
	var refused []string
	for _, note := range s.Notes {
		fmt.Fprintf(w, "note: %s: %s\n", note.Name, note.Text)
		if f.strict && !slices.Contains(f.accept, note.Name) && !slices.Contains(refused, note.Name) {
			refused = append(refused, note.Name)
		}
	}
	if len(refused) > 0 {
		return &strictError{refused}
	}
	return nil
}

// strictError says that --strict found notes.
type strictError struct{ names []string }

func (e *strictError) Error() string {
	return fmt.Sprintf("--strict refuses a root with notes: %s", strings.Join(e.names, ", "))
}

// hintRoot adds a hint to the error of a refused root.
func hintRoot(err error) error {
	var kept *intake.NotKept
	var choice *intake.ChoiceError
	var strict *strictError
	switch {
	case errors.As(err, &kept) && kept.Xattr != "":
		return command.WithHint(err, fmt.Sprintf("--drop-xattr %s builds without it", kept.Xattr))
	case errors.As(err, &kept):
		return command.WithHint(err, fmt.Sprintf("--drop-pax %s builds without it", kept.PAX))
	case errors.As(err, &choice):
		return command.WithHint(err, "--image names one: its tag, its digest or its platform")
	case errors.As(err, &strict):
		return command.WithHint(err, fmt.Sprintf("--accept %s builds with it", strict.names[0]))
	}
	return err
}

// byName joins the notes of each name.
func byName(notes []survey.Note) map[string]string {
	all := map[string]string{}
	for _, note := range notes {
		if all[note.Name] != "" {
			all[note.Name] += "\n"
		}
		all[note.Name] += note.Text
	}
	return all
}

// notStdout refuses "-" for outputs that are files. It takes pairs of flag and value. A user
// who writes "-" means standard output and not a file of that name.
func notStdout(flagsAndValues ...string) error {
	for pair := range slices.Chunk(flagsAndValues, 2) {
		if pair[1] == "-" {
			return command.Usage(fmt.Errorf("%s is a file, not standard output (./- is a file of that name)", pair[0]))
		}
	}
	return nil
}

// summary prints what was built.
func (f *buildFlags) summary(w io.Writer, p pins.Pins, notes []survey.Note, took time.Duration) error {
	info, err := os.Stat(f.files.Disk)
	if err != nil {
		return err
	}
	if f.json {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(struct {
			Disk     string            `json:"disk"`
			Key      string            `json:"key"`
			PinsFile string            `json:"pins_file"`
			Bytes    int64             `json:"bytes"`
			Seconds  float64           `json:"seconds"`
			Pins     pins.Pins         `json:"pins"`
			Notes    map[string]string `json:"notes"`
		}{f.files.Disk, f.files.Key, f.files.Pins, info.Size(), took.Seconds(), p, byName(notes)})
	}
	_, err = fmt.Fprintf(w, "disk:       %s (%d bytes, %s)\ndisk UUID:  %s\nroot hash:  %s\nheader:     %s\nkey:        %s\npins:       %s\ntook:       %v\n",
		f.files.Disk, info.Size(), p.Filesystem, p.DiskUUID, p.RootHash, p.HeaderSHA256, f.files.Key, f.files.Pins, took.Round(time.Millisecond))
	return err
}
