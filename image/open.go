package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/rootvouch/rootvouch/image/intake"
	"github.com/rootvouch/rootvouch/image/rootfs"
	"github.com/rootvouch/rootvouch/image/survey"
)

// Input is a root filesystem as a user names it.
type Input struct {
	Path    string    // directory, OCI image layout, tar or filesystem image; "-" is Stdin
	Stdin   io.Reader // a tar
	Exclude []string  // patterns of rootfs.Tree.Exclude
	TempDir string    // for what has to be unpacked; "" is the system's

	// Unpacking, when not nil, is told now and then how many bytes of a tar that
	// has to be unpacked there are so far.
	Unpacking func(done uint64)
	// Seen, when not nil, is told about a tree that was read, before it is laid
	// out. Finished filesystems are not looked into.
	Seen func(Summary)
}

// Summary is what a user should know about a tree.
type Summary struct {
	Memory        int64    // bytes that building takes for it, about
	Hidden        int      // files as survey.Hidden counts them
	HiddenExample string   // one of them
	Init          bool     // there is an init to hand over to, as survey.HasInit knows it
	Doors         []string // programs that listen to the host, as survey.Doors names them
}

// Open recognises the input by its contents. The source reads from it until it
// is closed. Opening stops when ctx ends.
func Open(ctx context.Context, in Input) (Source, func(), error) {
	files := opened{ctx: ctx}
	source, err := in.open(&files)
	if err != nil {
		files.close()
		return Source{}, nil, err
	}
	return source, files.close, nil
}

// opened is what has to be closed at the end.
type opened struct {
	ctx   context.Context
	files []io.Closer
}

func (o *opened) add(f io.Closer) { o.files = append(o.files, f) }

func (o *opened) close() {
	for _, file := range o.files {
		file.Close() // read only, or unnamed
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

// counter is a reader that tells how much was read of it.
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

// stalling returns r such that reading fails when ctx ends, although a Read may
// be waiting for somebody who writes nothing. That Read goes on, and nobody waits
// for it, until what it reads ends or the process does.
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
	head := make([]byte, headSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Source{}, err
	}
	switch kind := recognise(head[:n]); kind {
	case kindGzip, kindZstd:
		return in.openStream(f, in.Path, files)
	case kindTar:
		return in.openTar(files.ctx, f, info.Size())
	case kindEROFS, kindSquashFS, kindExt4:
		if len(in.Exclude) > 0 {
			return Source{}, fmt.Errorf("%s is a finished filesystem: nothing can be excluded from it", in.Path)
		}
		source, err := finished(f, info.Size(), kind, head[:n])
		if err != nil {
			return Source{}, fmt.Errorf("checking %s: %w", in.Path, err)
		}
		return source, nil
	}
	return Source{}, fmt.Errorf("%s is neither a tar (plain, gzip, zstd) nor an EROFS, squashfs or ext4 filesystem", in.Path)
}

func (in Input) openDirectory(files *opened) (Source, error) {
	tree := rootfs.New()
	_, err := os.Stat(filepath.Join(in.Path, "oci-layout"))
	switch {
	case err == nil:
		spool := func(r io.Reader, compression intake.Compression) (io.ReaderAt, int64, error) {
			return in.spool(r, compression, files)
		}
		err = intake.ReadOCI(files.ctx, tree, in.Path, spool)
	case errors.Is(err, fs.ErrNotExist):
		var dir io.Closer
		if dir, err = intake.ReadDir(files.ctx, tree, in.Path); err == nil {
			files.add(dir)
		}
	}
	if err != nil {
		return Source{}, err
	}
	return in.finish(tree)
}

// openStream reads a tar from something that cannot be read twice, or is
// compressed, into an unnamed temporary file.
func (in Input) openStream(r io.Reader, name string, files *opened) (Source, error) {
	steady := stalling(files.ctx, r)
	files.add(steady)
	buffered := bufio.NewReaderSize(steady, 1<<20)
	head, err := buffered.Peek(headSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return Source{}, fmt.Errorf("reading %s: %w", name, err)
	}
	compression := intake.Uncompressed
	switch recognise(head) {
	case kindTar:
	case kindGzip:
		compression = intake.Gzip
	case kindZstd:
		compression = intake.Zstd
	default:
		return Source{}, fmt.Errorf("%s is not a tar (plain, gzip, zstd)", name)
	}
	file, size, err := in.spool(buffered, compression, files)
	if err != nil {
		return Source{}, fmt.Errorf("reading %s: %w", name, err)
	}
	return in.openTar(files.ctx, file, size)
}

func (in Input) openTar(ctx context.Context, r io.ReaderAt, size int64) (Source, error) {
	tree := rootfs.New()
	if err := intake.ReadTar(ctx, tree, r, size); err != nil {
		return Source{}, err
	}
	if intake.IsOCILayout(tree) {
		return Source{}, errors.New("the tar holds an OCI image layout, not a root file tree: unpack it and name the directory")
	}
	return in.finish(tree)
}

func (in Input) finish(tree *rootfs.Tree) (Source, error) {
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
		return Source{}, errors.New("there are no files in it")
	}
	if in.Seen != nil {
		hidden, example := survey.Hidden(tree)
		in.Seen(Summary{Memory: tree.Memory(), Hidden: hidden, HiddenExample: example, Init: survey.HasInit(tree), Doors: survey.Doors(tree)})
	}
	return Tree(tree)
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
	unpacked := r
	switch compression {
	case intake.Gzip:
		g, err := gzip.NewReader(r)
		if err != nil {
			return nil, 0, err
		}
		unpacked = g
	case intake.Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, 0, err
		}
		defer z.Close()
		unpacked = z
	}
	size, err := io.Copy(f, &counter{untilDone{files.ctx, unpacked}, 0, in.Unpacking})
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = fmt.Errorf("zstd window of more than %d bytes: pack it without --long and --ultra", maxWindow)
	}
	return f, size, err
}

// maxWindow bounds what unpacking zstd keeps in memory, in bytes.
const maxWindow = 64 << 20

// kind is what a file is, by its first bytes.
type kind int

const (
	kindUnknown kind = iota
	kindTar
	kindGzip
	kindZstd
	kindEROFS
	kindSquashFS
	kindExt4
)

// headSize is how many bytes recognise wants.
const headSize = 4096

func recognise(head []byte) kind {
	at := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && bytes.Equal(head[offset:offset+len(magic)], []byte(magic))
	}
	switch {
	case at(0, "\x1f\x8b"):
		return kindGzip
	case at(0, "\x28\xb5\x2f\xfd"), at(1, "\x2a\x4d\x18") && head[0]>>4 == 5: // or a skippable frame first
		return kindZstd
	case at(257, "ustar"):
		return kindTar
	case at(erofsAt, erofsMagic):
		return kindEROFS
	case at(0, squashfsMagic):
		return kindSquashFS
	case at(ext4At+0x38, ext4Magic):
		return kindExt4
	case isOldTar(head):
		return kindTar
	}
	return kindUnknown
}

// isOldTar recognises a tar of the time before ustar, which has no magic, by the
// checksum of its first header.
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
