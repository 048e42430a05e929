// Package survey tells what an owner should know of a file tree before a VM boots
// from it.
package survey

import (
	"path"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/image/rootfs"
)

// doors are programs that take commands or configuration from the machine that a
// VM runs on, and where distributions put them. Dm-verity does not stop them:
// they are part of what was measured, their input is not.
var doors = []struct {
	name  string
	paths []string
}{
	{"cloud-init", []string{"usr/bin/cloud-init", "bin/cloud-init"}},
	{"ignition", []string{"usr/bin/ignition", "usr/lib/dracut/modules.d/30ignition/ignition"}},
	{"qemu-guest-agent", []string{"usr/sbin/qemu-ga", "usr/bin/qemu-ga", "sbin/qemu-ga"}},
}

// credentialsSince is the version of systemd that takes credentials from SMBIOS
// and fw_cfg, unless the command line has systemd.import_credentials=no.
const credentialsSince = 250

// SystemdCredentials is the door's name of a systemd since that version.
const SystemdCredentials = "systemd credentials"

// Doors names the programs of the tree that listen to the host. It knows the
// usual ones by their paths, and no others: none found is no proof.
func Doors(t *rootfs.Tree) []string {
	var found []string
	for _, door := range doors {
		for _, name := range door.paths {
			if _, err := t.Lookup(name); err == nil {
				found = append(found, door.name)
				break
			}
		}
	}
	if systemdVersion(t) >= credentialsSince {
		found = append(found, SystemdCredentials)
	}
	return found
}

// Hidden counts the files that say something to overlayfs, under which a guest mounts
// its root: whiteouts (device 0:0) and what has its attributes. They are kept, and a
// booted VM does not show them as they are. One of them is named.
func Hidden(t *rootfs.Tree) (count int, name string) {
	t.Root().Walk(func(n rootfs.Node) bool {
		if t.Marked(n) {
			count++
			if name == "" || n.Name() < name {
				name = n.Name()
			}
		}
		return true
	})
	return count, name
}

// HasInit tells whether the tree has an init in a place that /sbin/init can mean,
// /sbin being a link or not.
func HasInit(t *rootfs.Tree) bool {
	for _, dir := range []string{"sbin", "usr/sbin", "usr/bin"} {
		if _, err := t.Lookup(path.Join(dir, "init")); err == nil {
			return true
		}
	}
	return false
}

// systemdVersion returns the version of the tree's systemd, by the name of its
// private library, or 0.
func systemdVersion(t *rootfs.Tree) int {
	version := 0
	look := func(name string) {
		dir, err := t.Follow(name)
		if err != nil {
			return
		}
		for _, file := range dir.Children() {
			rest, ok := strings.CutPrefix(path.Base(file.Name()), "libsystemd-shared-")
			if !ok {
				continue
			}
			// libsystemd-shared-257.so, -257.9-1.so, -257.fc42.so
			digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
			if v, err := strconv.Atoi(digits); err == nil {
				version = max(version, v)
			}
		}
	}
	for _, lib := range []string{"usr/lib", "usr/lib64", "lib"} {
		look(path.Join(lib, "systemd"))
		if dir, err := t.Follow(lib); err == nil {
			for _, n := range dir.Children() {
				if name := path.Base(n.Name()); n.IsDir() && strings.Contains(name, "-linux-") { // multiarch
					look(path.Join(lib, name, "systemd"))
				}
			}
		}
	}
	return version
}
