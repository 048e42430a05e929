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

// Spool unpacks a stream into a file that allows random access.
type Spool func(r io.Reader, compression Compression) (io.ReaderAt, int64, error)

// maxDocument bounds an index, a manifest or a configuration, in bytes.
const maxDocument = 4 << 20

// ReadOCI adds the root filesystem of an OCI image layout (OCI Image Spec 1.1,
// image-layout.md). Layers are applied in order, whiteouts included. Every blob
// must have the digest and size that its descriptor says. Reading stops when ctx
// ends.
//
// A layout may hold several images. Reader.Image chooses one by its tag, its digest or its
// platform (such as linux/amd64). If it is empty, ReadOCI takes the only image for linux/amd64.
// ReadOCI takes an image for another platform only if Reader.Image is its digest or its
// platform. If not exactly one image matches, ReadOCI returns a *ChoiceError.
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

// layer applies a layer. It recognises the compression from the content, as common tools do,
// because the media type is sometimes wrong. The digest protects the content.
func (l ociLayout) layer(ctx context.Context, r *Reader, d descriptor) error {
	if !isLayer(d.MediaType) {
		return fmt.Errorf("mediaType is %q, want %s, alone or with +gzip or +zstd", d.MediaType, mediaLayer)
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
	// The blob may continue after the compressed stream. It must be read to its end to check
	// its digest.
	if rest, err := io.Copy(io.Discard, buffered); err != nil {
		return err
	} else if rest > 0 {
		return fmt.Errorf("%d bytes follow the compressed tar", rest)
	}
	return r.readLayer(ctx, data, size)
}

// open opens a blob. Reading its end fails unless size and digest are right.
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

// openFile opens a regular file of the layout. It refuses links out of the layout, and files
// such as pipes, which wait for a writer.
func (l ociLayout) openFile(name string) (f *os.File, size int64, err error) {
	f, err = l.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if info, lstat := l.root.Lstat(name); lstat == nil && info.Mode()&os.ModeSymlink != 0 {
			return nil, 0, fmt.Errorf("%w: a link may lead only to a file inside the layout; cp -rL makes a layout without links", err)
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

// readFile reads a document of the layout that has no descriptor.
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
