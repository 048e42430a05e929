package gate_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/gate/tables"
	"github.com/rootvouch/rootvouch/initramfs/kmod"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/test/acpitest"
	"github.com/rootvouch/rootvouch/test/vmtest"
)

// TestVMPower presses the power button of a VM behind the gate, whose kernel has
// the driver of the button. The VM then powers itself off. Before that the host
// plugs processors, memory and a device. The tables have no hotplug, so the kernel
// sees none of them.
func TestVMPower(t *testing.T) {
	needs.Boot(t)
	tree, err := kmod.Open([]string{filepath.Join(needs.Cache(t), "kernel")}, "")
	if err != nil {
		t.Fatal(err)
	}
	selection, err := tree.Select([]kmod.Want{{Names: []string{"button"}}})
	if err != nil {
		t.Fatal(err)
	}
	modules := map[string][]byte{}
	for _, m := range selection.Modules {
		modules["lib/modules/"+m.Name+".ko"] = m.Data
	}
	g := gated(t, "guest=power")
	g.Initramfs = vmtest.TinyInitramfs(t, modules)
	monitor, socket := vmtest.Monitored(t)
	args := append(monitor, "-smp", "2,maxcpus=4,sockets=4,cores=1,threads=1", "-m", "1024,slots=2,maxmem=4G", "-device", "pcie-root-port,id=late,chassis=7",
		"-blockdev", "null-co,size=4194304,node-name=null0", "-object", "memory-backend-ram,id=more,size=256M")
	m := vmtest.BootWith(t, g, adding(t, args...))
	m.Expect("guest: loading button.ko <nil>")
	has := m.Expect("guest: has ")
	m.Expect("guest: waiting for the power button")
	for _, device := range []map[string]any{
		{"driver": "EPYC-v4-x86_64-cpu", "socket-id": 2, "core-id": 0, "thread-id": 0},
		{"driver": "pc-dimm", "memdev": "more"},
		{"driver": "nvme", "drive": "null0", "bus": "late", "serial": "late"}, // whose driver is built in
	} {
		vmtest.Command(t, socket, "device_add", device)
	}
	vmtest.Command(t, socket, "system_powerdown", nil)
	m.Expect("guest: the power button was pressed: 0 1")
	then := m.Expect("guest: then has ")
	_, has, _ = strings.Cut(has, "has ")
	if _, then, _ = strings.Cut(then, "has "); then != has {
		t.Errorf("the kernel has %s after the host plugged more, want %s", then, has)
	}
	m.PoweredOff()
	t.Log("observed: the button is seen, power goes off, what was plugged is not there")
}

// TestVMBackports boots the newer kernel behind the gate.
func TestVMBackports(t *testing.T) {
	needs.Boot(t)
	g := gated(t, "guest=machine")
	g.Kernel = vmtest.Gated(t, needs.Part(t, "kernel-backports/boot/vmlinuz-*"))
	s := machine(t, vmtest.BootWith(t, g, adding(t)))
	s.behindTheGate(t)
	if version := s["text version"]; !strings.HasPrefix(version, "Linux version 7.") {
		t.Errorf("the kernel's version is %q", version)
	}
}

// TestVMTables gives tables of every kind that makes a kernel write, call or trust
// to the bare kernel and to the kernel behind the gate. The bare kernel takes all
// of them.
func TestVMTables(t *testing.T) {
	needs.Matrix(t)
	h := acpitest.Q35(1)
	hostile := map[string][]byte{}
	for _, name := range []string{"ERST", "EINJ", "HEST", "BERT", "WDAT", "SRAT", "SLIT", "DMAR", "TPM2", "BOOT", "DBG2", "WAET"} {
		hostile[name] = acpitest.Table(name, make([]byte, 64))
	}
	h.Others = slices.DeleteFunc(h.Others, func(t []byte) bool {
		switch name := string(t[:4]); name {
		case "APIC": // a mailbox by which other processors are started: an address to write to
			hostile[name] = acpitest.Longer(t, append([]byte{16, 16, 0, 0, 0, 0, 0, 0}, binary.LittleEndian.AppendUint64(nil, 0x2000000)...))
		case "MCFG": // configuration space elsewhere
			hostile[name] = slices.Clone(t)
			binary.LittleEndian.PutUint64(hostile[name][44:], 0x30000000)
		default:
			return false
		}
		return true
	})
	for _, name := range slices.Sorted(maps.Keys(hostile)) {
		h.Others = append(h.Others, hostile[name])
	}
	g := gated(t, "guest=machine")
	g.VCPUs = 1
	bare := g
	bare.Kernel, bare.AcceptBareKernel = vmtest.BareKernel(t), true
	seenBy := func(g platform.Guest) seen {
		m := vmtest.BootWith(t, g, adding(t, h.Args(t)...))
		m.Expect("guest: off")
		m.Ended()
		return parse(t, m)
	}
	control, behind := seenBy(bare), seenBy(g)
	behind.behindTheGate(t)
	for _, name := range slices.Sorted(maps.Keys(hostile)) {
		t.Run(name, func(t *testing.T) {
			want := string(hostile[name][36:])
			if name == "APIC" { // the kernel has taken the mailbox's address out
				want = strings.TrimSuffix(want, want[len(want)-8:]) + strings.Repeat("\x00", 8)
			}
			if got := control["acpi "+name]; len(got) < 36 || got[36:] != want {
				t.Fatalf("the bare kernel has another %s than the host's, so nothing is shown", name)
			}
			// behindTheGate has compared the gate's own tables, byte for byte.
			if _, there := behind["acpi "+name]; there != slices.Contains(tables.Names(), name) {
				t.Errorf("%s is behind the gate: %v", name, there)
			}
			t.Log("observed: the bare kernel has it, the one behind the gate has not")
		})
	}
	t.Run("RSDP", func(t *testing.T) {
		host, ours := control["text systab"], behind["text systab"]
		if !strings.Contains(host, "ACPI20=0x") || host == ours {
			t.Errorf("the root pointer of the host is %q, behind the gate %q: want another", host, ours)
		}
		t.Log("observed: the kernel behind the gate is given another root pointer than the host's")
	})
}

// TestVMFirmwareInput gives malformed input to the firmware. In every case only the
// kernel behind the gate may start, with our tables.
func TestVMFirmwareInput(t *testing.T) {
	needs.Matrix(t)
	file := func(t *testing.T, data []byte) string {
		path := filepath.Join(t.TempDir(), "input")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fwcfg := func(name string, data []byte) func(*testing.T) []string {
		return func(t *testing.T) []string {
			return []string{"-machine", "acpi=off", "-fw_cfg", "name=" + name + ",file=" + file(t, data)}
		}
	}
	for name, args := range map[string]func(t *testing.T) []string{
		"a script of tables that points outside": fwcfg("etc/table-loader", loaderCommands()),
		"a script of tables of random bytes":     fwcfg("etc/table-loader", noise(128*64)),
		"a huge number of root bridges":          fwcfg("etc/extra-pci-roots", bytes.Repeat([]byte{0xff}, 8)),
		"a window that is no number":             fwcfg("opt/ovmf/X-PciMmio64Mb", bytes.Repeat([]byte{'9'}, 4096)),
		"a boot order of random bytes":           fwcfg("bootorder", noise(4096)),
		"SMBIOS structures of random bytes": func(t *testing.T) []string {
			table := append([]byte{1, 27, 0, 1}, noise(23)...) // a system with strings that are not there
			return []string{"-smbios", "file=" + file(t, append(table, 0, 0)), "-smbios", "type=11,value=" + strings.Repeat("x", 2000)}
		},
		"FAT whose clusters go in circles": func(t *testing.T) []string { return disk(file(t, fat(func(b []byte) {}))) },
		"FAT with clusters of no size":     func(t *testing.T) []string { return disk(file(t, fat(func(b []byte) { b[13] = 0 }))) },
		"FAT that ends before it begins": func(t *testing.T) []string {
			return disk(file(t, fat(func(b []byte) { copy(b[14:], []byte{0xff, 0xff}); copy(b[22:], []byte{0xff, 0xff}) })))
		},
		"a GPT of random bytes": func(t *testing.T) []string {
			table := noise(1 << 20)
			copy(table[512:], "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
			return disk(file(t, table))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := adding(t, args(t)...)
			o.StartTimeout = 90 * time.Second
			m := vmtest.BootWith(t, gated(t, "guest=machine"), o)
			switch end := m.Ended(); {
			case end.Outcome == platform.PoweredOff && len(m.Lines()) > 1:
				parse(t, m).behindTheGate(t)
				t.Log("observed: the kernel behind the gate starts, with our tables")
			case len(m.Lines()) == 0 && (end.Outcome == platform.KernelNeverStarted || end.Outcome == platform.PoweredOff):
				t.Logf("observed: no kernel starts (%s)", end.Outcome)
			default:
				if lines := m.Lines(); len(lines) != 1 || !strings.HasPrefix(lines[0], "gate: refused: ") {
					t.Errorf("the VM ended with %q", end.Outcome)
				} else {
					t.Logf("observed: %s, powered off", lines[0])
				}
			}
		})
	}
}

// noise returns bytes that look random and are the same in each run.
func noise(n int) []byte {
	b, state := make([]byte, n), uint64(1)
	for i := range b {
		state = state*6364136223846793005 + 1442695040888963407
		b[i] = byte(state >> 56)
	}
	return b
}

// loaderCommands is a script of QEMU's table loader (QEMU, hw/acpi/bios-linker-
// loader.c) whose commands name missing files, and offsets outside of existing
// ones.
func loaderCommands() []byte {
	var script []byte
	command := func(kind uint32, rest ...[]byte) {
		c := binary.LittleEndian.AppendUint32(nil, kind)
		for _, r := range rest {
			c = append(c, r...)
		}
		script = append(script, append(c, make([]byte, 128-len(c))...)...)
	}
	name := func(s string) []byte { return append([]byte(s), make([]byte, 56-len(s))...) }
	number := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	for _, at := range []uint32{0, 0x7fffffff, 0xfffffffc, 0xffffffff} {
		command(1, name("etc/table-loader"), number(at), []byte{1})
		command(2, name("etc/table-loader"), name("etc/none"), number(at), []byte{8})
		command(2, name("etc/table-loader"), name("etc/table-loader"), number(at), []byte{byte(at)})
		command(3, name("etc/table-loader"), number(at), number(at), number(at))
		command(4, name("etc/table-loader"), name("etc/table-loader"), number(at), number(at), []byte{8})
	}
	return script
}

// disk is a disk of the host's.
func disk(path string) []string {
	return []string{"-drive", "file=" + path + ",format=raw,if=none,id=evil,readonly=on", "-device", "virtio-blk-pci,drive=evil,disable-legacy=on"}
}

// fat returns a FAT12 volume (Microsoft FAT specification, 2005) with a root entry
// NVVARS whose clusters form a circle, changed by edit.
func fat(edit func(boot []byte)) []byte {
	b := make([]byte, 1440<<10)
	copy(b, "\xeb\x3c\x90MSDOS5.0\x00\x02\x01\x01\x00\x02\xe0\x00\x40\x0b\xf0\x09\x00\x12\x00\x02\x00")
	copy(b[510:], "\x55\xaa")
	for _, at := range []int{512, 512 * 10} { // both copies of the table
		copy(b[at:], "\xf0\xff\xff\x03\x20\x00") // cluster 2 leads to 3, and 3 to 2
	}
	entry := b[512*19:]
	copy(entry, "NVVARS     \x20")
	entry[26] = 2
	binary.LittleEndian.PutUint32(entry[28:], 0xffffffff)
	edit(b)
	return b
}

// exported returns a machine with the disks that an export may use, by the kind of
// controller, and with devices behind bridges.
func exported(kinds ...string) []string {
	args := []string{"-device", "pcie-root-port,id=rp1,chassis=1", "-device", "pcie-root-port,id=rp2,chassis=2",
		"-device", "x3130-upstream,id=up,bus=rp1", "-device", "xio3130-downstream,id=down,bus=up,chassis=3", "-device", "pcie-pci-bridge,id=old,bus=rp2"}
	for i, kind := range kinds {
		n := strconv.Itoa(i)
		args = append(args, "-blockdev", "null-co,size=4194304,node-name=export"+n)
		switch kind {
		case "scsi":
			args = append(args, "-device", "virtio-scsi-pci,id=scsi"+n, "-device", "scsi-hd,bus=scsi"+n+".0,drive=export"+n)
		case "nvme":
			args = append(args, "-device", "nvme,serial="+n+",drive=export"+n)
		case "bridged":
			args = append(args, "-device", "virtio-blk-pci,bus=down,drive=export"+n)
		case "conventional":
			args = append(args, "-device", "virtio-blk-pci,bus=old,drive=export"+n)
		default:
			args = append(args, "-device", "virtio-blk-pci,drive=export"+n)
		}
	}
	return args
}
