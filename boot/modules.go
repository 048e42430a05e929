package boot

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"golang.org/x/sys/unix"
)

// loadModules loads the kernel modules of the initramfs in the order of its
// list, then mounts configfs, which is one of them.
func loadModules(reportDevice string) (string, error) {
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
	if err := mountConfigfs(reportDevice == bootconfig.ReportConfigfsTSM); err != nil {
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

// mountConfigfs mounts configfs where the kernel has it. Where it is required, for
// reports by configfs-tsm, a kernel without it is refused.
func mountConfigfs(required bool) error {
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return fmt.Errorf("reading list of filesystems: %w", err)
	}
	if !slices.Contains(strings.Fields(string(known)), "configfs") {
		if required {
			return fmt.Errorf("kernel has no configfs, want it for report device %q", bootconfig.ReportConfigfsTSM)
		}
		return nil
	}
	return mount{"configfs", "/sys/kernel/config", "configfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""}.do()
}
