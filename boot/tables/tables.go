// Package tables checks that the kernel has the gate's ACPI and EFI tables, and
// none of the host's.
//
// The gate, not this check, keeps the host's tables away: a kernel that ran their
// bytecode could show anything. This check finds mistakes: a boot configuration that
// names a gate but was measured with a bare kernel, another version of the gate, or a
// firmware that adds tables after the gate.
package tables

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/gate/program"
	"github.com/rootvouch/rootvouch/gate/tables"
	"github.com/rootvouch/rootvouch/internal/bounded"
)

// maxTable bounds the size of a table, in bytes. The gate's largest table is the
// MADT of a guest with many processors.
const maxTable = 64 << 10

// Firmware is the directory in which the kernel shows the firmware's tables.
const Firmware = "/sys/firmware"

// Check compares the tables below dir with those of the gate that the boot
// configuration names. It returns the detail for the step's line.
func Check(dir, gate string) (string, error) {
	if gate == bootconfig.GateNone {
		return "not checked: the kernel is not gated, and runs the host's ACPI code", nil
	}
	if own := program.ID().String(); gate != own {
		return "", fmt.Errorf("checking the gate: the configuration names %s, and this init is made for %s", gate, own)
	}
	if err := checkNames(dir, "", "acpi", "efi", "memmap"); err != nil {
		return "", err
	}
	if err := checkEFI(dir); err != nil {
		return "", err
	}
	if err := checkACPI(filepath.Join(dir, "acpi", "tables")); err != nil {
		return "", err
	}
	return fmt.Sprintf("ACPI and EFI tables are those of gate %.16s…", gate), nil
}

// checkNames refuses a directory that has an entry not in names. Such an entry shows
// a table of the host: dmi for SMBIOS, qemu_fw_cfg for QEMU's device.
func checkNames(dir, below string, names ...string) error {
	entries, err := os.ReadDir(filepath.Join(dir, below))
	if err != nil {
		return fmt.Errorf("looking for tables of the host: %w", err)
	}
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			return fmt.Errorf("looking for tables of the host: there is %s, want nothing but %q", filepath.Join(below, e.Name()), names)
		}
	}
	return nil
}

// checkEFI checks that the kernel's list of EFI tables has one address, that of the
// gate's RSDP.
func checkEFI(dir string) error {
	if err := checkNames(dir, "efi", "config_table", "efivars", "fw_platform_size", "fw_vendor", "runtime", "runtime-map", "systab"); err != nil {
		return err
	}
	list, err := bounded.ReadFile(filepath.Join(dir, "efi", "systab"), maxTable)
	if err != nil {
		return fmt.Errorf("reading the EFI tables: %w", err)
	}
	text := strings.TrimSpace(string(list))
	if !strings.HasPrefix(text, "ACPI20=0x") || strings.Contains(text, "\n") {
		return fmt.Errorf("checking the EFI tables: got %q, want ACPI20 alone", text)
	}
	return nil
}

// checkACPI compares each table. The directories "data" and "dynamic" must be
// empty: they would hold data that tables point to, and tables that AML loads.
func checkACPI(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the ACPI tables: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
			continue
		}
		if err := checkNames(dir, e.Name()); err != nil {
			return err
		}
	}
	slices.Sort(names)
	if want := tables.Names(); !slices.Equal(names, want) {
		return fmt.Errorf("checking the ACPI tables: got %q, want %q", names, want)
	}
	for _, name := range names {
		data, err := bounded.ReadFile(filepath.Join(dir, name), maxTable)
		if err != nil {
			return fmt.Errorf("reading the ACPI tables: %w", err)
		}
		if err := tables.Check(name, data); err != nil {
			return fmt.Errorf("checking the ACPI tables: %w", err)
		}
	}
	return nil
}
