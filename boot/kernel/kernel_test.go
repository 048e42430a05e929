package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// good returns the files of a guest's kernel when every setting is in force.
func good() map[string]string {
	return map[string]string{
		"/proc/sys/kernel/printk":                       "0\t4\t1\t7\n",
		"/sys/module/printk/parameters/ignore_loglevel": "N\n",
		"/proc/sys/kernel/print-fatal-signals":          "0\n",
		"/proc/sys/kernel/core_pattern":                 "|/bin/false\n",
		"/proc/sys/kernel/panic":                        "-1\n",
		"/proc/sys/kernel/panic_on_oops":                "1\n",
		"/proc/sys/kernel/panic_on_io_nmi":              "1\n",
		"/proc/sys/kernel/panic_on_unrecovered_nmi":     "1\n",
		"/proc/sys/kernel/unknown_nmi_panic":            "1\n",
		"/sys/module/pstore/parameters/backend":         "none\n",
		"/sys/module/kgdboc/parameters/kgdboc":          "\n",
		"/proc/sys/kernel/sysrq":                        "0\n",
		"/proc/sys/kernel/kexec_load_disabled":          "1\n",
		"/sys/kernel/kexec_crash_loaded":                "0\n",
		"/sys/power/disk":                               "[disabled]\n",
		"/proc/sys/kernel/unprivileged_bpf_disabled":    "2\n",
		"/sys/kernel/security/lockdown":                 "none [integrity] confidentiality\n",
		"/dev/kmsg":                                     "6,1,0,-;Linux version 6\n6,290,1,-;mem auto-init: stack:all(zero), heap alloc:on, heap free:on\n6,291,2,-;x\n",
	}
}

// tree writes files below a root.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func all() []Option { return append(Options(), Lockdown()) }

func TestEnforce(t *testing.T) {
	if err := Enforce(tree(t, good()), all()...); err != nil {
		t.Error(err)
	}
	bad := map[string]string{
		"/sys/module/printk/parameters/ignore_loglevel": "Y\n",
		"/sys/module/pstore/parameters/backend":         "erst\n",
		"/sys/module/kgdboc/parameters/kgdboc":          "ttyS0\n",
		"/sys/kernel/kexec_crash_loaded":                "1\n",
		"/sys/power/disk":                               "[platform] shutdown reboot\n",
		"/sys/bus/platform/devices/efivars.0/uevent":    "x",
		"/sys/bus/vmbus/uevent":                         "x",
		"/sys/hypervisor/type":                          "xen\n",
		"/dev/kmsg":                                     "6,290,1,-;mem auto-init: stack:all(zero), heap alloc:on, heap free:off\n",
	}
	for path, text := range bad {
		files := good()
		files[path] = text
		err := Enforce(tree(t, files), all()...)
		if want := strings.TrimSuffix(path, "/uevent"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is %q: got error %v, want one with %q", path, text, err, want)
		}
	}
	for _, text := range []string{"", "6,290,1,-;mem auto-init: heap alloc:on\n", "6,1,0,-;DMI: ;mem auto-init: heap free:on\n"} {
		files := good()
		files["/dev/kmsg"] = text
		if err := Enforce(tree(t, files), all()...); err == nil || !strings.Contains(err.Error(), "/dev/kmsg") {
			t.Errorf("kernel log %q: got error %v, want one about it", text, err)
		}
	}
}

// TestNoDriver: a kernel with a driver that the command line bars is refused.
func TestNoDriver(t *testing.T) {
	o := NoDriver("pci", "nvme")
	if err := Enforce(tree(t, map[string]string{"/sys/bus/pci/drivers/serial/uevent": ""}), o); err != nil {
		t.Error(err)
	}
	err := Enforce(tree(t, map[string]string{"/sys/bus/pci/drivers/nvme/uevent": ""}), o)
	if err == nil || !strings.Contains(err.Error(), `/sys/bus/pci/drivers/nvme is "there", want (absent)`) {
		t.Errorf("got error %v, want one about the driver", err)
	}
}

// TestEnforceSets starts from the opposite of each setting that PID 1 makes.
func TestEnforceSets(t *testing.T) {
	files := good()
	var set []Option
	for _, o := range all() {
		if o.set == "" {
			continue
		}
		set = append(set, o)
		files[o.Path] = map[bool]string{true: "1", false: "0"}[o.set == "0"]
	}
	files["/sys/kernel/security/lockdown"] = "[none] integrity confidentiality"
	root := tree(t, files)
	// A plain file shows the written value. The kernel shows lockdown in another
	// form.
	err := Enforce(root, set...)
	if err == nil || !strings.Contains(err.Error(), "/sys/kernel/security/lockdown") {
		t.Errorf("got error %v, want one about lockdown, the last", err)
	}
	for _, o := range set {
		if got, err := os.ReadFile(filepath.Join(root, o.Path)); err != nil || string(got) != o.set {
			t.Errorf("%s is %q (%v), want %q", o.Path, got, err, o.set)
		}
	}
}

// TestEnforceAbsent takes each file away: only an optional one may be absent.
func TestEnforceAbsent(t *testing.T) {
	for _, o := range all() {
		files := good()
		if _, ok := files[o.Path]; !ok {
			continue // it must be absent
		}
		delete(files, o.Path)
		if err := Enforce(tree(t, files), all()...); (err == nil) != o.Optional {
			t.Errorf("%s is absent: got error %v, optional is %v", o.Path, err, o.Optional)
		}
	}
}

// TestDocs compares the table of docs/boot.md with the options.
func TestDocs(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "boot.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all() {
		row := "| `" + o.Path + "` | `" + strings.ReplaceAll(strings.Join(o.Want, "` or `"), "|", `\|`) + "` | " + o.Why + " |\n"
		if strings.Join(o.Want, "") == "" {
			row = "| `" + o.Path + "` | empty | " + o.Why + " |\n"
		}
		if !strings.Contains(string(doc), row) {
			t.Errorf("docs/boot.md has no row %s", row)
		}
	}
}

// bus makes a /sys with disks by name, each behind a PCI function.
func bus(t *testing.T, disks map[string]string) string {
	t.Helper()
	root := tree(t, map[string]string{
		"/sys/bus/pci/drivers_autoprobe": "1", "/sys/bus/virtio/drivers_autoprobe": "1",
		"/proc/sys/kernel/modules_disabled": "0", "/proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
		"/sys/class/block/.keep": "",
	})
	for name, function := range disks {
		dir := filepath.Join(root, "/sys/devices/pci0000:00", function, "virtio0/block", name)
		if err := os.MkdirAll(filepath.Join(dir, "device"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(dir, filepath.Join(root, "/sys/class/block", name)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestSealSettings(t *testing.T) {
	root := bus(t, map[string]string{"vda": "0000:00:02.0"})
	if n, err := Seal(root, "vda"); n != 0 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	for path, want := range map[string]string{"/sys/bus/pci/drivers_autoprobe": "0", "/sys/bus/virtio/drivers_autoprobe": "0", "/proc/sys/kernel/modules_disabled": "1"} {
		if got, _ := os.ReadFile(filepath.Join(root, path)); string(got) != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	for want, disks := range map[string]map[string]string{
		"same PCI function":  {"vda": "0000:00:02.0", "vdb": "0000:00:02.0"},
		"it is still there":  {"vda": "0000:00:02.0", "vdb": "0000:00:03.0"}, // a plain file removes nothing
		"finding the bus":    {"vdb": "0000:00:03.0"},
		"behind no PCI func": {"vda": "platform"},
	} {
		if _, err := Seal(bus(t, disks), "vda"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
	root := bus(t, map[string]string{"vda": "0000:00:02.0"})
	if err := os.WriteFile(filepath.Join(root, "/proc/swaps"), []byte("Filename\n/dev/nvme0n1 partition 8 0 -2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Seal(root, "vda"); err == nil || !strings.Contains(err.Error(), "/proc/swaps") {
		t.Errorf("got error %v, want one about the swap area", err)
	}
}

func TestSealNamesTheFunction(t *testing.T) {
	root := bus(t, map[string]string{"vda": "0000:00:02.0", "vdb": "0000:03:00.0"})
	_, _ = Seal(root, "vda")
	found, _ := filepath.Glob(filepath.Join(root, "/sys/devices/pci0000:00/*/remove"))
	if want := []string{filepath.Join(root, "/sys/devices/pci0000:00/0000:03:00.0/remove")}; !slices.Equal(found, want) {
		t.Errorf("removed %q, want %q", found, want)
	}
}

func TestUnbind(t *testing.T) {
	root := tree(t, map[string]string{"/sys/bus/virtio/drivers/virtio_console/virtio3/uevent": ""})
	if err := Unbind(root, "virtio_console"); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(filepath.Join(root, "/sys/bus/virtio/drivers/virtio_console/unbind")); string(got) != "virtio3" {
		t.Errorf("got %q, want virtio3", got)
	}
	if err := Unbind(t.TempDir(), "virtio_console"); err != nil {
		t.Errorf("without the driver: %v", err)
	}
}
