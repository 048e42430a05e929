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
	"github.com/rootvouch/rootvouch/pins"
	"golang.org/x/sys/unix"
)

// consoleDriver is the driver of virtio ports.
const consoleDriver = "virtio_console"

// loadModules loads the kernel modules of the initramfs in the order of its
// list, mounts configfs, which is one of them, and locks the kernel down.
//
// virtio_console is the report device of the emulated platform and nothing else's,
// so elsewhere it is not loaded, and gives up its devices where it is built in.
func loadModules(reportDevice string, filesystem pins.Filesystem) (string, error) {
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
		if path.Base(p) == consoleDriver+".ko" && reportDevice != bootconfig.ReportVirtioPort {
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
	required := []string{string(filesystem), "overlay", "tmpfs"} // later steps mount them
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

// mountFilesystems mounts configfs and securityfs where the kernel has them, and
// refuses a kernel without one that is required, before any key is asked for.
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
