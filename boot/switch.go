package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const nextInit = "/sbin/init"

// credentialsDir is the directory of the system credentials that systemd's PID 1
// imports. The environment variable credentialsVariable names a directory of
// credentials that the process before systemd made (systemd.exec(5),
// "CREDENTIALS").
const (
	credentialsDir      = "/run/credentials/@system"
	credentialsVariable = "CREDENTIALS_DIRECTORY"
)

// efiOptionsVariable replaces the EFI variable SystemdOptions, which systemd reads
// as a second command line. If efiOptionsVariable is set, even to "", systemd does
// not read the EFI variable (systemd, src/basic/efivars.c,
// systemd_efi_options_variable).
const efiOptionsVariable = "SYSTEMD_EFI_OPTIONS"

// switchRoot frees the initramfs while attestd starts, and executes the root
// filesystem's init in its own place. It calls finish just before the exec, because
// no code of this program runs after it.
func (s *system) switchRoot(ctx context.Context, finish func(detail string)) error {
	if err := wipe(s.initramfs); err != nil {
		return fmt.Errorf("freeing the initramfs: %w", err)
	}
	if err := s.initramfs.Close(); err != nil {
		return fmt.Errorf("freeing the initramfs: %w", err)
	}
	if err := s.waitForAttestd(ctx); err != nil {
		return err
	}
	if err := unix.Access(nextInit, unix.X_OK); err != nil {
		return fmt.Errorf("looking for %s in the root filesystem: %w", nextInit, err)
	}
	environment, err := initEnvironment(credentialsDir)
	if err != nil {
		return err
	}
	finish("to " + nextInit)
	err = unix.Exec(nextInit, append([]string{nextInit}, os.Args[1:]...), environment)
	return fmt.Errorf("starting %s: %w", nextInit, err)
}

// initEnvironment makes an empty directory of credentials, and returns an
// environment that names it, for the root filesystem's init.
//
// The kernel's own environment for PID 1, from the command line, is not passed on.
//
// Without the variable, systemd's PID 1 imports credentials from SMBIOS type 11
// strings and QEMU's fw_cfg. Both are the host's, and no measurement covers them. A
// credential can be a drop-in for a unit, so the host could run any program as root.
// With the variable set, systemd imports none (systemd 257,
// src/core/import-creds.c, import_credentials). rootvouch does not rely on systemd's
// own detection of confidential VMs.
func initEnvironment(credentials string) ([]string, error) {
	if err := os.MkdirAll(filepath.Dir(credentials), 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of credentials: %w", err)
	}
	if err := os.Mkdir(credentials, 0o700); err != nil { // an existing directory may hold credentials
		return nil, fmt.Errorf("making the directory of credentials: %w", err)
	}
	return []string{"HOME=/", "TERM=linux", credentialsVariable + "=" + credentials, efiOptionsVariable + "="}, nil
}

// wipe removes everything below an open directory, and stays on its filesystem. It
// resolves names from descriptors, because the directory has no path any more.
func wipe(dir *os.File) error {
	var top unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &top); err != nil {
		return err
	}
	return wipeBelow(dir, ".", top.Dev)
}

// wipeBelow removes the contents of the directory name below parent.
func wipeBelow(parent *os.File, name string, device uint64) error {
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := wipeEntry(dir, n, device); err != nil {
				return fmt.Errorf("%s: %w", path.Join(name, n), err)
			}
		}
	}
}

func wipeEntry(dir *os.File, name string, device uint64) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Dev != device {
		return nil // something is mounted there
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.Unlinkat(int(dir.Fd()), name, 0)
	}
	if err := wipeBelow(dir, name, device); err != nil {
		return err
	}
	err := unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
		return nil // it leads to a mount, or is one
	}
	return err
}
