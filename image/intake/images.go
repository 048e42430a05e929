package intake

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// descriptor is an OCI content descriptor (OCI Image Spec 1.1, descriptor.md). Members that do
// not matter to the root filesystem are left out.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations"`
	Platform     *ociPlatform      `json:"platform"`
}

// ociPlatform is the platform of an image (image-index.md, and config.md).
type ociPlatform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (p ociPlatform) String() string {
	if p.OS == "" && p.Architecture == "" {
		return "an unknown platform"
	}
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text
}

// guest reports whether a VM on AMD's processors can run such an image. An image without a
// platform passes.
func (p ociPlatform) guest() bool {
	return (p.OS == "linux" || p.OS == "") && (p.Architecture == "amd64" || p.Architecture == "")
}

// Media types, with Docker's types of the same form (OCI Image Spec 1.1, media-types.md,
// "Compatibility Matrix").
const (
	mediaIndex     = "application/vnd.oci.image.index.v1+json"
	mediaManifest  = "application/vnd.oci.image.manifest.v1+json"
	mediaLayer     = "application/vnd.oci.image.layer.v1.tar"
	foreignLayer   = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	dockerForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar"
)

// isLayer reports whether a media type is that of a layer, compressed or not.
func isLayer(media string) bool {
	for _, layer := range []string{mediaLayer, foreignLayer, dockerLayer, dockerForeign} {
		if rest, ok := strings.CutPrefix(media, layer); ok && slices.Contains([]string{"", "+gzip", "+zstd", ".gzip", ".zstd"}, rest) {
			return true
		}
	}
	return false
}

// isIndex reports whether d is a list of images.
func (d descriptor) isIndex() bool { return d.MediaType == mediaIndex || d.MediaType == dockerIndex }

// isAttestation reports whether d is an attestation manifest. BuildKit puts one into an index
// beside each image: statements about the image in the form of an image, without a root
// filesystem (BuildKit, docs/attestations/attestation-storage.md).
func (d descriptor) isAttestation() bool {
	return d.Annotations["vnd.docker.reference.type"] == "attestation-manifest"
}

// ociImage is one image of a layout.
type ociImage struct {
	descriptor
	tag      string // "" if it has none
	platform ociPlatform
	artifact bool // such as a signature, without layers of a root filesystem
}

func (i ociImage) String() string {
	text := i.platform.String() + " " + i.Digest
	if i.tag != "" {
		text = i.tag + " " + text
	}
	return text
}

// maxDepth bounds the nesting of indexes: the layout's own, one of tags, and one of platforms.
const maxDepth = 3

// ociManifest is an image (OCI Image Spec 1.1, manifest.md).
type ociManifest struct {
	ArtifactType string       `json:"artifactType"`
	Config       descriptor   `json:"config"`
	Layers       []descriptor `json:"layers"`
}

// manifest reads the manifest of an image.
func (l ociLayout) manifest(d descriptor) (m ociManifest, err error) {
	if d.MediaType != mediaManifest && d.MediaType != dockerManifest {
		return m, fmt.Errorf("mediaType is %q, want %q", d.MediaType, mediaManifest)
	}
	data, err := l.document(d)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

// images lists the images of an index and of the indexes in it.
func (l ociLayout) images(index []byte, tag string, depth int) ([]ociImage, error) {
	if depth >= maxDepth {
		return nil, errors.New("index lies more than two indexes deep")
	}
	var list struct {
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(index, &list); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	var images []ociImage
	for _, d := range list.Manifests {
		if d.isAttestation() {
			continue
		}
		name := tag
		if own := d.Annotations["org.opencontainers.image.ref.name"]; own != "" {
			name = own
		}
		switch {
		case d.isIndex():
			data, err := l.document(d)
			if err != nil {
				return nil, err
			}
			below, err := l.images(data, name, depth+1)
			if err != nil {
				return nil, err
			}
			images = append(images, below...)
		case d.MediaType == mediaManifest || d.MediaType == dockerManifest:
			image, err := l.image(d, name)
			if err != nil {
				return nil, err
			}
			images = append(images, image)
		default: // an unknown kind is not an error (image-index.md, "mediaType")
			images = append(images, ociImage{descriptor: d, tag: name, artifact: true})
		}
	}
	return images, nil
}

// image returns an image with its platform. If the index has the platform, nothing else of the
// image is read, because a layout may lack the blobs of other platforms.
func (l ociLayout) image(d descriptor, tag string) (ociImage, error) {
	image := ociImage{descriptor: d, tag: tag}
	if d.Platform != nil {
		image.platform, image.artifact = *d.Platform, d.ArtifactType != ""
		return image, nil
	}
	m, err := l.manifest(d)
	if err != nil {
		return image, err
	}
	isOne := slices.ContainsFunc(m.Layers, func(d descriptor) bool { return isLayer(d.MediaType) })
	image.artifact = d.ArtifactType != "" || m.ArtifactType != "" || len(m.Layers) > 0 && !isOne
	if image.artifact || m.Config.Digest == "" {
		return image, nil
	}
	config, err := l.document(m.Config)
	if err == nil {
		err = json.Unmarshal(config, &image.platform)
	}
	if err != nil {
		return image, fmt.Errorf("configuration of %s: %w", d.Digest, err)
	}
	return image, nil
}

// choose returns the image that want names: see ReadOCI.
func choose(images []ociImage, want string) (ociImage, error) {
	if slices.ContainsFunc(images, func(i ociImage) bool { return !i.artifact }) {
		images = slices.DeleteFunc(images, func(i ociImage) bool { return i.artifact })
	}
	var chosen []ociImage
	for _, i := range images {
		meant := want == i.Digest || want == i.platform.String()
		meant = meant || i.platform.guest() && (want == "" || want == i.tag)
		if meant && !slices.ContainsFunc(chosen, func(other ociImage) bool { return other.Digest == i.Digest }) {
			chosen = append(chosen, i)
		}
	}
	if len(chosen) == 1 {
		return chosen[0], nil
	}
	if len(images) == 0 {
		return ociImage{}, errors.New("the index names no image")
	}
	if want == "" {
		want = "linux/amd64"
	}
	var list strings.Builder
	for _, i := range images {
		list.WriteString("\n  " + i.String())
	}
	return ociImage{}, &ChoiceError{fmt.Sprintf("%d images are for %s, want 1. There are:%s", len(chosen), want, list.String())}
}

// ChoiceError says that an OCI layout has no image, or several images, that match the request.
// It lists all images.
type ChoiceError struct{ text string }

func (e *ChoiceError) Error() string { return e.text }
