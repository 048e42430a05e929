package survey

import (
	"fmt"
	"slices"
	"strings"
)

// memoryTypes are filesystems without a device or a server (filesystems(5)).
var memoryTypes = []string{"tmpfs", "ramfs", "proc", "sysfs", "devpts", "devtmpfs", "cgroup", "cgroup2", "mqueue", "hugetlbfs", "debugfs",
	"tracefs", "securityfs", "configfs", "fusectl", "binfmt_misc", "bpf", "efivarfs", "pstore", "overlay"}

// hosts says how a mount's device or server belongs to the host, or returns "".
func hosts(what, kind string, options []string) string {
	switch {
	case slices.Contains(options, "bind") || slices.Contains(options, "rbind") || slices.Contains(memoryTypes, kind):
		return ""
	case strings.HasPrefix(what, "/dev/mapper/"), strings.HasPrefix(what, "/dev/zram"), strings.HasPrefix(what, "/dev/loop"):
		return "" // programs of the root make it
	case kind == "swap" && strings.HasPrefix(what, "/") && !strings.HasPrefix(what, "/dev/"):
		return "" // a file
	case kind == "swap":
		return "memory goes to a disk of the host, in the clear"
	case strings.HasPrefix(what, "/dev/"), isTagged(what):
		return "any disk to which the host gives that name is mounted"
	case kind == "9p" || kind == "virtiofs":
		return "a directory of the host is mounted"
	case strings.HasPrefix(kind, "nfs"), kind == "cifs", kind == "smb3", kind == "ceph", kind == "glusterfs", strings.HasPrefix(kind, "fuse.sshfs"):
		return "a server on the host's network is mounted"
	}
	return ""
}

// isTagged reports whether a device is named by a label or UUID that is stored on it.
func isTagged(what string) bool {
	for _, tag := range []string{"LABEL=", "UUID=", "PARTUUID=", "PARTLABEL=", "ID="} {
		if strings.HasPrefix(what, tag) {
			return true
		}
	}
	return false
}

// lines yields the fields of a table's lines that are not comments.
func (r *root) lines(name string) ([][]string, error) {
	text, _, err := r.text(name)
	var all [][]string
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 0 && !strings.HasPrefix(fields[0], "#") {
			all = append(all, fields)
		}
	}
	return all, err
}

// fstab names lines of fstab(5) that mount, or swap to, something of the host.
func fstab(r *root) ([]string, error) {
	lines, err := r.lines("etc/fstab")
	var notes []string
	for _, fields := range lines {
		for len(fields) < 4 {
			fields = append(fields, "")
		}
		if why := hosts(fields[0], fields[2], strings.Split(fields[3], ",")); why != "" {
			notes = append(notes, fmt.Sprintf("/etc/fstab: %s on %s: %s, or the boot waits for it and fails", fields[0], fields[1], why))
		}
	}
	return notes, err
}

// crypttab names lines of crypttab(5) that open a disk of the host.
func crypttab(r *root) ([]string, error) {
	var notes []string
	for _, table := range []string{"etc/crypttab", "etc/veritytab", "etc/integritytab"} {
		lines, err := r.lines(table)
		if err != nil {
			return nil, err
		}
		for _, fields := range lines {
			if len(fields) > 1 && (isTagged(fields[1]) || strings.HasPrefix(fields[1], "/dev/")) {
				notes = append(notes, fmt.Sprintf("/%s: %s from %s: any disk to which the host gives that name is opened, or the boot waits for it and fails", table, fields[0], fields[1]))
			}
		}
	}
	return notes, nil
}

// mountUnits names units that do the same as such a line of fstab (systemd.mount(5),
// systemd.swap(5)).
func mountUnits(r *root) ([]string, error) {
	var notes []string
	for _, dir := range []string{"etc/systemd/system", "usr/lib/systemd/system", "usr/local/lib/systemd/system"} {
		for _, pattern := range []string{"*.mount", "*.swap"} {
			for _, name := range r.matching(dir, pattern) {
				text, _, err := r.text(name)
				if err != nil {
					return nil, err
				}
				what, kind, options := unitSettings(text)
				if strings.HasSuffix(name, ".swap") {
					kind = "swap"
				}
				if why := hosts(what, kind, options); why != "" {
					notes = append(notes, fmt.Sprintf("/%s: %s: %s", name, what, why))
				}
			}
		}
	}
	return notes, nil
}

// unitSettings returns What=, Type= and Options= of a unit.
func unitSettings(text string) (what, kind string, options []string) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch strings.TrimSpace(key) {
		case "What":
			what = strings.TrimSpace(value)
		case "Type":
			kind = strings.TrimSpace(value)
		case "Options":
			options = strings.Split(strings.TrimSpace(value), ",")
		}
	}
	return what, kind, options
}
