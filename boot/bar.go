package boot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// masks lists the generators and units of systemd that PID 1 turns off. A link to
// /dev/null below /run replaces each of them (systemd.generator(7),
// systemd.unit(5)).
func masks(own, consoleLogin bool) (generators, units []string) {
	// Partition types, hibernation images, vsock and downloads are the host's.
	generators = []string{"systemd-gpt-auto-generator", "systemd-hibernate-resume-generator", "systemd-ssh-generator",
		"systemd-import-generator"}
	if own { // tables of the image that name devices by label, UUID or path
		generators = append(generators, "systemd-fstab-generator", "systemd-cryptsetup-generator",
			"systemd-veritysetup-generator", "systemd-integritysetup-generator")
	}
	if !consoleLogin {
		generators = append(generators, "systemd-getty-generator")
		units = []string{"getty@.service", "serial-getty@.service", "autovt@.service", "console-getty.service",
			"container-getty@.service", "emergency.service", "rescue.service"}
	}
	return generators, units
}

// sysctl keeps the booted system's own settings from raising the level of the
// kernel's messages on the console. A file in /run replaces a file of the same name
// in /usr/lib, and the file with the last name is applied last (sysctl.d(5)).
const sysctl = "# Written by PID 1 of rootvouch: the console is the host's, and a panic prints registers.\nkernel.printk = 0 4 1 7\n"

// barOrders writes the files below run that keep systemd from obeying the host. If
// own is false, systemd still reads fstab and crypttab. The default command line
// has the same effect, but the owner can change that line.
func barOrders(run string, own, consoleLogin bool) error {
	generators, units := masks(own, consoleLogin)
	for dir, names := range map[string][]string{"systemd/system-generators": generators, "systemd/system": units} {
		if err := os.MkdirAll(filepath.Join(run, dir), 0o755); err != nil {
			return fmt.Errorf("barring orders of the host: %w", err)
		}
		for _, name := range names {
			if err := os.Symlink("/dev/null", filepath.Join(run, dir, name)); err != nil {
				return fmt.Errorf("barring orders of the host: %w", err)
			}
		}
	}
	dir := filepath.Join(run, "sysctl.d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("barring orders of the host: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "zz-rootvouch.conf"), []byte(sysctl), 0o644); err != nil {
		return fmt.Errorf("barring orders of the host: %w", err)
	}
	return nil
}

// writeMachineID gives a root without a machine ID a random one. systemd would take
// the DMI product UUID. The host chooses that UUID, so it could give two VMs the
// same ID. If the image has an ID, the ID stays. A root without /etc gets no ID.
func writeMachineID(path string, random io.Reader) error {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading machine ID: %w", err)
	}
	if id := strings.TrimSpace(string(text)); id != "" && id != "uninitialized" {
		return nil
	}
	id := make([]byte, 16)
	if _, err := io.ReadFull(random, id); err != nil {
		return fmt.Errorf("making machine ID: %w", err)
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // as of a UUID of version 4 (machine-id(5))
	err = os.WriteFile(path, []byte(hex.EncodeToString(id)+"\n"), 0o444)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing machine ID: %w", err)
	}
	return nil
}
