package bootconfig

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/pins"
)

// MaxVolumes is how many volumes a VM may have.
const MaxVolumes = 8

const maxMountPoint = 255 // bytes

// ours are directories of the booted system that PID 1 or the kernel has filled.
var ours = []string{"/proc", "/sys", "/dev", "/run", "/etc"}

// checkVolumes returns every fault of the volumes at once, or nil. If one mount
// point is below another, its volume must come later in the list.
func (c Config) checkVolumes() error {
	var errs []error
	if len(c.Volumes) > MaxVolumes {
		errs = append(errs, fmt.Errorf("got %d volumes, want at most %d", len(c.Volumes), MaxVolumes))
	}
	if c.Volumes != nil && len(c.Volumes) == 0 {
		errs = append(errs, errors.New("list is empty, want none or at least one volume"))
	}
	for i, v := range c.Volumes {
		if c.Disk.Header != nil && v.UUID == c.Disk.Header.DiskUUID {
			errs = append(errs, fmt.Errorf("volume %d: uuid %s is the root disk's", i, v.UUID))
		}
	}
	return errors.Join(append(errs, CheckVolumes(c.Volumes))...)
}

// CheckVolumes returns every fault that volumes have among themselves, or nil.
func CheckVolumes(all []Volume) error {
	var errs []error
	for i, v := range all {
		if err := v.check(); err != nil {
			errs = append(errs, fmt.Errorf("volume %d: %v", i, err))
		}
		for _, earlier := range all[:i] {
			switch {
			case earlier.UUID == v.UUID:
				errs = append(errs, fmt.Errorf("uuid %s occurs twice", v.UUID))
			case within(earlier.MountPoint, v.MountPoint):
				errs = append(errs, fmt.Errorf("volume %d: mount_point %q is at or above %q, which is mounted before it", i, v.MountPoint, earlier.MountPoint))
			}
		}
	}
	return errors.Join(errs...)
}

func (v Volume) check() error {
	switch {
	case v.UUID == pins.UUID{}:
		return errors.New("uuid is all zero")
	case v.Filesystem != Ext4 && v.Filesystem != XFS && v.Filesystem != Btrfs:
		return fmt.Errorf("filesystem is %q, want %q, %q or %q", v.Filesystem, Ext4, XFS, Btrfs)
	}
	return checkMountPoint(v.MountPoint)
}

// leastSizes are the least sizes that the filesystems' own programs accept, in
// bytes: mkfs.xfs 6.1.0 ("Filesystem must be larger than 300MB") and mkfs.btrfs 6.2
// ("minimum size for each btrfs device is 114294784"). ext4 takes every size that a
// volume can have.
var leastSizes = map[VolumeFilesystem]uint64{XFS: 300 << 20, Btrfs: 109 << 20}

// CheckSize returns an error if a volume with data bytes of data is too small for
// the filesystem.
func (f VolumeFilesystem) CheckSize(data uint64) error {
	if least := leastSizes[f]; data < least {
		return fmt.Errorf("volume has %d bytes of data, want at least %d for %s", data, least, f)
	}
	return nil
}

// checkMountPoint accepts an absolute path of letters, digits and ".-_", which
// needs no quotes in any file.
func checkMountPoint(p string) error {
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_/"
	if len(p) > maxMountPoint || !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.Trim(p, alphabet) != "" {
		return fmt.Errorf("mount_point is %.300q, want a clean absolute path of letters, digits and .-_ below /", p)
	}
	if slices.ContainsFunc(ours, func(dir string) bool { return within(p, dir) }) {
		return fmt.Errorf("mount_point is %q, want one outside of %s", p, strings.Join(ours, ", "))
	}
	return nil
}

// within reports whether p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
