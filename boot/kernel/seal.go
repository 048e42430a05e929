package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// pciAddress is the name of a PCI function in /sys, such as 0000:00:04.0.
var pciAddress = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// Seal closes the kernel to further devices of the host. New devices get no driver,
// no further module can be loaded, and Seal removes every disk except the named
// ones from its bus. Loaded modules and devices in use stay. Seal returns the
// number of disks that it removed.
func Seal(root string, disks ...string) (detached int, err error) {
	for _, bus := range []string{"pci", "virtio"} {
		path := filepath.Join(root, "/sys/bus", bus, "drivers_autoprobe")
		if err := os.WriteFile(path, []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("closing the %s bus: %w", bus, err)
		}
	}
	if detached, err = detachDisks(root, disks); err != nil {
		return 0, err
	}
	return detached, Enforce(root,
		Option{Path: "/proc/sys/kernel/modules_disabled", set: "1", Want: []string{"1"}, Optional: true, Why: "no module is loaded after the switch"},
		Option{Path: "/proc/swaps", Want: []string{""}, Optional: true, part: swaps, Why: "memory is written to no disk"})
}

// swaps returns the swap areas of /proc/swaps, whose first line is a heading.
func swaps(text string) string {
	_, areas, _ := strings.Cut(text, "\n")
	return areas
}

// detachDisks removes the PCI function of every disk that is not in own.
func detachDisks(root string, own []string) (int, error) {
	kept := map[string]string{} // :: PCI function -> own disk
	for _, disk := range own {
		function, err := pciFunction(root, disk)
		if err != nil {
			return 0, err
		}
		kept[function] = disk
	}
	entries, err := os.ReadDir(filepath.Join(root, "/sys/class/block"))
	if err != nil {
		return 0, fmt.Errorf("listing disks: %w", err)
	}
	detached := 0
	for _, e := range entries {
		name := e.Name()
		if slices.Contains(own, name) || !exists(root, "/sys/class/block", name, "device") || exists(root, "/sys/class/block", name, "partition") {
			continue
		}
		function, err := pciFunction(root, name)
		if err != nil {
			return 0, err
		}
		if disk, ok := kept[function]; ok {
			return 0, fmt.Errorf("detaching disk %s: it is behind the same PCI function as the VM's own disk %s", name, disk)
		}
		if err := os.WriteFile(filepath.Join(function, "remove"), []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("detaching disk %s: %w", name, err)
		}
		if exists(root, "/sys/class/block", name, "device") {
			return 0, fmt.Errorf("detaching disk %s: it is still there", name)
		}
		detached++
	}
	return detached, nil
}

// pciFunction returns the directory in /sys of a disk's PCI function.
func pciFunction(root, disk string) (string, error) {
	path, err := filepath.EvalSymlinks(filepath.Join(root, "/sys/class/block", disk))
	if err != nil {
		return "", fmt.Errorf("finding the bus of disk %s: %w", disk, err)
	}
	for ; path != "/" && path != "."; path = filepath.Dir(path) {
		if pciAddress.MatchString(filepath.Base(path)) {
			return path, nil
		}
	}
	return "", fmt.Errorf("finding the bus of disk %s: it is behind no PCI function", disk)
}

// Unbind takes every virtio device from a driver that the guest does not need.
func Unbind(root, driver string) error {
	dir := filepath.Join(root, "/sys/bus/virtio/drivers", driver)
	devices, err := filepath.Glob(filepath.Join(dir, "virtio[0-9]*"))
	if err != nil {
		return err
	}
	for _, d := range devices {
		if err := os.WriteFile(filepath.Join(dir, "unbind"), []byte(filepath.Base(d)), 0); err != nil {
			return fmt.Errorf("taking %s from its driver %s: %w", filepath.Base(d), driver, err)
		}
	}
	return nil
}

func exists(elements ...string) bool {
	_, err := os.Stat(filepath.Join(elements...))
	return err == nil
}
