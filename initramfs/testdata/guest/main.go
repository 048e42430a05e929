// Guest stands in for PID 1 in a test. It reports how the kernel unpacked the
// initramfs, loads its modules, and powers off.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	report()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func report() {
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) == nil {
		say("started after %v", time.Duration(up.Nano()).Round(time.Millisecond))
	}
	if os.Getpid() != 1 {
		say("error: PID is %d", os.Getpid())
		return
	}
	config, err := os.ReadFile("/etc/rootvouch/boot.json")
	say("boot.json %x %v", sha256.Sum256(config), err)
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "newroot"} {
		if info, err := os.Stat("/" + dir); err != nil || !info.IsDir() {
			say("error: /%s: %v", dir, err)
		}
	}
	list, err := os.ReadFile("/etc/rootvouch/modules")
	if err != nil {
		say("error: %v", err)
	}
	loaded := 0
	for name := range strings.Lines(string(list)) {
		switch err := load(strings.TrimSpace(name)); {
		case err == nil:
			loaded++
		case errors.Is(err, unix.ENODEV):
			say("no device: %s", strings.TrimSpace(name))
		default:
			say("error: loading %s: %v", strings.TrimSpace(name), err)
		}
	}
	say("loaded %d modules", loaded)
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		say("error: mounting /proc: %v", err)
	}
	crypto, err := os.ReadFile("/proc/crypto")
	if err != nil {
		say("error: %v", err)
	}
	for line := range strings.Lines(string(crypto)) {
		if key, driver, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "driver" {
			say("driver %s", strings.TrimSpace(driver))
		}
	}
	filesystems, err := os.ReadFile("/proc/filesystems")
	say("filesystems %q %v", strings.Fields(strings.ReplaceAll(string(filesystems), "nodev", "")), err)
	say("done")
}

func load(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

func say(format string, args ...any) { fmt.Printf("guest: "+format+"\n", args...) }
