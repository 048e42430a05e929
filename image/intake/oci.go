package intake

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/internal/bounded"
)

// Spool unpacks a stream into something that can be read anywhere.
type Spool func(r io.Reader, compression Compression) (io.ReaderAt, int64, error)

// maxDocument bounds an index, a manifest or a configuration, in bytes.
const maxDocument = 4 << 20

// ReadOCI adds the root filesystem of an OCI image layout (OCI Image Spec 1.1,
// image-layout.md). Layers are applied in order, whiteouts included. Every blob
// must have the digest and size that its descriptor says. Reading stops when ctx
// ends.
//
// A layout may hold several images. Reader.Image chooses one by its tag, by a
// digest or by its platform (such as linux/amd64); if it is empty, the only one
// for linux/amd64 is taken. An image for another platform is taken only if its
// digest or its platform was asked for. ReadOCI returns a *ChoiceError if there is
// not exactly one.
func (r *Reader) ReadOCI(ctx context.Context, dir string, spool Spool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	l := ociLayout{root, spool}
	if err := l.read(ctx, r); err != nil {
		return fmt.Errorf("reading OCI image layout %s: %w", dir, err)
	}
	return nil
}

type ociLayout struct {
	root  *os.Root
	spool Spool
}

func (l ociLayout) read(ctx context.Context, r *Reader) error {
	var layout struct {
		Version string `json:"imageLayoutVersion"`
	}
	data, err := l.readFile("oci-layout")
	if err == nil {
		err = json.Unmarshal(data, &layout)
	}
	if err != nil {
		return fmt.Errorf("oci-layout: %w", err)
	}
	if layout.Version != "1.0.0" {
		return fmt.Errorf("imageLayoutVersion is %q, want %q", layout.Version, "1.0.0")
	}
	index, err := l.readFile("index.json")
	if err != nil {
		return err
	}
	images, err := l.images(index, "", 0)
	if err != nil {
		return err
	}
	chosen, err := choose(images, r.Image)
	if err != nil {
		return err
	}
	m, err := l.manifest(chosen.descriptor)
	if err != nil {
		return err
	}
	if len(m.Layers) == 0 {
		return errors.New("the image has no layers")
	}
	for i, layer := range m.Layers {
		if err := l.layer(ctx, r, layer); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

// document reads an index, a manifest or a configuration.
func (l ociLayout) document(d descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > maxDocument {
		return nil, fmt.Errorf("%s has %d bytes, want at most %d", d.Digest, d.Size, maxDocument)
	}
	blob, err := l.open(d)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	return io.ReadAll(blob)
}

// layer applies a layer. Its compression is told by its content, as tools do that
// unpack images: the media type is wrong now and then, the digest never.
func (l ociLayout) layer(ctx context.Context, r *Reader, d descriptor) error {
	if !isLayer(d.MediaType) {
		return fmt.Errorf("mediaType is %q, want %s or that with +gzip or +zstd", d.MediaType, mediaLayer)
	}
	blob, err := l.open(d)
	if err != nil {
		return err
	}
	defer blob.Close()
	buffered := bufio.NewReaderSize(blob, 1<<20)
	head, err := buffered.Peek(TarBlock)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	data, size, err := l.spool(buffered, CompressionOf(head))
	if err != nil {
		return err
	}
	// The blob may go on behind the compressed stream; it must be read for its
	// digest to be checked.
	if rest, err := io.Copy(io.Discard, buffered); err != nil {
		return err
	} else if rest > 0 {
		return fmt.Errorf("%d bytes follow the compressed tar", rest)
	}
	return r.readLayer(ctx, data, size)
}

// open opens a blob, whose end is an error unless size and digest are right.
func (l ociLayout) open(d descriptor) (*blob, error) {
	digest, ok := strings.CutPrefix(d.Digest, "sha256:")
	want, err := hex.DecodeString(digest)
	if !ok || err != nil || len(want) != sha256.Size || digest != hex.EncodeToString(want) {
		return nil, fmt.Errorf("digest is %q, want sha256 in lower-case hex", d.Digest)
	}
	f, size, err := l.openFile(filepath.Join("blobs", "sha256", digest))
	if err != nil {
		return nil, err
	}
	if size != d.Size {
		f.Close()
		return nil, fmt.Errorf("blob %s has %d bytes, want %d", d.Digest, size, d.Size)
	}
	return newBlob(f, [sha256.Size]byte(want)), nil
}

// openFile opens a regular file of the layout; nothing outside of it, and nothing
// that somebody would have to write to.
func (l ociLayout) openFile(name string) (f *os.File, size int64, err error) {
	f, err = l.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if info, lstat := l.root.Lstat(name); lstat == nil && info.Mode()&os.ModeSymlink != 0 {
			return nil, 0, fmt.Errorf("%w: a link may lead to a file inside the layout only; cp -rL makes a layout of files", err)
		}
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is %v, want a regular file", name, info.Mode())
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// readFile reads a document of the layout that no descriptor names.
func (l ociLayout) readFile(name string) ([]byte, error) {
	f, size, err := l.openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > maxDocument {
		return nil, fmt.Errorf("%s has %d bytes, want at most %d", name, size, maxDocument)
	}
	return bounded.Read(f, maxDocument)
}
