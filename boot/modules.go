package boot

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/kernel"
	"golang.org/x/sys/unix"
)

// consoleDriver is the driver of virtio ports.
const consoleDriver = "virtio_console"

// volumeModules returns the modules that only volumes need, with their
// dependencies.
func volumeModules() []string {
	return []string{"dm_integrity", "async_xor", "async_tx", "xor", "authenc", "xfs", "btrfs", "raid6_pq"}
}

// loadModules loads the kernel modules of the initramfs in the order of its list,
// mounts configfs, which may be one of them, and locks the kernel down.
//
// Only the emulated platform needs virtio_console, for its report device. On other
// platforms loadModules does not load the driver, and unbinds its devices if it is
// built in.
func loadModules(config bootconfig.Config) (string, error) {
	reportDevice := config.ReportDevice
	list, err := os.ReadFile(bootconfig.ModulesPath)
	if err != nil {
		return "", fmt.Errorf("reading list of modules: %w", err)
	}
	paths, err := parseModules(string(list))
	if err != nil {
		return "", err
	}
	loaded, absent := 0, 0
	for _, p := range paths {
		switch name := strings.TrimSuffix(path.Base(p), ".ko"); {
		case name == consoleDriver && reportDevice != bootconfig.ReportVirtioPort,
			slices.Contains(volumeModules(), name) && len(config.Volumes) == 0:
			continue
		}
		switch err := loadModule(p); {
		case err == nil:
			loaded++
		case errors.Is(err, unix.EEXIST): // loaded already, or built in
		case errors.Is(err, unix.ENODEV): // a driver whose device or CPU feature is not here
			absent++
		default:
			return "", fmt.Errorf("loading module %s: %w", p, err)
		}
	}
	if reportDevice != bootconfig.ReportVirtioPort {
		if err := kernel.Unbind("/", consoleDriver); err != nil {
			return "", err
		}
	}
	required := []string{string(config.Disk.Filesystem), "overlay", "tmpfs"} // later steps mount them
	for _, v := range config.Volumes {
		required = append(required, string(v.Filesystem))
	}
	if reportDevice == bootconfig.ReportConfigfsTSM {
		required = append(required, "configfs")
	}
	if err := mountFilesystems(required); err != nil {
		return "", err
	}
	if err := kernel.Enforce("/", kernel.Lockdown()); err != nil {
		return "", err
	}
	detail := fmt.Sprintf("%d loaded", loaded)
	if absent > 0 {
		detail += fmt.Sprintf(", %d not for this machine", absent)
	}
	return detail, nil
}

// parseModules checks the list: absolute, clean paths below /lib/modules.
func parseModules(list string) ([]string, error) {
	var paths []string
	for line := range strings.Lines(list) {
		p := strings.TrimSuffix(line, "\n")
		if path.Clean(p) != p || !strings.HasPrefix(p, bootconfig.ModulesDir+"/") || path.Ext(p) != ".ko" {
			return nil, fmt.Errorf("reading list of modules: got %q, want a path %s/….ko", p, bootconfig.ModulesDir)
		}
		paths = append(paths, p)
	}
	return paths, nil
}

func loadModule(p string) error {
	file, err := os.Open(p)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.FinitModule(int(file.Fd()), "", 0)
}

// mountFilesystems mounts configfs and securityfs if the kernel has them. It
// refuses a kernel without a required filesystem, before PID 1 asks for a key.
func mountFilesystems(required []string) error {
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return fmt.Errorf("reading list of filesystems: %w", err)
	}
	known := strings.Fields(string(text))
	if err := checkFilesystems(known, required); err != nil {
		return err
	}
	for name, target := range map[string]string{"configfs": "/sys/kernel/config", "securityfs": "/sys/kernel/security"} {
		if !slices.Contains(known, name) {
			continue
		}
		if err := (mount{name, target, name, unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""}).do(); err != nil {
			return err
		}
	}
	return nil
}

func checkFilesystems(known, required []string) error {
	for _, name := range required {
		if !slices.Contains(known, name) {
			return fmt.Errorf("kernel has no filesystem %q, want it for this boot configuration", name)
		}
	}
	return nil
}
