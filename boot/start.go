package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/boot/kernel"
	"golang.org/x/sys/unix"
)

// runLimits are systemd's own limits (257, src/shared/mount-util.h,
// TMPFS_LIMITS_RUN). systemd keeps a /run that it finds, so PID 1 must set the
// limits that keep a full /run from taking all memory. Until the switch /run holds
// the SPIRE agent's data, which is small.
const runLimits = "mode=0755,size=20%,nr_inodes=800k"

// mount is one call of mount(2).
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// do makes the mount point if it is missing, and mounts.
func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("making mount point: %w", err)
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

// start mounts the kernel's filesystems and opens the console.
//
// /tmp is a directory of the initramfs: the SPIRE agent's plugins put their
// sockets there, and the wipe before the switch takes it.
func start(c *console) (string, error) {
	for _, mnt := range []mount{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, runLimits},
	} {
		if err := mnt.do(); err != nil {
			return "", err
		}
	}
	if err := c.open(); err != nil {
		return "", err
	}
	if err := os.MkdirAll("/tmp", 0o700); err != nil {
		return "", fmt.Errorf("making /tmp: %w", err)
	}
	if err := os.MkdirAll(bootconfig.StateDir, 0o755); err != nil {
		return "", fmt.Errorf("making %s: %w", bootconfig.StateDir, err)
	}
	processors, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("reading the processors' features: %w", err)
	}
	if err := checkProcessors(string(processors)); err != nil {
		return "", err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("reading kernel version: %w", err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return "", fmt.Errorf("reading memory size: %w", err)
	}
	return fmt.Sprintf("kernel %s, %d CPUs, %d MiB, %d ms after the kernel's own start",
		unix.ByteSliceToString(name.Release[:]), runtime.NumCPU(), info.Totalram*uint64(info.Unit)>>20, sinceKernel().Milliseconds()), nil
}

// checkProcessors refuses a /proc/cpuinfo with a processor that lacks aes or
// rdrand. The host can hide both features. Without aes, the kernel and Go compute
// AES with tables in memory, and a host that watches the caches learns the keys
// from the lines that they read. Without rdrand, the kernel can seed its random
// numbers from timing only, which the host can influence.
func checkProcessors(cpuinfo string) error {
	processors := 0
	for line := range strings.Lines(cpuinfo) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		features := strings.Fields(value)
		for _, want := range []string{"aes", "rdrand"} {
			if !slices.Contains(features, want) {
				return fmt.Errorf("checking processor %d: the host shows it without the feature %q, want aes and rdrand", processors, want)
			}
		}
		processors++
	}
	if processors == 0 {
		return errors.New("checking processors: /proc/cpuinfo shows no features")
	}
	return nil
}

// holdKernel compares the kernel's command line with the measured one, and enforces
// the kernel settings that keep secrets from the host.
func holdKernel(commandLine string) (string, error) {
	shown, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", fmt.Errorf("reading command line: %w", err)
	}
	if err := cmdline.Compare(string(shown), commandLine); err != nil {
		return "", err
	}
	options := kernel.Options()
	for _, d := range cmdline.Barred(commandLine) {
		options = append(options, kernel.NoDriver(d.Bus, d.Shown))
	}
	if err := kernel.Enforce("/", options...); err != nil {
		return "", err
	}
	return fmt.Sprintf("command line as measured, %d settings in force; it prints nothing more", len(options)), nil
}

// readConfig reads boot.json, which the launch digest covers.
func readConfig(context.Context) (bootconfig.Config, error) {
	data, err := os.ReadFile(bootconfig.Path)
	if err != nil {
		return bootconfig.Config{}, fmt.Errorf("reading boot configuration: %w", err)
	}
	return bootconfig.Decode(data)
}

func describeConfig(c bootconfig.Config) string {
	return fmt.Sprintf("trust domain %s, root hash %.16s…, verification %s", c.TrustDomain, c.Disk.RootHash, c.Verification)
}
