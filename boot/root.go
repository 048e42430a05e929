package boot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The directories, all in the initramfs, in which the root filesystem is put
// together.
const (
	lowerDir = "/lower"   // the verified filesystem
	upperDir = "/upper"   // a tmpfs for the writes of the booted system
	newRoot  = "/newroot" // both, one over the other
)

// mountRoot mounts the verified filesystem read-only and puts a tmpfs over it. Writes
// go to the tmpfs and are lost when the VM powers off. mountRoot then hides the two
// mounts below the overlay; the overlay keeps them in use.
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

// copyAttributes gives one directory the owner and mode of another. The root
// directory of an overlay takes both from its upper layer.
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
