package volumes

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/process"
	"github.com/rootvouch/rootvouch/pins"
	"golang.org/x/sys/unix"
)

// mkfs returns the command that makes a filesystem without asking questions. The
// programs come from the root, which is measured.
func mkfs(f bootconfig.VolumeFilesystem, device string) []string {
	switch f {
	case bootconfig.Ext4:
		return []string{"-q", "-F", device}
	case bootconfig.XFS, bootconfig.Btrfs:
		return []string{"-q", "-f", device}
	}
	panic("volumes: internal error: filesystem " + string(f))
}

// mkfsLog is the file for the output of mkfs.
const mkfsLog = bootconfig.StateDir + "/mkfs.log"

// mkfsOf finds the root's own mkfs, and returns its path and its digest.
func mkfsOf(root string, f bootconfig.VolumeFilesystem) (program string, sum pins.Digest, err error) {
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin"} {
		p := filepath.Join(dir, "mkfs."+string(f))
		file, err := openIn(root, p)
		if err != nil {
			continue
		}
		defer file.Close()
		if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		h := sha256.New()
		if _, err := io.Copy(h, file); err != nil {
			return "", sum, fmt.Errorf("making %s: reading its program: %w", f, err)
		}
		return p, pins.Digest(h.Sum(nil)), nil
	}
	return "", sum, fmt.Errorf("making %s: the root has no mkfs.%s in /usr/sbin, /sbin or /usr/bin", f, f)
}

// openIn opens a file as a process with this root directory would: no symbolic link
// leads out of the root.
func openIn(root, path string) (*os.File, error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// makeFilesystem runs the root's mkfs, in the root.
func makeFilesystem(ctx context.Context, processes *process.Table, root, program string, f bootconfig.VolumeFilesystem, device string) (result error) {
	out, err := os.OpenFile(mkfsLog, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("making %s: %w", f, err)
	}
	defer out.Close()
	// The root has no /dev yet, so it lacks the device's node. mkfs.btrfs looks for
	// mounts of the device in /proc.
	for _, dir := range []string{"/dev", "/proc"} {
		giveBack, err := lend(root, dir)
		if err != nil {
			return fmt.Errorf("making %s: %w", f, err)
		}
		defer func() { result = errors.Join(result, giveBack()) }()
	}
	p, err := processes.Start(process.Command{Path: program, Argv: append([]string{program}, mkfs(f, device)...), Out: out, Root: root})
	if err != nil {
		return err
	}
	status, err := p.Wait(ctx)
	if err != nil {
		return fmt.Errorf("running %s: it did not end in time", program)
	}
	if status != 0 {
		return fmt.Errorf("running %s: %s", program, reason(out, process.Describe(status)))
	}
	return nil
}

// reason returns the first and the last line of mkfs's output: mkfs.xfs prints its
// usage after the reason, and mkfs.btrfs prints notes before it.
func reason(out *os.File, otherwise string) string {
	first, last := process.FirstLine(out, otherwise), process.LastLine(out, otherwise)
	if first == last {
		return last
	}
	return first + " … " + last
}

// lend mounts a directory of PID 1 in the root, and returns a function that
// unmounts it.
func lend(root, dir string) (giveBack func() error, err error) {
	if err := makeDirectories(root, dir); err != nil {
		return nil, err
	}
	at := filepath.Join(root, dir)
	if err := unix.Mount(dir, at, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("lending %s: %w", dir, err)
	}
	return func() error {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("taking %s back: %w", dir, err)
		}
		return nil
	}, nil
}

// mountBelow mounts a volume in the new root. A mount option makes ext4 read-only
// at the first sector that is not authentic; xfs and btrfs do so without an option.
func mountBelow(root string, c bootconfig.Volume, device string) error {
	if err := makeDirectories(root, c.MountPoint); err != nil {
		return fmt.Errorf("mounting %s: %w", c.MountPoint, err)
	}
	options := ""
	if c.Filesystem == bootconfig.Ext4 {
		options = "errors=remount-ro"
	}
	if err := unix.Mount(device, filepath.Join(root, c.MountPoint), string(c.Filesystem), unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", c.Filesystem, c.MountPoint, err)
	}
	return nil
}

// makeDirectories makes the missing directories of a path below root. It follows no
// symbolic link, because a link could lead out of the root.
func makeDirectories(root, path string) error {
	at := root
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		at = filepath.Join(at, part)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is %s in the root filesystem, want a directory", strings.TrimPrefix(at, root), info.Mode().Type())
		}
	}
	return nil
}
