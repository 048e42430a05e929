package intake

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
)

// container is a format whose files contain a root but are not one.
type container struct {
	what string
	step string // how to get the root
	is   func(top) bool
}

// containers are recognised by the files at the top of a tree.
var containers = []container{
	{"an OCI image layout", "unpack the archive and name the directory",
		func(t top) bool { return t.has("oci-layout", "index.json", "blobs") }},
	{"a docker-archive, as docker save and podman save write it", "skopeo copy docker-archive:FILE oci:DIR:TAG makes an OCI image layout, or make a tar of the file tree with docker export",
		func(t top) bool { return t.isDockerArchive() }},
	{"an image of skopeo (dir:)", "skopeo copy dir:DIR oci:LAYOUT:TAG makes an OCI image layout",
		func(t top) bool {
			return t.has("version", "manifest.json") && strings.HasPrefix(t.text("version"), "Directory Transport Version")
		}},
	{"an OCI runtime bundle", "name its directory rootfs",
		func(t top) bool { return t.has("rootfs") && strings.Contains(t.text("config.json"), `"ociVersion"`) }},
	{"an image of LXD or Incus", "name its rootfs: the directory, or the file rootfs.squashfs",
		func(t top) bool { return t.has("metadata.yaml") && (t.has("rootfs") || t.has("rootfs.squashfs")) }},
	{"a virtual appliance (OVA)", "convert its disk with qemu-img convert -O raw, and take the partition out of it: losetup -P makes a device of each",
		func(t top) bool { return t.hasSuffix(".ovf") }},
	{"a disk image for Google Compute Engine", "take the partition out of disk.raw: losetup -P makes a device of each",
		func(t top) bool { return t.has("disk.raw") && len(t.names) <= 2 }},
	{"a Vagrant box", "convert its disk with qemu-img convert -O raw, and take the partition out of it: losetup -P makes a device of each",
		func(t top) bool {
			return t.has("metadata.json") && (t.has("box.img") || t.has("Vagrantfile") || t.hasSuffix(".vmdk"))
		}},
	{"a package of Alpine or Arch Linux", "install it into a directory with the package manager, and name that",
		func(t top) bool { return t.has(".PKGINFO") }},
	{"a Debian package's members", "unpack data.tar",
		func(t top) bool { return t.has("debian-binary") }},
	{"an OSTree repository", "ostree checkout makes a directory of a commit",
		func(t top) bool {
			return t.has("config", "objects", "refs") && strings.Contains(t.text("config"), "[core]")
		}},
}

// CheckRoot returns an error if the files of t belong to a format that contains a root. A disk
// built from such files would not boot.
func CheckRoot(t *rootfs.Tree) error {
	here := top{t, map[string]bool{}}
	for _, n := range t.Root().Children() {
		here.names[path.Base(n.Name())] = true
	}
	if here.names["usr"] || here.names["etc"] || here.names["bin"] {
		return nil // a root, whatever else is beside it
	}
	for _, c := range containers {
		if c.is(here) {
			return fmt.Errorf("the files are %s, not a root file tree: %s", c.what, c.step)
		}
	}
	return nil
}

// top is the content of a tree's top directory.
type top struct {
	tree  *rootfs.Tree
	names map[string]bool
}

func (t top) has(names ...string) bool {
	for _, name := range names {
		if !t.names[name] {
			return false
		}
	}
	return true
}

func (t top) hasSuffix(suffix string) bool {
	for name := range t.names {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// text returns the beginning of a file, or "" if it cannot be read.
func (t top) text(name string) string {
	n, err := t.tree.Follow(name)
	if err != nil || n.Type() != erofs.TypeRegular {
		return ""
	}
	f, err := n.Open()
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument))
	if err != nil {
		return ""
	}
	return string(data)
}

// isDockerArchive looks for the list of images (Docker Image Specification 1.2, "Combined Image
// JSON + Filesystem Changeset Format"), or for the layers of the older format.
func (t top) isDockerArchive() bool {
	var images []struct {
		Config string
		Layers []string
	}
	if t.has("manifest.json") && json.Unmarshal([]byte(t.text("manifest.json")), &images) == nil && len(images) > 0 && len(images[0].Layers) > 0 {
		return true
	}
	if !t.has("repositories") {
		return false
	}
	for name := range t.names {
		if _, err := t.tree.Lookup(path.Join(name, "layer.tar")); err == nil {
			return true
		}
	}
	return false
}
