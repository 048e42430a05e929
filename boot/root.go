package boot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Where the root filesystem is put together; all three are directories of the
// initramfs.
const (
	lowerDir = "/lower"   // the verified filesystem
	upperDir = "/upper"   // a tmpfs that takes what the booted system writes
	newRoot  = "/newroot" // both, one over the other
)

// mountRoot mounts the verified filesystem read-only and puts a tmpfs over it.
// What is written goes there and is gone with the power. The two mounts below
// the overlay are then taken out of sight; the overlay keeps them.
func mountRoot(device, filesystem string) (string, error) {
	for _, mnt := range []mount{
		{device, lowerDir, filesystem, unix.MS_RDONLY, ""},
		{"tmpfs", upperDir, "tmpfs", 0, "mode=0700"},
	} {
		if err := mnt.do(); err != nil {
			return "", err
		}
	}
	data, work := upperDir+"/data", upperDir+"/work"
	for _, dir := range []string{data, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", fmt.Errorf("preparing overlay: %w", err)
		}
	}
	if err := copyAttributes(data, lowerDir); err != nil {
		return "", err
	}
	overlay := mount{"rootvouch", newRoot, "overlay", 0,
		fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lowerDir, data, work)}
	if err := overlay.do(); err != nil {
		return "", err
	}
	for _, dir := range []string{lowerDir, upperDir} {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return "", fmt.Errorf("detaching %s: %w", dir, err)
		}
	}
	return filesystem + " read-only under a tmpfs overlay", nil
}

// copyAttributes gives one directory the owner and mode of another: the root
// directory of an overlay takes them from its upper layer.
func copyAttributes(to, from string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return fmt.Errorf("reading attributes of the root directory: %w", err)
	}
	if err := os.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("setting attributes of the root directory: %w", err)
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return fmt.Errorf("setting attributes of the root directory: %w", err)
	}
	return nil
}
