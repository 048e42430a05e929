package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// power loads the driver of the power button, prints the machine's parts, and waits
// until the host presses the button.
func power() {
	modules, _ := filepath.Glob("/lib/modules/*.ko")
	for _, path := range modules {
		file, err := os.Open(path)
		if err == nil {
			err = unix.FinitModule(int(file.Fd()), "", 0)
			file.Close()
		}
		fmt.Println("guest: loading", filepath.Base(path), err)
	}
	const button = "/sys/firmware/acpi/interrupts/ff_pwr_btn"
	count := func() string {
		data, _ := os.ReadFile(button)
		first, _, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
		return first
	}
	before := count()
	fmt.Println("guest: has", parts())
	fmt.Println("guest: waiting for the power button")
	for range 600 { // a minute
		if now := count(); now != before {
			fmt.Println("guest: the power button was pressed:", before, now)
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Println("guest: then has", parts())
}

// parts counts the parts that a host can plug.
func parts() string {
	devices, _ := filepath.Glob("/sys/bus/pci/devices/*")
	processors, _ := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*")
	memory, _ := os.ReadFile("/proc/meminfo")
	total, _, _ := strings.Cut(string(memory), "\n")
	return fmt.Sprintf("%d PCI devices, %d processors, %s", len(devices), len(processors), strings.Join(strings.Fields(total), " "))
}
