package gate_test

import (
	_ "embed"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/gate/program"
	"github.com/rootvouch/rootvouch/gate/tables"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/test/acpitest"
	"github.com/rootvouch/rootvouch/test/vmtest"
)

// gated returns a guest whose kernel is behind the gate. Words on the command line
// tell its PID 1 what to do.
func gated(t *testing.T, words string) platform.Guest {
	t.Helper()
	g := vmtest.Guest(t)
	g.Initramfs = vmtest.TinyInitramfs(t)
	// On a busy machine the VM's timer interrupts are late, and the kernel would
	// then declare the timer broken.
	g.CommandLine = "console=ttyS0 loglevel=4 panic=-1 efi=noruntime no_timer_check " + words
	return g
}

// seen holds a guest's output about its machine: "acpi DSDT" and so on.
type seen map[string]string

func machine(t *testing.T, m *vmtest.Machine) seen {
	t.Helper()
	m.PoweredOff()
	return parse(t, m)
}

func parse(t *testing.T, m *vmtest.Machine) seen {
	t.Helper()
	s, text := seen{}, ""
	for _, line := range m.Lines() {
		if more, ok := strings.CutPrefix(line, "guest: + "); ok {
			text += more
		}
		last, ok := strings.CutPrefix(line, "guest: . ")
		if !ok {
			continue
		}
		var kind, name, encoded string
		if n, _ := fmt.Sscanf(text+last, "machine %s %s %s", &kind, &name, &encoded); n < 2 {
			t.Fatalf("the guest says %.80q", text+last)
		}
		data, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		s[kind+" "+name] = string(data)
		text = ""
	}
	if len(s) == 0 {
		t.Fatal("the guest said nothing of its machine")
	}
	return s
}

func (s seen) acpi() (names []string) {
	for name := range s {
		if table, ok := strings.CutPrefix(name, "acpi "); ok {
			names = append(names, table)
		}
	}
	return names
}

// behindTheGate checks the view of a kernel behind the gate: our tables, byte for
// byte, and none of the EFI tables that the host can influence.
func (s seen) behindTheGate(t *testing.T) {
	t.Helper()
	names := s.acpi()
	slices.Sort(names)
	if !slices.Equal(names, tables.Names()) {
		t.Errorf("the kernel has the tables %q, want %q", names, tables.Names())
	}
	for _, name := range names {
		if err := tables.Check(name, []byte(s["acpi "+name])); err != nil {
			t.Error(err)
		}
	}
	if systab := strings.TrimSpace(s["text systab"]); !strings.HasPrefix(systab, "ACPI20=0x") || strings.Contains(systab, "\n") {
		t.Errorf("the EFI system table has %q, want ACPI20 alone", systab)
	}
	if firmware := s["list /sys/firmware"]; firmware != "acpi efi memmap" {
		t.Errorf("/sys/firmware has %q, want neither dmi nor qemu_fw_cfg", firmware)
	}
	if version := s["text version"]; !strings.HasPrefix(version, "Linux version ") || strings.Contains(version, "BADAML") || strings.Contains(version, "\xff") {
		t.Errorf("the kernel's version is %q", version)
	}
}

//go:embed testdata/badaml.asl
var badAML string

// hostile returns a host that attacks by bytecode, and by a FADT without bytecode.
func hostile(t *testing.T, banner, at uint64, vcpus int) platform.Options {
	t.Helper()
	h := acpitest.Q35(vcpus)
	h.Others = append(h.Others, acpitest.Compile(t, badAML, map[string]uint64{"BANNER": banner}))
	h.WriteByFADT(at+banner+fadtAt, 4)
	return adding(t, h.Args(t)...)
}

// adding returns a host that gives QEMU further arguments. On a busy machine the
// kernel starts late, so the bound is long.
func adding(t *testing.T, args ...string) platform.Options {
	t.Helper()
	return platform.Options{QEMU: vmtest.Adding(t, args...), StartTimeout: 3 * time.Minute}
}

// Offsets at which the attacks write, in bytes after the text of /proc/version.
const fadtAt = 48

// TestVM holds the boots of make test: an honest host, both attacks with the bare
// kernel and with the gate, and a machine for which the gate was not made.
func TestVM(t *testing.T) {
	needs.Boot(t)
	g := gated(t, "nokaslr oops=panic guest=machine")
	honest := machine(t, vmtest.BootWith(t, g, adding(t)))
	honest.behindTheGate(t)
	banner, at := honest.kernel(t)
	attack := hostile(t, banner, at, g.VCPUs)

	t.Run("both attacks, bare kernel", func(t *testing.T) {
		t.Parallel()
		bare := g
		bare.Kernel, bare.AcceptBareKernel = vmtest.BareKernel(t), true
		m := vmtest.BootWith(t, bare, attack)
		m.Expect("guest: off")
		m.Ended()
		// This is the control: without the gate the host writes anywhere.
		s := parse(t, m)
		if _, there := s.kernel(t); there != at {
			t.Fatalf("the bare kernel is at %#x, the one behind the gate at %#x: the attack aims at one place", there, at)
		}
		if version := s["text version"]; !strings.Contains(version, "BADAML: the host was here") || !strings.Contains(version, "\xff\xff") {
			t.Errorf("the attacks do not work: the kernel's version is %q", version)
		}
	})
	t.Run("both attacks, gate", func(t *testing.T) {
		t.Parallel()
		s := machine(t, vmtest.BootWith(t, g, attack))
		s.behindTheGate(t)
		if _, there := s.kernel(t); there != at {
			t.Errorf("the kernel is at %#x, the attack aims at %#x", there, at)
		}
	})
	t.Run("a second root bridge", func(t *testing.T) {
		t.Parallel()
		refuses(t, g, "there is not exactly one PCI root bridge",
			"-device", "pxb-pcie,id=second,bus_nr=64", "-device", "pcie-root-port,bus=second,chassis=1")
	})
}

// refuses boots a guest with these arguments of a host, and expects the gate's one
// line and the end of the VM.
func refuses(t *testing.T, g platform.Guest, why string, args ...string) {
	t.Helper()
	m := vmtest.BootWith(t, g, adding(t, args...))
	m.Ended()
	lines := m.Lines()
	if len(lines) != 1 || lines[0] != program.Refused+why {
		t.Errorf("the console has %q, want the one line %q", lines, program.Refused+why)
	}
}

// TestVMMachines is for make vm. It boots the machines for which the gate is made.
func TestVMMachines(t *testing.T) {
	needs.Matrix(t)
	for name, c := range map[string]struct {
		vcpus, memory int
		online        string
		args          []string
	}{
		"1 vCPU":                  {1, 1024, "0", nil},
		"4 vCPUs":                 {4, 1024, "0-3", nil},
		"12 vCPUs":                {12, 1024, "0-11", nil},
		"2 sockets of 3 cores":    {6, 1024, "0-5", []string{"-smp", "6,sockets=2,cores=3,threads=1"}},
		"512 MiB":                 {2, 512, "0-1", nil},
		"3 GiB":                   {2, 3072, "0-1", nil},
		"5 GiB":                   {2, 5120, "0-1", nil},
		"12 GiB":                  {2, 12288, "0-1", nil},
		"no ACPI from the host":   {2, 1024, "0-1", []string{"-machine", "acpi=off"}},
		"disks of an export":      {2, 1024, "0-1", exported("scsi", "nvme", "virtio", "virtio", "bridged", "conventional")},
		"no HPET":                 {2, 1024, "0-1", []string{"-machine", "hpet=off"}},
		"a bridge and large BARs": {2, 1024, "0-1", []string{"-device", "pcie-root-port,id=rp0,chassis=1", "-device", "virtio-rng-pci,bus=rp0", "-object", "memory-backend-ram,id=large,size=64M", "-device", "ivshmem-plain,memdev=large"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gated(t, "guest=machine")
			g.VCPUs, g.MemoryMiB = c.vcpus, c.memory
			s := machine(t, vmtest.BootWith(t, g, adding(t, c.args...)))
			s.behindTheGate(t)
			if online := strings.TrimSpace(s["text online"]); online != c.online {
				t.Errorf("processors %s are online, want %s", online, c.online)
			}
			if left := strings.TrimSpace(s["text unassigned"]); left != "" {
				t.Errorf("BARs without an address: %s", left)
			}
		})
	}
}

// TestVMRefuses is for make vm. It boots machines for which the gate is not made.
func TestVMRefuses(t *testing.T) {
	needs.Matrix(t)
	t.Run("another machine", func(t *testing.T) {
		t.Parallel()
		refuses(t, gated(t, "guest=machine"), "this is not QEMU's q35", "-machine", "pc")
	})
	t.Run("a kernel that does not load", func(t *testing.T) {
		t.Parallel()
		g := gated(t, "guest=machine")
		kernel, err := os.ReadFile(vmtest.BareKernel(t))
		if err != nil {
			t.Fatal(err)
		}
		clear(kernel[0x3c:0x40]) // where its PE header is
		if err := os.WriteFile(g.Kernel, build(t, kernel), 0o600); err != nil {
			t.Fatal(err)
		}
		refuses(t, g, "the kernel does not load")
	})
}

// kernel returns the distance from the kernel's first byte to the text of
// /proc/version, and the address of that byte in memory.
func (s seen) kernel(t *testing.T) (banner, at uint64) {
	t.Helper()
	for line := range strings.Lines(s["text iomem"]) {
		if strings.Contains(line, "Kernel code") {
			fmt.Sscanf(strings.TrimSpace(line), "%x-", &at)
		}
	}
	fmt.Sscan(s["text banner"], &banner)
	if banner == 0 || at == 0 {
		t.Fatalf("the kernel is at %#x, its banner %#x behind: want both", at, banner)
	}
	return banner, at
}
