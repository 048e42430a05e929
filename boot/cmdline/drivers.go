package cmdline

import (
	"slices"
	"strings"
)

// barPrefix begins the word that names functions that the kernel must not call when
// it starts (Linux, Documentation/admin-guide/kernel-parameters.txt).
const barPrefix = "initcall_blacklist="

// Driver is a driver that common kernels have built in, for devices that a VM does
// not need.
type Driver struct {
	Name     string // of its module
	Bus      string // in /sys/bus
	Shown    string // its name among the drivers of the bus
	Initcall string // the function that registers it
}

// Drivers lists the drivers that the default line bars.
func Drivers() []Driver {
	return []Driver{
		{"nvme", "pci", "nvme", "nvme_init"},
		{"8250_pci", "pci", "serial", "serial_pci_driver_init"},
		{"8250_pericom", "pci", "8250_pericom", "pericom8250_pci_driver_init"},
		{"8250_mxpcie", "pci", "8250_mxpcie", "mxpcie8250_pci_driver_init"},
		{"virtiofs", "virtio", "virtiofs", "virtio_fs_init"},
	}
}

// Barred returns the drivers that a line bars.
func Barred(line string) (barred []Driver) {
	var calls []string
	for _, word := range strings.Fields(line) {
		if list, ok := strings.CutPrefix(word, barPrefix); ok {
			calls = append(calls, strings.Split(list, ",")...)
		}
	}
	for _, d := range Drivers() {
		if slices.Contains(calls, d.Initcall) {
			barred = append(barred, d)
		}
	}
	return barred
}

// barWord returns the word that bars every driver except the needed ones, or "" if
// there is none to bar.
func barWord(needed []string) string {
	var calls []string
	for _, d := range Drivers() {
		if !slices.Contains(needed, d.Name) {
			calls = append(calls, d.Initcall)
		}
	}
	if len(calls) == 0 {
		return ""
	}
	return barPrefix + strings.Join(calls, ",")
}
