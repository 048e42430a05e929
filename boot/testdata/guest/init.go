package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/dm"
	"golang.org/x/sys/unix"
)

// rootInit is the init of the root filesystem. It prints its observations, one
// "guest:" line each, and powers off.
func rootInit() {
	say("reached the root filesystem")
	sayFile("proof", "/etc/proof")
	say("PID %d, args %q, stdout is %s", os.Getpid(), os.Args, link("/proc/self/fd/1"))
	say("time is %s", time.Now().UTC().Format(time.RFC3339))
	sayEnvironment()
	sayMounts()
	sayBootLog()
	sayTables()
	sayMemory()
	sayProcesses()
	sayAttestd()
	say("resolv.conf is a link to %s", link("/etc/resolv.conf"))
	sayFile("network unit", "/run/systemd/network/10-rootvouch.network")
	sayFile("IPv6 addresses", "/proc/net/if_inet6")
	for _, name := range []string{"panic_on_oops", "printk", "modules_disabled", "kexec_load_disabled", "sysrq", "unprivileged_bpf_disabled"} {
		sayFile(name, "/proc/sys/kernel/"+name)
	}
	sayFile("lockdown", "/sys/kernel/security/lockdown")
	sayFile("hibernation", "/sys/power/disk")
	sayFile("accept_ra", "/proc/sys/net/ipv6/conf/default/accept_ra")
	sayFile("machine ID", "/etc/machine-id")
	say("systemd-fstab-generator is a link to %s", link("/run/systemd/system-generators/systemd-fstab-generator"))
	say("serial-getty@.service is a link to %s", link("/run/systemd/system/serial-getty@.service"))
	say("disks are %s", disks())
	sayDrivers()
	onVolumes()
	say("writing gives %v", os.WriteFile("/etc/written", nil, 0o600))
	if wants("guest.verbose") {
		say("messages on: %v", os.WriteFile("/proc/sys/kernel/printk", []byte("7"), 0))
	}
	if wants("guest.wait") {
		waitForHost()
	}
	if wants("guest.nmi") {
		say("waiting for an NMI")
		time.Sleep(20 * time.Second)
		say("still here")
	}
	if _, err := os.Stat("/etc/wait-for-corruption"); err == nil {
		takeDiskAway()
		readAgain()
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func say(format string, args ...any) { fmt.Printf("guest: "+format+"\n", args...) }

func sayFile(what, path string) {
	data, err := os.ReadFile(path)
	say("%s is %q (%v)", what, data, err)
}

func link(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return err.Error()
	}
	return target
}

func sayEnvironment() {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	held, err := os.ReadDir(dir)
	say("environment is %q, %s holds %d credentials (%v)", os.Environ(), dir, len(held), err)
}

// wants reports whether the command line has a word.
func wants(word string) bool {
	line, _ := os.ReadFile("/proc/cmdline")
	return slices.Contains(strings.Fields(string(line)), word)
}

// disks lists the disks with hardware behind them.
func disks() string {
	devices, _ := filepath.Glob("/sys/class/block/*/device")
	var names []string
	for _, d := range devices {
		names = append(names, filepath.Base(filepath.Dir(d)))
	}
	return strings.Join(names, " ")
}

// sayDrivers prints the drivers of virtio and PCI devices and the modules that are
// loaded, and tries to load one.
func sayDrivers() {
	for bus, devices := range map[string]string{"virtio": "virtio[0-9]*", "pci": "0000:*"} {
		drivers, _ := filepath.Glob("/sys/bus/" + bus + "/drivers/*/" + devices)
		var bound []string
		for _, d := range drivers {
			bound = append(bound, filepath.Base(filepath.Dir(d)))
		}
		say("%s drivers are %s", bus, strings.Join(bound, " "))
	}
	data, _ := os.ReadFile("/proc/modules")
	var modules []string
	for line := range strings.Lines(string(data)) {
		modules = append(modules, strings.Fields(line)[0])
	}
	say("modules are %s", strings.Join(modules, " "))
	say("loading a module gives %v", unix.InitModule([]byte("no module"), ""))
}

// waitForHost waits until the host has plugged a device or changed the disk's size,
// and prints the effect.
func waitForHost() {
	pci := func() []string { found, _ := filepath.Glob("/sys/bus/pci/devices/*"); return found }
	size := func() string {
		data, _ := os.ReadFile("/sys/class/block/vda/size")
		return strings.TrimSpace(string(data))
	}
	devices, sectors := pci(), size()
	say("waiting for the host")
	for range 600 { // a minute
		if len(pci()) != len(devices) || size() != sectors {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(time.Second) // for a driver that should not bind
	for _, d := range pci() {
		if slices.Contains(devices, d) {
			continue
		}
		driver := "the driver " + filepath.Base(link(d+"/driver"))
		if _, err := os.Lstat(d + "/driver"); os.IsNotExist(err) {
			driver = "no driver"
		}
		say("new device %s has %s", filepath.Base(d), driver)
	}
	say("disk has %s sectors", size())
	say("then disks are %s", disks())
	sayFile("then proof", "/etc/proof")
}

func sayMounts() {
	data, _ := os.ReadFile("/proc/mounts")
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		say("mount %s on %s type %s, %s", f[0], f[1], f[2], f[3])
	}
}

func sayBootLog() {
	data, err := os.ReadFile(bootconfig.BootLogPath)
	if err != nil {
		say("boot log: %v", err)
		return
	}
	log, err := bootlog.Decode(data)
	var names []string
	for _, s := range log.Steps {
		names = append(names, s.Name)
	}
	for _, v := range log.Volumes {
		say("boot log has volume %s on %s, generation %d, %s", v.UUID, v.MountPoint, v.Generation, v.Freshness)
	}
	say("boot log has disk %s, root hash %s, steps %s (%v)", log.DiskUUID, log.RootHash, strings.Join(names, ","), err)
}

// sayTables prints the device-mapper tables as root sees them, in which a key would
// show, and the keys that are left in keyrings.
func sayTables() {
	control, err := dm.Open()
	if err != nil {
		say("device-mapper: %v", err)
		return
	}
	for _, name := range []string{"rootvouch-crypt", "rootvouch-root"} {
		d, err := control.Find(name)
		if err != nil {
			say("device-mapper: %v", err)
			continue
		}
		table, err := d.Table()
		say("table of %s is %q (%v)", name, table, err)
	}
	keys, _ := os.ReadFile("/proc/keys")
	say("a key is left in a keyring: %v", strings.Contains(string(keys), "rootvouch"))
}

// sayMemory prints how much memory files of tmpfs take. The figure would include an
// initramfs that was not freed.
func sayMemory() {
	data, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(data)) {
		var kib int
		if _, err := fmt.Sscanf(line, "Shmem: %d kB", &kib); err == nil {
			say("shmem is %d KiB", kib)
		}
	}
}

// sayProcesses prints every process with a command line. Kernel threads have no
// command line.
func sayProcesses() {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		if data, _ := os.ReadFile(p); len(data) > 0 {
			say("process %s", strings.Split(string(data), "\x00")[0])
		}
	}
}

func sayAttestd() {
	for range 100 {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:8444", time.Second)
		if err == nil {
			answer, _ := io.ReadAll(conn)
			say("attestd: %s", answer)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	sayFile("attestd's log", "/run/rootvouch/attestd.log")
}

// takeDiskAway removes the disk from the PCI bus if the command line says so. Reads
// then give I/O errors, as they do when the host makes them fail.
func takeDiskAway() {
	if !wants("guest.unplug") {
		return
	}
	device, err := filepath.EvalSymlinks("/sys/block/vda/device")
	if err != nil {
		say("looking for the disk: %v", err)
		return
	}
	say("taking the disk away")
	if err := os.WriteFile(filepath.Join(filepath.Dir(device), "remove"), []byte("1"), 0); err != nil {
		say("taking the disk away: %v", err)
	}
}

// readAgain gives the test time to change the disk, has the kernel forget the
// hash blocks that it has verified, and then reads all of the disk.
func readAgain() {
	say("waiting for corruption")
	time.Sleep(3 * time.Second)
	for _, set := range [][2]string{{"/sys/module/dm_bufio/parameters/retain_bytes", "0"}, {"/proc/sys/vm/drop_caches", "3"}} {
		if err := os.WriteFile(set[0], []byte(set[1]), 0); err != nil {
			say("forgetting hash blocks: %v", err)
		}
	}
	time.Sleep(time.Second) // dm-bufio shrinks in the background
	control, err := dm.Open()
	if err != nil {
		say("device-mapper: %v", err)
		return
	}
	d, err := control.Find("rootvouch-root")
	if err != nil {
		say("device-mapper: %v", err)
		return
	}
	fd, err := unix.Open(d.Path(), unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		say("opening the root device: %v", err)
		return
	}
	buf, _ := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	for {
		n, err := unix.Read(fd, buf)
		if n <= 0 {
			say("read the whole disk again (%v)", err)
			return
		}
	}
}
