package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// renameNew renames a file. It fails if the new name exists.
func renameNew(from, to string) error {
	// link(2) fails if the name exists, where rename(2) would replace it. Some file systems
	// have no links, but have renameat2(2) with RENAME_NOREPLACE.
	err := os.Link(from, to)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
		if renamed := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); renamed != nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: renamed}
		}
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(from)
}

// createUnnamed opens a file without a name in the directory of path (O_TMPFILE), with the
// permissions 0600. It returns nil if the file system does not support that, or does not allow
// naming the file later.
func createUnnamed(path string) *os.File {
	fd, err := unix.Open(filepath.Dir(path), unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), path) // path appears in errors
	if _, err := os.Stat(self(f)); err != nil {
		f.Close()
		return nil
	}
	return f
}

// linkUnnamed gives f, a file without a name, a new name. It fails if the name exists.
func linkUnnamed(f *os.File, to string) error {
	if err := unix.Linkat(unix.AT_FDCWD, self(f), unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.PathError{Op: "create", Path: to, Err: err}
	}
	return nil
}

func reopen(f *File, flag int) (*os.File, error) { return os.OpenFile(self(f.File), flag, 0) }

// self returns a path of f that works without a name (proc(5)).
func self(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
