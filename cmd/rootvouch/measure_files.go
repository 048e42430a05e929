package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/snp/launch"
)

// maxBlob bounds a kernel or initramfs that is mapped, in bytes.
const maxBlob = 1 << 40

// hashFile hashes a kernel or initramfs.
func hashFile(what, path string) (sum [sha256.Size]byte, err error) {
	err = withFile(path, maxBlob, func(image []byte) error {
		sum = sha256.Sum256(image)
		return nil
	}, func(r io.Reader) error {
		sum, err = launch.HashBlob(r)
		return err
	})
	if err != nil {
		return sum, fmt.Errorf("reading %s: %w", what, err)
	}
	return sum, nil
}

// readFirmware reads and parses a firmware or SVSM.
func readFirmware(path string) (image []byte, f *launch.Firmware, err error) {
	err = withFile(path, launch.MaxImageSize, func(mapped []byte) error {
		image = mapped
		return nil
	}, func(r io.Reader) error {
		image, err = io.ReadAll(io.LimitReader(r, launch.MaxImageSize+1))
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading firmware: %w", err)
	}
	if f, err = launch.ParseFirmware(image); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return image, f, nil
}

// withFile hands a regular file of 1 to limit bytes to mapped, all of it, and
// anything else to stream. Nothing is copied, and what comes first is hashed while
// the kernel maps the rest. The mapping stays until the process ends; if the file
// is cut short meanwhile, that is at once, by SIGBUS, and no digest is printed.
func withFile(path string, limit int64, mapped func([]byte) error, stream func(io.Reader) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return &os.PathError{Op: "read", Path: path, Err: unix.EISDIR}
	}
	if size := info.Size(); info.Mode().IsRegular() && size > 0 && size <= limit {
		image, err := unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
		if err == nil {
			go unix.Madvise(image, unix.MADV_POPULATE_READ) // Linux 5.14; without it the pages come one by one
			return mapped(image)
		}
		if !errors.Is(err, unix.ENODEV) { // a file system that cannot map
			return &os.PathError{Op: "mmap", Path: path, Err: err}
		}
	}
	return stream(file)
}
