package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/image/intake"
	"github.com/rootvouch/rootvouch/image/rootfs"
	"github.com/rootvouch/rootvouch/image/survey"
	"github.com/rootvouch/rootvouch/internal/filekind"
	"github.com/rootvouch/rootvouch/pins"
)

// Input is a root filesystem as the user specifies it.
type Input struct {
	Path    string    // directory, OCI image layout, tar or filesystem image; "-" is Stdin
	Stdin   io.Reader // a tar
	Exclude []string  // patterns of rootfs.Tree.Exclude

	// Filesystems are those of the VM's volumes. The root should have the programs that make
	// them.
	Filesystems []string

	// As in intake.Reader.
	DropXattrs, DropPAX []string
	Image               string

	TempDir string // for unpacked files; "" means the system's

	// Unpacking, if not nil, is called now and then with the number of bytes unpacked so far.
	Unpacking func(done uint64)
	// Seen, if not nil, is called with the summary of an inspected root, before the root is
	// laid out. Its error ends the build.
	Seen func(Summary) error
}

// Summary is what a user should know about a root.
type Summary struct {
	Memory int64 // approximate memory of the build in bytes
	Notes  []survey.Note
}

// Open recognises the input from its contents. The source reads from the input until the
// returned function closes it. Opening stops when ctx ends.
func Open(ctx context.Context, in Input) (Source, func(), error) {
	files := opened{ctx: ctx}
	source, err := in.open(&files)
	if err != nil {
		files.close()
		return Source{}, nil, err
	}
	return source, files.close, nil
}

// opened are the files to close at the end.
type opened struct {
	ctx   context.Context
	files []io.Closer
}

func (o *opened) add(f io.Closer) { o.files = append(o.files, f) }

func (o *opened) close() {
	for _, file := range o.files {
		file.Close() // read-only or unnamed, so the error does not matter
	}
	o.files = nil
}

// untilDone is a reader that fails when a context ends.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (r untilDone) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}

// counter is a reader that reports how much was read from it.
type counter struct {
	io.Reader
	done uint64
	tell func(done uint64) // may be nil
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.done += uint64(n)
	if c.tell != nil {
		c.tell(c.done)
	}
	return n, err
}

// stalling returns a reader that fails when ctx ends, even if a Read of r is waiting
// for data. That Read goes on in the background until r or the process ends.
func stalling(ctx context.Context, r io.Reader) io.ReadCloser {
	out, in := io.Pipe()
	go func() {
		_, err := io.Copy(in, r)
		in.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { in.CloseWithError(ctx.Err()) })
	return out
}

func (in Input) open(files *opened) (Source, error) {
	if in.Path == "-" {
		return in.openStream(in.Stdin, "standard input", files)
	}
	info, err := os.Stat(in.Path)
	if err != nil {
		return Source{}, err
	}
	if info.IsDir() {
		return in.openDirectory(files)
	}
	f, err := os.Open(in.Path)
	if err != nil {
		return Source{}, err
	}
	files.add(f)
	if !info.Mode().IsRegular() {
		return in.openStream(f, in.Path, files)
	}
	return in.openFile(f, info.Size(), files)
}

// openFile recognises a regular file.
func (in Input) openFile(f *os.File, size int64, files *opened) (Source, error) {
	kind, err := filekind.OfFile(f, size)
	if err != nil {
		return Source{}, err
	}
	head := make([]byte, min(size, intake.TarBlock*8))
	if _, err := f.ReadAt(head, 0); err != nil {
		return Source{}, err
	}
	switch {
	case isPacked(kind, head):
		return in.openStream(f, in.Path, files)
	case kind == filekind.Tar || kind == filekind.Unknown && isOldTar(head):
		return in.openTar(files.ctx, f, size)
	case kind == filekind.EROFS || kind == filekind.Squashfs || kind == filekind.Ext:
		if len(in.Exclude) > 0 {
			return Source{}, fmt.Errorf("%s is a finished filesystem: no files can be excluded from it", in.Path)
		}
		source, err := finished(f, size, kind, head)
		if err != nil {
			return Source{}, fmt.Errorf("checking %s: %w", in.Path, err)
		}
		return in.lookInto(files.ctx, source)
	}
	return Source{}, notARoot(in.Path, kind, "a directory, an OCI image layout, a tar (plain, gzip, zstd, xz, bzip2) or an EROFS, squashfs or ext4 filesystem")
}

// isPacked reports whether a file is a compressed stream. Zstd data may begin with a skippable
// frame (RFC 8878, section 3.1.2), as pzstd writes it.
func isPacked(kind filekind.Kind, head []byte) bool {
	skippable := len(head) > 4 && head[0]>>4 == 5 && string(head[1:4]) == "\x2a\x4d\x18"
	return intake.CompressionOf(head) != intake.Uncompressed || kind == filekind.Unknown && skippable
}

// notARoot is the error for a file of another kind than want.
func notARoot(name string, kind filekind.Kind, want string) error {
	if kind == filekind.Unknown {
		return fmt.Errorf("%s is not a readable root, want %s", name, want)
	}
	return fmt.Errorf("%s is %v, want %s: %s", name, kind, want, nextStep(kind))
}

// nextStep says how to make a root from a file.
func nextStep(kind filekind.Kind) string {
	const mounted = "mount it read-only and name the directory, as root so that owners are kept"
	switch kind {
	case filekind.ISO, filekind.XFS, filekind.Btrfs, filekind.FAT:
		return mounted
	case filekind.GPT, filekind.MBR:
		return "its partitions are disks of their own: losetup -P makes a device of each; " + mounted
	case filekind.QCOW2, filekind.VMDK, filekind.VHD, filekind.VHDX, filekind.VDI:
		return kind.Advice() + ", and take the partition out of it: losetup -P makes a device of each; " + mounted
	case filekind.LUKS:
		return "open it with cryptsetup open; " + mounted
	case filekind.Cpio:
		return "unpack it with cpio -id as root and name the directory"
	case filekind.Zip, filekind.SevenZip, filekind.Deb, filekind.RPM:
		return kind.Advice() + " and name the directory: a package alone is seldom a root"
	case filekind.BzImage, filekind.ARMImage, filekind.UKI, filekind.PE, filekind.ELF, filekind.Firmware,
		filekind.BootConfig, filekind.Pins, filekind.ReferenceValues, filekind.Measurements, filekind.Evidence, filekind.JSON,
		filekind.PEM, filekind.DER, filekind.Report:
		return "a root is a file tree, and not a kernel, a program, a firmware or a document"
	}
	return kind.Advice()
}

func (in Input) openDirectory(files *opened) (Source, error) {
	reader := in.reader()
	_, err := os.Stat(filepath.Join(in.Path, "oci-layout"))
	switch {
	case err == nil:
		spool := func(r io.Reader, compression intake.Compression) (io.ReaderAt, int64, error) {
			return in.spool(r, compression, files)
		}
		err = reader.ReadOCI(files.ctx, in.Path, spool)
	case errors.Is(err, fs.ErrNotExist):
		if in.Image != "" {
			return Source{}, fmt.Errorf("%s is not an OCI image layout, so it has no image %q to choose", in.Path, in.Image)
		}
		var dir io.Closer
		if dir, err = reader.ReadDir(files.ctx, in.Path); err == nil {
			files.add(dir)
		}
	}
	if err != nil {
		return Source{}, err
	}
	return in.finish(reader)
}

// reader returns a reader with an empty tree.
func (in Input) reader() *intake.Reader {
	return &intake.Reader{Tree: rootfs.New(), DropXattrs: in.DropXattrs, DropPAX: in.DropPAX, Image: in.Image}
}

// openStream reads a tar that is compressed, or that can be read only once, into an unnamed
// temporary file.
func (in Input) openStream(r io.Reader, name string, files *opened) (Source, error) {
	steady := stalling(files.ctx, r)
	files.add(steady)
	buffered := bufio.NewReaderSize(steady, 1<<20)
	head, err := buffered.Peek(filekind.HeadSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return Source{}, fmt.Errorf("reading %s: %w", name, err)
	}
	kind := filekind.Of(head)
	packed := isPacked(kind, head)
	if !packed && kind != filekind.Tar && (kind != filekind.Unknown || !isOldTar(head)) {
		return Source{}, notARoot(name, kind, "a tar (plain, gzip, zstd, xz, bzip2)")
	}
	compression := intake.CompressionOf(head)
	if packed && compression == intake.Uncompressed {
		compression = intake.Zstd
	}
	file, size, err := in.spool(buffered, compression, files)
	if err == nil && packed {
		err = isTar(file, size)
	}
	if other := (otherContent{}); errors.As(err, &other) {
		return Source{}, fmt.Errorf("%s is %s data of something else than a tar: %w", name, compression, other.error)
	}
	if err != nil {
		return Source{}, fmt.Errorf("reading %s: %w", name, err)
	}
	return in.openTar(files.ctx, file, size)
}

// otherContent is the error for a compressed stream that is not a tar.
type otherContent struct{ error }

// isTar returns an error unless the unpacked file is a tar.
func isTar(f io.ReaderAt, size int64) error {
	kind, err := filekind.OfFile(f, size)
	if err != nil || kind == filekind.Tar {
		return err
	}
	head := make([]byte, min(size, intake.TarBlock))
	if _, err := f.ReadAt(head, 0); err != nil {
		return err
	}
	if kind == filekind.Unknown && (isOldTar(head) || len(bytes.Trim(head, "\x00")) == 0) {
		return nil // an empty or truncated tar, which the reader reports
	}
	return otherContent{notARoot("the unpacked file", kind, "a tar")}
}

func (in Input) openTar(ctx context.Context, r io.ReaderAt, size int64) (Source, error) {
	reader := in.reader()
	if err := reader.ReadTar(ctx, r, size); err != nil {
		return Source{}, err
	}
	if in.Image != "" {
		return Source{}, fmt.Errorf("a tar is not an OCI image layout, so it has no image %q to choose", in.Image)
	}
	return in.finish(reader)
}

func (in Input) finish(reader *intake.Reader) (Source, error) {
	tree := reader.Tree
	if err := reader.Check(); err != nil {
		return Source{}, fmt.Errorf("leaving out: %w", err)
	}
	for _, pattern := range in.Exclude {
		count, err := tree.Exclude(pattern)
		if err != nil {
			return Source{}, fmt.Errorf("excluding: %w", err)
		}
		if count == 0 {
			return Source{}, fmt.Errorf("excluding: pattern %q matches no file", pattern)
		}
	}
	if tree.Empty() {
		return Source{}, errors.New("it has no files")
	}
	if err := intake.CheckRoot(tree); err != nil {
		return Source{}, err
	}
	notes, err := survey.Notes(tree, in.Filesystems...)
	if err != nil {
		return Source{}, fmt.Errorf("inspecting the root: %w", err)
	}
	init := survey.Init(notes)
	if err := in.seen(Summary{Memory: tree.Memory(), Notes: append(mountNotes(reader.Mounts()), notes...)}); err != nil {
		return Source{}, err
	}
	return Tree(tree, init)
}

func (in Input) seen(s Summary) error {
	if in.Seen == nil {
		return nil
	}
	return in.Seen(s)
}

// lookInto inspects the files of a finished filesystem. If that fails, it adds a note, because
// the kernel may know more of the format.
func (in Input) lookInto(ctx context.Context, s Source) (Source, error) {
	notes, err := in.finishedNotes(ctx, s)
	if ctx.Err() != nil {
		return Source{}, ctx.Err()
	}
	if s.init = survey.Init(notes); err != nil {
		s.init = pins.InitUnseen
		notes = []survey.Note{{Name: "unseen", Text: fmt.Sprintf("the %s filesystem was not inspected (%v): it is unknown whether a VM boots from it", s.filesystem, err)}}
	}
	return s, in.seen(Summary{Notes: notes})
}

// finishedNotes reads and inspects the tree of a finished filesystem.
func (in Input) finishedNotes(ctx context.Context, s Source) ([]survey.Note, error) {
	reader := intake.Reader{Tree: rootfs.New()}
	var err error
	switch s.filesystem {
	case pins.EROFS:
		err = reader.ReadEROFS(ctx, s.finished)
	case pins.Ext4:
		err = reader.ReadExt4(ctx, s.finished)
	default:
		err = errors.New("no reader for it is built in")
	}
	if err != nil {
		return nil, err
	}
	return survey.Notes(reader.Tree, in.Filesystems...)
}

// mountNotes reports the mounts in a directory that is a root.
func mountNotes(mounts []intake.Mount) []survey.Note {
	var notes []survey.Note
	for _, m := range mounts {
		text := fmt.Sprintf("%s is mounted at %q, and its files become part of the root", m.Type, m.Name)
		if m.Left {
			text = fmt.Sprintf("%s is mounted at %q: the directory is left empty, because its content belongs to the running machine", m.Type, m.Name)
		}
		notes = append(notes, survey.Note{Name: "mount", Text: text})
	}
	return notes
}

// spool unpacks r into a temporary file without a name.
func (in Input) spool(r io.Reader, compression intake.Compression, files *opened) (io.ReaderAt, int64, error) {
	f, err := os.CreateTemp(in.TempDir, "rootvouch-*.tar")
	if err != nil {
		return nil, 0, err
	}
	files.add(f)
	if err := os.Remove(f.Name()); err != nil {
		return nil, 0, err
	}
	unpacked, err := compression.Unpack(r)
	if err != nil {
		return nil, 0, err
	}
	defer unpacked.Close()
	// If the stream is not a tar, stop before unpacking all of it, which may be long.
	buffered := bufio.NewReaderSize(unpacked, 1<<20)
	head, err := buffered.Peek(filekind.HeadSize)
	if kind := filekind.Of(head); kind != filekind.Unknown && kind != filekind.Tar {
		return nil, 0, otherContent{notARoot("the unpacked file", kind, "a tar")}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	size, err := io.Copy(f, &counter{untilDone{files.ctx, buffered}, 0, in.Unpacking})
	return f, size, err
}

// isOldTar recognises a tar from before ustar, which has no magic, by the checksum of its first
// header.
func isOldTar(head []byte) bool {
	if len(head) < intake.TarBlock {
		return false
	}
	const start, end = 148, 156 // of the checksum, which counts as spaces
	want, err := strconv.ParseUint(strings.Trim(string(head[start:end]), " \x00"), 8, 32)
	if err != nil {
		return false
	}
	sum := uint64((end - start) * ' ')
	for i, c := range head[:intake.TarBlock] {
		if i < start || i >= end {
			sum += uint64(c)
		}
	}
	return sum == want
}
