//go:build linux

package intake

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is a mount point in a directory tree.
type Mount struct {
	Name string // below the root
	Type string // the filesystem's type, as the kernel names it
	Left bool   // the mounted filesystem was left out, because it has no files to keep
}

// Mounts lists the mounts in the directories that were read.
func (r *Reader) Mounts() []Mount { return r.mounts }

// synthetic are filesystems whose files the running kernel makes up. Their contents are useless
// on another machine (Linux, /proc/filesystems, "nodev").
var synthetic = []string{"autofs", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "cpuset", "debugfs", "devpts", "devtmpfs",
	"efivarfs", "fusectl", "hugetlbfs", "mqueue", "nfsd", "nsfs", "proc", "pstore", "resctrl", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs"}

// volatile are directories that every boot fills. A tmpfs there belongs to the running machine,
// not to the root.
var volatile = []string{"dev", "run", "tmp", "var/run", "dev/shm"}

// mountAt returns the mount at name, whose full path is full, if there is one.
func (w *dirWalker) mountAt(name, full string) (Mount, bool) {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, full, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &stat); err != nil {
		return Mount{}, false // the kernel does not tell, or the path is too long
	}
	if stat.Attributes_mask&stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 || stat.Mask&unix.STATX_MNT_ID == 0 {
		return Mount{}, false
	}
	if w.types == nil {
		w.types = mountTypes()
	}
	m := Mount{Name: name, Type: w.types[stat.Mnt_id]}
	m.Left = slices.Contains(synthetic, m.Type) || m.Type == "tmpfs" && slices.Contains(volatile, name)
	return m, m.Type != ""
}

// mountTypes reads the types of all mounts (proc(5), /proc/pid/mountinfo).
func mountTypes() map[uint64]string {
	types := map[uint64]string{}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return types // then no mount is known, and all mounts are read
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		mount, filesystem, _ := strings.Cut(lines.Text(), " - ")
		id, _, _ := strings.Cut(mount, " ")
		if n, err := strconv.ParseUint(id, 10, 64); err == nil {
			types[n], _, _ = strings.Cut(filesystem, " ")
		}
	}
	return types
}
