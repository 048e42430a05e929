package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// machine prints everything that the kernel got from the firmware, one long line
// for each item: "machine KIND NAME base64".
func machine() {
	show := func(kind, name string, data []byte) {
		long(fmt.Sprintf("machine %s %s %s", kind, name, base64.StdEncoding.EncodeToString(data)))
	}
	file := func(kind, path string) {
		data, err := os.ReadFile(path)
		if err != nil {
			data = []byte("error: " + err.Error())
		}
		show(kind, filepath.Base(path), data)
	}
	file("text", "/proc/version")
	file("text", "/sys/devices/system/cpu/online")
	file("text", "/sys/devices/system/clocksource/clocksource0/current_clocksource")
	tables, _ := filepath.Glob("/sys/firmware/acpi/tables/*")
	more, _ := filepath.Glob("/sys/firmware/acpi/tables/d*/*")
	for _, path := range append(tables, more...) {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			file("acpi", path)
		}
	}
	file("text", "/sys/firmware/efi/systab")
	for _, dir := range []string{"/sys/firmware", "/sys/firmware/efi", "/sys/bus/pci/devices", "/sys/bus/virtio/devices"} {
		var names []string
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		show("list", dir, []byte(strings.Join(names, " ")))
	}
	file("text", "/proc/iomem")
	show("text", "banner", banner())
	show("text", "unassigned", unassigned())
}

// banner returns the distance from the kernel's first byte to the text of
// /proc/version.
func banner() []byte {
	data, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		return []byte("error: " + err.Error())
	}
	at := map[string]uint64{}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) >= 3 && (f[2] == "_text" || f[2] == "linux_proc_banner") {
			at[f[2]], _ = strconv.ParseUint(f[0], 16, 64)
		}
	}
	return fmt.Appendf(nil, "%d", at["linux_proc_banner"]-at["_text"])
}

// unassigned names the PCI devices that have a BAR with a size and no address.
func unassigned() []byte {
	var names []string
	paths, _ := filepath.Glob("/sys/bus/pci/devices/*/resource")
	for _, path := range paths {
		data, _ := os.ReadFile(path)
		for line := range strings.Lines(string(data)) {
			var first, last, flags uint64
			// A BAR that found no room keeps its size from address 0 on.
			if n, _ := fmt.Sscanf(line, "0x%x 0x%x 0x%x", &first, &last, &flags); n == 3 && first == 0 && last > 0 {
				names = append(names, filepath.Base(filepath.Dir(path)))
			}
		}
	}
	return []byte(strings.Join(names, " "))
}
