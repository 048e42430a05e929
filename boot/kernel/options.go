package kernel

import "strings"

// Option is a setting of the kernel that PID 1 makes or expects.
type Option struct {
	Why  string // one line
	Path string // the file that shows it
	Want []string
	// Optional says that a kernel without the file passes.
	Optional bool

	set  string              // the value to write if the file shows another; "" writes nothing
	part func(string) string // returns the part of the text to compare; nil compares all of it
}

// absent is the value of a missing file.
const absent = "(absent)"

// Options lists the settings that are in force before the first secret is in
// memory.
func Options() []Option {
	one, zero := []string{"1"}, []string{"0"}
	return []Option{
		{Path: "/proc/sys/kernel/printk", set: "0", Want: zero, part: firstField,
			Why: "level 0: a panic, an oops or an NMI prints no registers, for the console is the host's"},
		{Path: "/sys/module/printk/parameters/ignore_loglevel", Want: []string{"N"},
			Why: "the level counts"},
		{Path: "/proc/sys/kernel/print-fatal-signals", set: "0", Want: zero, Optional: true,
			Why: "a process that dies prints no registers"},
		{Path: "/proc/sys/kernel/core_pattern", set: "|/bin/false", Want: []string{"|/bin/false"},
			Why: "a process that dies leaves no core file"},
		{Path: "/proc/sys/kernel/panic", set: "-1", Want: []string{"reset"}, part: resets,
			Why: "a panic ends the VM"},
		{Path: "/proc/sys/kernel/panic_on_oops", set: "1", Want: one,
			Why: "a kernel that has gone wrong does not go on"},
		{Path: "/proc/sys/kernel/panic_on_io_nmi", set: "1", Want: one,
			Why: "the first NMI that the host injects is the last: each would log the registers"},
		{Path: "/proc/sys/kernel/panic_on_unrecovered_nmi", set: "1", Want: one,
			Why: "the same for NMIs of a bus"},
		{Path: "/proc/sys/kernel/unknown_nmi_panic", set: "1", Want: one,
			Why: "the same for NMIs without a reason"},
		{Path: "/sys/module/pstore/parameters/backend", Want: []string{"none"}, Optional: true,
			Why: "no store of the host's takes the kernel's log after a panic"},
		{Path: "/sys/module/kgdboc/parameters/kgdboc", Want: []string{""}, Optional: true,
			Why: "no debugger on the console"},
		{Path: "/proc/sys/kernel/sysrq", set: "0", Want: zero, Optional: true,
			Why: "no magic keys from the host's side of the serial line"},
		{Path: "/proc/sys/kernel/kexec_load_disabled", set: "1", Want: one, Optional: true,
			Why: "no other kernel than the measured one"},
		{Path: "/sys/kernel/kexec_crash_loaded", Want: zero, Optional: true,
			Why: "no crash kernel, which would dump the memory"},
		{Path: "/sys/power/disk", Want: []string{"disabled"}, Optional: true, part: chosen,
			Why: "no hibernation: memory is written to no disk"},
		{Path: "/dev/kmsg", Want: []string{"on"}, part: heapFree,
			Why: "\"mem auto-init … heap free\": memory is zeroed when it is freed, so keys do not outlive their processes"},
		{Path: "/proc/sys/kernel/unprivileged_bpf_disabled", set: "1", Want: []string{"1", "2"}, Optional: true,
			Why: "the kernel runs no program of an unprivileged process"},
		{Path: "/sys/bus/platform/devices/efivars.0", Want: []string{absent},
			Why: "no EFI variables, which the host may keep"},
		{Path: "/sys/bus/vmbus", Want: []string{absent},
			Why: "a host that poses as Hyper-V gets registers after a panic"},
		{Path: "/sys/hypervisor/type", Want: []string{absent},
			Why: "a host that poses as Xen gets drivers that nothing needs"},
	}
}

// NoDriver is the setting that a bus has no driver of that name.
func NoDriver(bus, name string) Option {
	return Option{Path: "/sys/bus/" + bus + "/drivers/" + name, Want: []string{absent},
		Why: "the command line bars this driver; a kernel that calls its function by another name needs it on its own line, or --drivers"}
}

// Lockdown is the setting of the kernel's lockdown. PID 1 makes it after the last
// module is loaded, because under lockdown the kernel loads signed modules only.
func Lockdown() Option {
	return Option{Path: "/sys/kernel/security/lockdown", set: "integrity", Want: []string{"integrity", "confidentiality"}, Optional: true, part: chosen,
		Why: "root in the booted system cannot change the kernel, nor start another"}
}

// firstField returns the first field of a line: the console's level, in printk.
func firstField(text string) string {
	first, _, _ := strings.Cut(text, "\t")
	return first
}

// resets returns "reset" if the value of the setting makes a kernel that panics
// reset, and "wait" if the kernel waits for ever.
func resets(text string) string {
	if text == "0" {
		return "wait"
	}
	return "reset"
}

// chosen returns the choice in brackets of a line such as "none [integrity]".
func chosen(text string) string {
	_, rest, _ := strings.Cut(text, "[")
	choice, _, _ := strings.Cut(rest, "]")
	return choice
}

// heapFree reads from the kernel's log whether freed memory is zeroed (Linux,
// mm/mm_init.c, report_meminit). A record is "prefix;message". The message must
// begin with the kernel's own text, because other messages quote strings of the
// host.
func heapFree(log string) string {
	for record := range strings.Lines(log) {
		_, message, _ := strings.Cut(record, ";")
		if !strings.HasPrefix(message, "mem auto-init: ") {
			continue
		}
		_, value, _ := strings.Cut(message, "heap free:")
		return strings.TrimSpace(value)
	}
	return "not in the kernel's log"
}
