package cli

import (
	"fmt"
	"os"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/internal/command"
)

// maxInitramfs bounds an initramfs whose boot.json is read, in bytes.
const maxInitramfs = 2 << 30

// CommandLine returns the kernel command line for an initramfs. PID 1 powers off unless the
// kernel's line equals the one in boot.json. So boot.json decides, and a different --append is
// an error. If the initramfs has no boot.json of ours, the line is the given one, or empty if
// none is given. A line that would not reach the kernel whole is an error. c is the BootConfig
// of path.
func CommandLine(path string, c *bootconfig.Config, given string, isGiven bool) (string, error) {
	switch {
	case c != nil && isGiven && given != c.CommandLine:
		return "", command.Usage(fmt.Errorf("--append is %q, want the command line of %s's boot.json: %q; leave --append out, or make another boot.json", given, path, c.CommandLine))
	case c != nil:
		return c.CommandLine, nil
	case isGiven:
		if err := cmdline.CheckText(given); err != nil {
			return "", command.Usage(fmt.Errorf("--append: %w", err))
		}
	}
	return given, nil
}

// BootConfig returns the boot.json of an initramfs, or nil if it has none. It reads only
// regular files, because another kind of file may give its bytes only once.
func BootConfig(path string) (*bootconfig.Config, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxInitramfs {
		return nil, nil // the reader of the file reports the error
	}
	data, err := bounded.ReadFile(path, maxInitramfs)
	if err != nil {
		return nil, err
	}
	c, ok, err := initramfs.BootConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !ok {
		return nil, nil
	}
	return &c, nil
}

// CheckBootConfig refuses an initramfs whose PID 1 would power the VM off, because its
// boot.json is for a kernel behind the gate and the kernel is bare or behind another gate. c is
// the BootConfig of path.
func CheckBootConfig(path string, c *bootconfig.Config, bareKernel bool) error {
	switch {
	case c == nil || c.Gate == bootconfig.GateNone:
		return nil
	case bareKernel:
		return command.WithHint(fmt.Errorf("the boot.json of %s is for a kernel behind the gate, and the kernel is bare: PID 1 would power off", path),
			"put the kernel behind the gate, or make boot.json with --"+BareKernelFlag)
	case c.Gate != gate.ID().String():
		return command.WithHint(fmt.Errorf("the boot.json of %s is for gate %s, and the kernel is behind gate %s: PID 1 would power off", path, c.Gate, gate.ID()),
			"make gate and initramfs with one version of rootvouch")
	}
	return nil
}

// CheckPlatform refuses an initramfs whose PID 1 would find no report device on the
// platform. c is the BootConfig of path.
func CheckPlatform(path string, c *bootconfig.Config, emulated bool) error {
	if c == nil || c.Emulated() == emulated {
		return nil
	}
	want := bootconfig.ReportConfigfsTSM + " or " + bootconfig.ReportSEVGuest
	if emulated {
		want = bootconfig.ReportVirtioPort
	}
	return fmt.Errorf("the boot.json of %s has report device %s, want %s on this platform", path, c.ReportDevice, want)
}
