// Package kernel enforces a table of kernel settings in the guest, through /proc
// and /sys.
//
// A kernel trusts its machine: it prints to the console, stores its log in the
// firmware, and obeys keys on the console. Here the machine is the host's. So PID 1
// makes each setting that it can make. It reads every setting back, because neither
// the command line nor a write proves that a setting is in force.
package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxText bounds the text read from a file, in bytes. The kernel's log is the
// largest.
const maxText = 8 << 20

// Enforce makes the settings and reads them back. The paths are below root, which
// is "/" except in tests. Enforce returns an error for the first setting that is
// not in force.
func Enforce(root string, options ...Option) error {
	for _, o := range options {
		if err := o.enforce(root); err != nil {
			return err
		}
	}
	return nil
}

func (o Option) enforce(root string) error {
	got, err := o.read(root)
	if err != nil {
		return err
	}
	if !o.fits(got) && got != absent && o.set != "" {
		if err := os.WriteFile(filepath.Join(root, o.Path), []byte(o.set), 0); err != nil {
			return fmt.Errorf("setting kernel parameter: %w", err)
		}
		if got, err = o.read(root); err != nil {
			return err
		}
	}
	if !o.fits(got) {
		return fmt.Errorf("%s is %q, want %s: %s", o.Path, got, strings.Join(o.Want, " or "), o.Why)
	}
	return nil
}

func (o Option) fits(got string) bool {
	return slices.Contains(o.Want, got) || o.Optional && got == absent
}

// read returns the value that the file shows, or absent.
func (o Option) read(root string) (string, error) {
	path := filepath.Join(root, o.Path)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return absent, nil
	}
	if err != nil {
		return "", fmt.Errorf("reading kernel parameter: %w", err)
	}
	if info.IsDir() {
		return "there", nil
	}
	text, err := readText(path)
	if err != nil {
		return "", fmt.Errorf("reading kernel parameter %s: %w", o.Path, err)
	}
	text = strings.TrimRight(text, "\n")
	if o.part != nil {
		text = o.part(text)
	}
	return text, nil
}

// readText reads a file to its end, or the kernel's log to the newest record:
// /dev/kmsg gives one record for each read, and EAGAIN after the last.
func readText(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var text strings.Builder
	buf := make([]byte, 16<<10)
	for text.Len() < maxText {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EPIPE): // EPIPE: the oldest records are gone
			continue
		case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
			return text.String(), nil
		case err != nil:
			return "", err
		}
		text.Write(buf[:n])
	}
	return "", fmt.Errorf("got more than %d bytes", maxText)
}
