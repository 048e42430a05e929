package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNew gives a file a name that is not taken, and fails on one that is.
func renameNew(from, to string) error {
	// link(2) fails on an existing name where rename(2) would replace it. Some
	// file systems have no links, but renameat2(2) with RENAME_NOREPLACE.
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
