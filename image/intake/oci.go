package intake

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/image/rootfs"
)

// Compression is how a tar is packed.
type Compression string

// The compressions of tars.
const (
	Uncompressed Compression = ""
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
)

// Spool unpacks a stream into something that can be read anywhere.
type Spool func(r io.Reader, compression Compression) (io.ReaderAt, int64, error)

// descriptor is an OCI content descriptor (OCI Image Spec 1.1, descriptor.md);
// members that say nothing about the root filesystem are not read.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
}

// Media types, and Docker's of the same form (OCI Image Spec 1.1,
// media-types.md, "Compatibility Matrix").
const (
	mediaIndex     = "application/vnd.oci.image.index.v1+json"
	mediaManifest  = "application/vnd.oci.image.manifest.v1+json"
	mediaLayer     = "application/vnd.oci.image.layer.v1.tar"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"

	maxDocument = 4 << 20 // bytes of an index or manifest
)

// isIndex tells whether d is a list of images.
func (d descriptor) isIndex() bool { return d.MediaType == mediaIndex || d.MediaType == dockerIndex }

// isAttestation tells whether d is what BuildKit puts into an index beside each
// image: statements about it in the form of an image, without a root filesystem
// (BuildKit, docs/attestations/attestation-storage.md).
func (d descriptor) isAttestation() bool {
	return d.Annotations["vnd.docker.reference.type"] == "attestation-manifest"
}

// ReadOCI adds the root filesystem of an OCI image layout (OCI Image Spec 1.1,
// image-layout.md): one image for one platform. Layers are applied in order,
// whiteouts included. Every blob must have the digest and size that its
// descriptor says. Reading stops when ctx ends.
func ReadOCI(ctx context.Context, t *rootfs.Tree, dir string, spool Spool) error {
	l := ociLayout{dir, spool}
	if err := l.read(ctx, t); err != nil {
		return fmt.Errorf("reading OCI image layout %s: %w", dir, err)
	}
	return nil
}

// IsOCILayout tells whether the files of t are those of an OCI image layout: an
// archive of one is a tar like others, and what is in it no root filesystem.
func IsOCILayout(t *rootfs.Tree) bool {
	for _, name := range []string{"oci-layout", "index.json", "blobs"} {
		if _, err := t.Lookup(name); err != nil {
			return false
		}
	}
	return true
}

type ociLayout struct {
	dir   string
	spool Spool
}

func (l ociLayout) read(ctx context.Context, t *rootfs.Tree) error {
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
	d := descriptor{MediaType: mediaIndex}
	for depth := 0; d.isIndex(); depth++ {
		if depth > 2 {
			return errors.New("indexes within indexes")
		}
		var list struct {
			Manifests []descriptor `json:"manifests"`
		}
		if err := json.Unmarshal(index, &list); err != nil {
			return fmt.Errorf("index: %w", err)
		}
		list.Manifests = slices.DeleteFunc(list.Manifests, descriptor.isAttestation)
		if len(list.Manifests) != 1 {
			return fmt.Errorf("got %d images or platforms, want 1", len(list.Manifests))
		}
		d = list.Manifests[0]
		if index, err = l.document(d); err != nil {
			return err
		}
	}
	if d.MediaType != mediaManifest && d.MediaType != dockerManifest {
		return fmt.Errorf("mediaType is %q, want %q", d.MediaType, mediaManifest)
	}
	var manifest struct {
		Layers []descriptor `json:"layers"`
	}
	if err := json.Unmarshal(index, &manifest); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if len(manifest.Layers) == 0 {
		return errors.New("the image has no layers")
	}
	for i, layer := range manifest.Layers {
		if err := l.layer(ctx, t, layer); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

// document reads an index or a manifest.
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

func (l ociLayout) layer(ctx context.Context, t *rootfs.Tree, d descriptor) error {
	compression, ok := map[string]Compression{
		mediaLayer: Uncompressed, mediaLayer + "+gzip": Gzip, mediaLayer + "+zstd": Zstd,
		dockerLayer: Uncompressed, dockerLayer + ".gzip": Gzip,
	}[d.MediaType]
	if !ok {
		return fmt.Errorf("mediaType is %q, want %s or that with +gzip or +zstd", d.MediaType, mediaLayer)
	}
	blob, err := l.open(d)
	if err != nil {
		return err
	}
	defer blob.Close()
	data, size, err := l.spool(blob, compression)
	if err != nil {
		return err
	}
	// The blob may go on behind the compressed stream; it must be read for its
	// digest to be checked.
	if rest, err := io.Copy(io.Discard, blob); err != nil {
		return err
	} else if rest > 0 {
		return fmt.Errorf("%d bytes follow the compressed tar", rest)
	}
	return readLayer(ctx, t, data, size)
}

// readLayer applies a layer (OCI Image Spec 1.1, layer.md). Whiteouts concern
// lower layers only, so they come first.
func readLayer(ctx context.Context, t *rootfs.Tree, data io.ReaderAt, size int64) error {
	const prefix, opaque = ".wh.", ".wh..wh..opq"
	err := readTar(ctx, data, size, func(e tarEntry) error {
		dir, base := path.Split(path.Clean("/" + e.Name))
		if base == opaque {
			return t.Clear(dir)
		}
		if hidden, ok := strings.CutPrefix(base, prefix); ok {
			if hidden == "" || hidden == "." || hidden == ".." || strings.HasPrefix(hidden, prefix) {
				return fmt.Errorf("%q is no whiteout", e.Name)
			}
			return t.Remove(dir + hidden)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return readTar(ctx, data, size, func(e tarEntry) error {
		if strings.HasPrefix(path.Base(path.Clean("/"+e.Name)), prefix) {
			return nil
		}
		// Between layers a directory may give way to something else.
		if e.Typeflag != tar.TypeDir && e.Typeflag != tar.TypeXGlobalHeader {
			if old, err := t.Lookup(e.Name); err == nil && old.IsDir() && old != t.Root() {
				if err := t.Remove(e.Name); err != nil {
					return err
				}
			}
		}
		return addEntry(t, e)
	})
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
	f, err = os.OpenFile(filepath.Join(l.dir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
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
	return io.ReadAll(io.LimitReader(f, maxDocument))
}
