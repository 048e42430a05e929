package kek

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// readSecret reads a file of Size bytes without any of the forbidden permissions. All checks
// are made on the open file, so nobody can swap the file between check and read.
func readSecret(path string, forbidden os.FileMode) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case info.Mode().Perm()&forbidden != 0:
		return nil, fmt.Errorf("%s has mode %04o, want no bit of %04o", path, info.Mode().Perm(), forbidden)
	case owner != 0 && int(owner) != os.Geteuid():
		return nil, fmt.Errorf("%s belongs to user %d, want %d or 0", path, owner, os.Geteuid())
	case info.Size() != Size:
		return nil, fmt.Errorf("%s has %d bytes, want %d", path, info.Size(), Size)
	}
	key := make([]byte, Size)
	if _, err := io.ReadFull(f, key); err != nil {
		clear(key)
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return key, nil
}
