// Package cmdline holds the kernel command line of a guest.
//
// The owner chooses the line when boot.json is made. The measurement covers it twice:
// by itself and inside boot.json. PID 1 compares it with the line that the kernel
// shows, so it notices a firmware or an EFI stub that cuts or changes the line.
package cmdline

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxSize is the length in bytes of the longest line that reaches the kernel whole.
// The kernel's EFI stub cuts a line at 2047 characters, and the firmware adds 14 to
// what QEMU gives it (" initrd=initrd").
const MaxSize = 2033

// Word is a word of the default line.
type Word struct {
	Text     string
	Why      string // one line
	Required bool   // nothing else has its effect, so every line needs it
}

// Words lists the words of the default line in its order.
func Words() []Word {
	return []Word{
		{"console=ttyS0", "the console is the serial port", false},
		{"loglevel=4", "errors of the kernel before PID 1 show; without \"quiet\" the EFI stub says that the kernel starts", false},
		{"oops=panic", "a kernel that has gone wrong does not go on", false},
		{"panic=-1", "a panic resets the VM at once, which ends it", false},
		{"init_on_free=1", "memory of processes that held keys is zeroed when they end", true},
		{"efi=noruntime", "no EFI variables: the host may keep them, and systemd takes one as a command line", true},
		{"erst_disable", "ACPI ERST is memory of the host, into which a panic would write the kernel's log", true},
		{"pstore.backend=none", "no other store takes the kernel's log either, now or later", true},
		{"nohibernate", "memory is written to no disk", false},
		{"systemd.show_status=true", "the owner sees the booted system start", false},
		{"systemd.import_credentials=no", "credentials in SMBIOS and fw_cfg are the host's, and can be units that run as root", false},
		{"systemd.firstboot=no", "no question on the console, which is the host's", false},
		{"fstab=no", "a line by LABEL or UUID would mount the host's filesystem", false},
		{"systemd.swap=no", "swap would write memory to the host's disk", false},
		{"systemd.gpt_auto=no", "partition types on the host's disks mount nothing", false},
		{barWord(nil), "drivers that kernels have built in and that the VM does not need: they would bind devices of the host's before PID 1 runs", false},
	}
}

// Default returns the default line for a VM that needs the named drivers.
func Default(needed ...string) string {
	var words []string
	for _, w := range Words() {
		if strings.HasPrefix(w.Text, barPrefix) {
			w.Text = barWord(needed)
		}
		if w.Text != "" {
			words = append(words, w.Text)
		}
	}
	return strings.Join(words, " ")
}

// Check refuses a line that would not reach the kernel unchanged, or that lacks a
// required word.
func Check(line string) error {
	if err := CheckText(line); err != nil {
		return err
	}
	var errs []error
	has := strings.Fields(line)
	for _, w := range Words() {
		if w.Required && !slices.Contains(has, w.Text) {
			errs = append(errs, fmt.Errorf("command line has no word %q: %s", w.Text, w.Why))
		}
	}
	return errors.Join(errs...)
}

// CheckText refuses a line that would not reach the kernel unchanged.
func CheckText(line string) error {
	if len(line) > MaxSize {
		return fmt.Errorf("command line is %d bytes, want at most %d: the kernel's EFI stub cuts a longer one", len(line), MaxSize)
	}
	for i := range len(line) {
		if c := line[i]; c < ' ' || c > '~' {
			return fmt.Errorf("command line has the byte %#x at offset %d, want printable ASCII", c, i)
		}
	}
	if strings.TrimSpace(line) != line {
		return fmt.Errorf("command line is %q, want no space at its ends", line)
	}
	return nil
}

// initrdWord is the word that the firmware adds in front of the line or behind it.
const initrdWord = "initrd=initrd"

// Compare returns nil if shown, the text of /proc/cmdline, is the measured line.
// The firmware's initrdWord may stand in front of the line or behind it.
func Compare(shown, measured string) error {
	line := strings.TrimSuffix(shown, "\n")
	switch line {
	case measured, measured + " " + initrdWord, initrdWord + " " + measured:
		return nil
	}
	line = strings.TrimPrefix(line, initrdWord+" ")
	at := 0
	for at < min(len(line), len(measured)) && line[at] == measured[at] {
		at++
	}
	return fmt.Errorf("command line of the kernel (%d bytes) differs from the measured one (%d bytes) at byte %d: got %q, want %q",
		len(line), len(measured), at, around(line, at), around(measured, at))
}

// around returns the text of line near the offset at.
func around(line string, at int) string {
	const context = 40 // bytes
	return line[at:min(len(line), at+context)]
}
