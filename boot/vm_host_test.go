package boot_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/pins"
)

// TestVMHost plays a host that changes the machine of a VM: before it starts, while
// PID 1 runs, and under the booted system. Those that make test boots are marked.
func TestVMHost(t *testing.T) {
	needs.Boot(t)
	b := newBench(t)
	payload := int64(b.disk.pins.PayloadOffset)
	block := func(n int64) int64 { return payload + n*pins.BlockSize }
	const waits = "guest: waiting for corruption"
	hasty := func(v *vm) { v.files["init"] = b.hasty }

	for _, c := range []struct {
		name string
		fast bool // make test boots it
		run  func(v *vm)
	}{
		{"disk plugged while it boots", true, func(v *vm) {
			v.port("late")
			v.onLine("rootvouch: agent: ", func() { v.plug(b.other, "late") })
			v.good(`rootvouch: hand-over: no further modules and devices, 1 other disks taken away`, `guest: disks are vda$`)
		}},
		{"disk plugged under the booted system", false, func(v *vm) {
			v.port("late")
			v.config.CommandLine += " guest.wait"
			v.onLine("guest: waiting for the host", func() { v.plug(b.other, "late") })
			// Linux gives a plugged PCI function a driver, whatever the bus's
			// drivers_autoprobe says. The virtio device behind it gets none.
			v.good(`guest: then disks are vda$`, `guest: new device 0000:[0-9a-f:.]+ has `)
		}},
		{"disk pulled while it boots", false, func(v *vm) {
			v.pullable()
			v.onLine("rootvouch: dm-verity: ", func() { v.monitor.with("device_del", map[string]any{"id": "rootdisk"}) })
			v.refused(`verify: reading data block [0-9]+: input/output error`)
		}},
		{"disk pulled under the booted system", false, func(v *vm) {
			v.use(b.waiting)
			v.pullable()
			v.config.CommandLine += " guest.verbose"
			v.onLine(waits, func() { v.monitor.with("device_del", map[string]any{"id": "rootdisk"}) })
			v.panicked("dm-verity device has I/O error")
		}},
		{"devices of every kind", true, func(v *vm) {
			v.devices = everyKind()
			out := v.good(`guest: disks are vda$`, `guest: loading a module gives operation not permitted$`)
			v.wantDrivers(out)
		}},
		{"disks that take writes", true, func(v *vm) {
			v.own()
			v.pullable("readonly=off")
			spare := filepath.Join(v.t.TempDir(), "spare")
			if err := os.WriteFile(spare, make([]byte, 8<<20), 0o600); err != nil {
				v.t.Fatal(err)
			}
			v.devices = []string{"-drive", "file=" + spare + ",format=raw,if=virtio,cache=writeback"}
			v.good(`rootvouch: hand-over: .*, 1 other disks taken away`)
			if !bytes.Equal(readFile(v.t, spare), make([]byte, 8<<20)) || !bytes.Equal(readFile(v.t, v.diskPath), readFile(v.t, b.disk.path)) {
				v.t.Error("the guest wrote to a disk of the host's")
			}
		}},
		{"a disk before the right one", false, func(v *vm) {
			v.devices = []string{"-drive", "file=" + b.other.path + ",format=raw,if=virtio,readonly=on"}
			v.good(`rootvouch: header: vdb is disk `, `rootvouch: hand-over: .*, 1 other disks taken away`, `guest: disks are vdb$`)
		}},
		{"the right disk twice", false, func(v *vm) {
			v.devices = []string{"-drive", "file=" + b.disk.path + ",format=raw,if=virtio,readonly=on"}
			v.good(`rootvouch: hand-over: .*, 1 other disks taken away`, `guest: disks are vd[ab]$`)
		}},
		{"two disks, none measured", false, func(v *vm) {
			v.config.Disk.Header = nil
			v.devices = []string{"-drive", "file=" + b.waiting.path + ",format=raw,if=virtio,readonly=on"}
			v.refused(`key: looking for the encrypted disk: vd[ab] is [0-9a-f-]+ and vd[ab] is [0-9a-f-]+; pin one in the boot configuration$`)
		}},
		{"more disks than are looked at", false, func(v *vm) {
			v.config.CommandLine = cmdline.Default("nvme") + " no_timer_check"
			v.devices = []string{"-device", "nvme,id=many,serial=many"}
			for i := range 17 {
				n := strconv.Itoa(i)
				v.devices = append(v.devices, "-blockdev", "null-co,size=4194304,node-name=many"+n, "-device", "nvme-ns,bus=many,drive=many"+n)
			}
			v.refused(`header: looking for a disk .*: got more than 16$`)
		}},
		{"blocks swapped", true, func(v *vm) {
			v.swap(block(100), block(101))
			v.refused(`verify: .*data block 10[01] is corrupt`)
		}},
		{"blocks swapped under the booted system", false, func(v *vm) {
			v.use(b.waiting)
			v.own()
			v.config.CommandLine += " guest.verbose"
			v.onLine(waits, func() { v.swap(block(100), block(101)) })
			v.panicked("dm-verity device corrupted")
		}},
		{"a block of an older root with the same keys", false, func(v *vm) {
			at := v.firstDifference(b.older, payload)
			v.copyFrom(b.older, at, pins.BlockSize)
			v.refused(`verify: .*block [0-9]+ is corrupt`)
		}},
		{"all of an older root with the same keys", false, func(v *vm) {
			v.copyFrom(b.older, payload, int64(b.older.pins.PayloadSize))
			v.refused(`(dm-verity|verify): `)
		}},
		{"disk cut while it boots", false, func(v *vm) {
			v.own()
			v.onLine("rootvouch: dm-verity: ", func() { v.truncate(block(64)) })
			v.refused(`verify: `)
		}},
		{"disk cut under the booted system", false, func(v *vm) {
			v.use(b.waiting)
			v.own()
			v.config.CommandLine += " guest.verbose"
			v.onLine(waits, func() { v.truncate(block(64)) })
			v.panicked("dm-verity device (corrupted|has I/O error)")
		}},
		{"disk grown", false, func(v *vm) {
			info, err := os.Stat(v.diskPath)
			if err != nil {
				v.t.Fatal(err)
			}
			v.truncate(info.Size() + 1<<20)
			v.good(`guest: proof is "the right root"`)
		}},
		{"disk grown under the booted system", false, func(v *vm) {
			v.own()
			v.pullable("readonly=off")
			v.config.CommandLine += " guest.wait"
			v.onLine("guest: waiting for the host", func() {
				v.monitor.with("block_resize", map[string]any{"device": "root", "size": 1 << 30})
			})
			v.good(`guest: disk has 2097152 sectors$`, `guest: then proof is "the right root"`)
		}},
		{"a sector that cannot be read", false, func(v *vm) {
			v.disk = func() []string {
				return []string{"-blockdev", fmt.Sprintf(`{"driver":"blkdebug","node-name":"root","read-only":true,"image":{"driver":"file","filename":%q},"inject-error":[{"event":"none","iotype":"read","sector":%d,"errno":5}]}`, v.diskPath, block(100)/512),
					"-device", "virtio-blk-pci,drive=root"}
			}
			v.refused(`verify: reading data block [0-9]+: input/output error`)
		}},
		{"a disk that stalls", false, func(v *vm) {
			v.pullable()
			v.onLine("rootvouch: dm-verity: ", func() {
				v.monitor.with("block_set_io_throttle", map[string]any{"device": "root", "bps": 1, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0})
			})
			v.refused(`verify: .*`)
		}},
		{"clock in 1990", false, func(v *vm) {
			v.devices = []string{"-rtc", "base=1990-01-01T00:00:00"}
			v.good(`rootvouch: clock: set to floor 2026-01-01T00:00:00Z, was 1990-01-01T00:0`, `guest: time is 2026-01-01T00:0`)
		}},
		{"clock in 2090", false, func(v *vm) { // certificates then fail: e2e.TestClockAhead
			v.devices = []string{"-rtc", "base=2090-01-01T00:00:00"}
			v.good(`rootvouch: clock: 2090-01-01T00:`)
		}},
		{"stopped for longer than a step may take", false, func(v *vm) {
			hasty(v)
			v.onLine("rootvouch: key: ", func() {
				v.monitor.execute("stop")
				time.Sleep(8 * time.Second) // the host's time, which is the attack: step header has 2 s
				v.monitor.execute("cont")
			})
			v.good(`rootvouch: header: .* \([0-9]{1,4} ms\)$`)
		}},
		{"clock that runs away", false, func(v *vm) {
			hasty(v)
			v.devices = []string{"-icount", "shift=7,sleep=off"} // 128 ns for each instruction
			v.refused(`(modules|network|agent|key|header|dm-crypt): `)
		}},
		{"too little memory", false, func(v *vm) {
			v.devices = []string{"-m", "96"}
			out := v.bootTo("guest-reset")
			if strings.Contains(out, "rootvouch: ") || strings.Contains(out, "guest: ") {
				v.t.Errorf("PID 1 ran:\n%s", out)
			}
			v.t.Log("observed: reset before PID 1")
		}},
		{"one processor", false, func(v *vm) {
			v.devices = []string{"-smp", "1"}
			v.good(`rootvouch: start: kernel [^ ]+, 1 CPUs, `)
		}},
		{"no network device", false, func(v *vm) {
			v.network = nil
			hasty(v)
			v.refused(`network: `)
		}},
		{"a network that answers nothing", false, func(v *vm) {
			v.network = []string{"-netdev", "hubport,id=net,hubid=7", "-device", "virtio-net-pci,netdev=net"}
			hasty(v)
			v.refused(`network: `)
		}},
		{"half a reply of fetchkey", false, func(v *vm) {
			v.set("fetchkey", "half")
			v.refused(`key: `)
		}},
		{"an endless reply of fetchkey", false, func(v *vm) {
			v.set("fetchkey", "much")
			v.refused(`key: `)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !c.fast {
				needs.Matrix(t)
			}
			t.Parallel()
			v := b.vm(t)
			c.run(v)
		})
	}
}

// refused boots a VM that must refuse, in one line that the expression matches,
// and power off without having reached the root filesystem.
func (v *vm) refused(want string) {
	v.t.Helper()
	out := v.bootTo("guest-shutdown")
	refused := regexp.MustCompile(`(?m)^rootvouch: refused: (.*?)\r?$`).FindAllStringSubmatch(out, -1)
	if len(refused) != 1 || !regexp.MustCompile("^(?:"+want+")").MatchString(refused[0][1]) {
		v.t.Errorf("got the refusals %q, want one that matches %q", refused, want)
	} else {
		v.t.Logf("observed: refused: %s, powered off", refused[0][1])
	}
	if strings.Contains(out, "guest:") {
		v.t.Error("the root filesystem was reached")
	}
	if v.t.Failed() {
		v.t.Logf("console:\n%s", out)
	}
}

// good boots a VM that must reach its root filesystem, with lines that match, and
// power off. It returns the console.
func (v *vm) good(want ...string) string {
	v.t.Helper()
	out := v.boot()
	for _, w := range append(want, "guest: reached the root filesystem") {
		if !regexp.MustCompile("(?m)^" + w).MatchString(out) {
			v.t.Errorf("console has no line that matches %q", w)
		}
	}
	if v.t.Failed() {
		v.t.Logf("console:\n%s", out)
	} else {
		v.t.Log("observed: it boots, with " + firstMatch(out, want))
	}
	return out
}

// panicked boots a VM whose kernel must panic after the switch, for a reason that
// the expression matches.
func (v *vm) panicked(want string) {
	v.t.Helper()
	out := v.bootTo("guest-reset")
	found := regexp.MustCompile("Kernel panic - not syncing: " + want).FindString(out)
	if found == "" || !strings.Contains(out, "guest: reached the root filesystem") || strings.Contains(out, "read the whole disk again") {
		v.t.Errorf("got no panic that matches %q:\n%s", want, out)
	}
	v.t.Logf("observed: %s, reset", found)
}

func firstMatch(out string, want []string) string {
	if len(want) == 0 {
		return "nothing more"
	}
	return strings.TrimSpace(regexp.MustCompile("(?m)^" + want[0]).FindString(out))
}

// port gives the machine a PCI port into which the host can plug a device.
func (v *vm) port(name string) {
	v.devices = append(v.devices, "-device", "pcie-root-port,id="+name+",chassis=7")
}

// plug has the host plug a disk into a port.
func (v *vm) plug(d testDisk, port string) {
	v.monitor.with("blockdev-add", map[string]any{"driver": "raw", "node-name": "plugged", "read-only": true,
		"file": map[string]any{"driver": "file", "filename": d.path}})
	v.monitor.with("device_add", map[string]any{"driver": "virtio-blk-pci", "drive": "plugged", "bus": port, "id": "pluggeddisk"})
}

// pullable puts the VM's disk into a port, so that the host can pull it.
func (v *vm) pullable(options ...string) {
	if len(options) == 0 {
		options = []string{"readonly=on"}
	}
	v.disk = func() []string {
		return []string{"-device", "pcie-root-port,id=rootport,chassis=8",
			"-drive", "file=" + v.diskPath + ",format=raw,if=none,id=root,cache=writeback," + strings.Join(options, ","),
			"-device", "virtio-blk-pci,id=rootdisk,drive=root,bus=rootport"}
	}
}

// change opens the VM's own copy of its disk.
func (v *vm) change(do func(f *os.File) error) {
	v.own()
	f, err := os.OpenFile(v.diskPath, os.O_RDWR, 0)
	if err != nil {
		v.t.Error(err)
		return
	}
	defer f.Close()
	if err := do(f); err != nil {
		v.t.Error(err)
	}
}

// swap exchanges two blocks of the disk, as they are stored.
func (v *vm) swap(a, b int64) {
	v.change(func(f *os.File) error {
		blocks := [2][]byte{make([]byte, pins.BlockSize), make([]byte, pins.BlockSize)}
		for i, at := range []int64{a, b} {
			if _, err := f.ReadAt(blocks[i], at); err != nil {
				return err
			}
		}
		for i, at := range []int64{b, a} {
			if _, err := f.WriteAt(blocks[i], at); err != nil {
				return err
			}
		}
		return nil
	})
}

// copyFrom replays a part of another disk.
func (v *vm) copyFrom(d testDisk, at, size int64) {
	v.change(func(f *os.File) error {
		other, err := os.Open(d.path)
		if err != nil {
			return err
		}
		defer other.Close()
		_, err = io.Copy(io.NewOffsetWriter(f, at), io.NewSectionReader(other, at, size))
		return err
	})
}

// firstDifference returns the first offset, from a given one on, at which the
// stored blocks of the VM's disk and of another differ.
func (v *vm) firstDifference(d testDisk, from int64) int64 {
	a, b := readFile(v.t, v.diskPath), readFile(v.t, d.path)
	for at := from; at+pins.BlockSize <= int64(min(len(a), len(b))); at += pins.BlockSize {
		if string(a[at:at+pins.BlockSize]) != string(b[at:at+pins.BlockSize]) {
			return at
		}
	}
	v.t.Fatal("the disks do not differ")
	return 0
}

// everyKind returns QEMU's arguments for one device of each kind for which the
// kernel may have a driver, built in or as a module.
func everyKind() []string {
	args := []string{"-object", "memory-backend-ram,id=shared,size=1M", "-device", "ivshmem-plain,memdev=shared",
		"-blockdev", "null-co,size=4194304,node-name=null0", "-blockdev", "null-co,size=4194304,node-name=null1",
		"-blockdev", "null-co,size=4194304,node-name=null2", "-blockdev", "null-co,size=4194304,node-name=null3"}
	for _, d := range []string{"virtio-balloon-pci", "virtio-rng-pci", "virtio-keyboard-pci", "virtio-gpu-pci",
		"virtio-scsi-pci,id=vscsi", "scsi-hd,bus=vscsi.0,drive=null0", "nvme,drive=null1,serial=host", "ahci,id=sata", "ide-hd,bus=sata.0,drive=null2",
		"qemu-xhci,id=usb", "usb-kbd,bus=usb.0", "usb-storage,bus=usb.0,drive=null3", "e1000e", "vmxnet3", "pvpanic-pci", "i6300esb", "sdhci-pci", "pvscsi", "pci-serial", "edu"} {
		args = append(args, "-device", d)
	}
	return args
}

// wantDrivers checks that a booted system has only the drivers and modules of the
// initramfs and of the kernel itself.
func (v *vm) wantDrivers(out string) {
	v.t.Helper()
	allowed := regexp.MustCompile(`^(virtio_blk|virtio_net|virtio_console|virtio_rng)$`)
	bound := regexp.MustCompile(`(?m)^guest: virtio drivers are (.*?)\r?$`).FindStringSubmatch(out)
	if bound == nil || !strings.Contains(bound[1], "virtio_blk") {
		v.t.Fatal("the guest does not say which virtio drivers are bound")
	}
	for _, driver := range strings.Fields(bound[1]) {
		if !allowed.MatchString(driver) {
			v.t.Errorf("the driver %s is bound", driver)
		}
	}
	pci := regexp.MustCompile(`(?m)^guest: pci drivers are (.*?)\r?$`).FindStringSubmatch(out)
	if pci == nil || !strings.Contains(pci[1], "virtio-pci") {
		v.t.Fatal("the guest does not say which PCI drivers are bound")
	}
	for _, driver := range strings.Fields(pci[1]) {
		if driver != "virtio-pci" && driver != "pcieport" {
			v.t.Errorf("the driver %s is bound", driver)
		}
	}
	modules := regexp.MustCompile(`(?m)^guest: modules are (.*?)\r?$`).FindStringSubmatch(out)
	if modules == nil || !strings.Contains(modules[1], "dm_verity") {
		v.t.Fatal("the guest does not say which modules are loaded")
	}
	ours := map[string]bool{}
	for _, path := range v.bench.modules {
		ours[strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")] = true
	}
	for _, m := range strings.Fields(modules[1]) {
		if !ours[m] {
			v.t.Errorf("the module %s is loaded, and not in the initramfs", m)
		}
	}
}
