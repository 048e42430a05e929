package boot_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// registers matches the kernel's dump of registers.
var registers = regexp.MustCompile(`\b(RIP|R08|R15|RAX): `)

// nmiDevice makes port 0x61 report, as a host can, that the reason of an NMI is an
// I/O check. The kernel then logs the registers of the code that the NMI
// interrupted.
var nmiDevice = []string{"-chardev", "null,id=nmi", "-device", "isa-debugcon,iobase=0x61,readback=0x60,chardev=nmi"}

// storeDevice is ACPI ERST: memory of the host that takes the kernel's log after a
// panic.
func storeDevice(path string) []string {
	return []string{"-object", "memory-backend-file,id=erst,size=64K,share=on,mem-path=" + path, "-device", "acpi-erst,memdev=erst"}
}

// record begins each record in such a store (UEFI, appendix N, "CPER").
const record = "CPER"

// TestVMDump plays a host that makes the guest's kernel log its registers while
// keys are in memory. No register may reach the console or the store.
func TestVMDump(t *testing.T) {
	needs.Boot(t)
	b := newBench(t)

	t.Run("NMI before dm-crypt", func(t *testing.T) {
		t.Parallel()
		v := b.vm(t)
		store := filepath.Join(t.TempDir(), "erst")
		v.devices = append(storeDevice(store), nmiDevice...)
		v.onLine("rootvouch: key: ", func() { v.monitor.execute("inject-nmi") })
		out := v.bootTo("guest-reset")
		if registers.MatchString(out) || strings.Contains(out, "NMI") {
			t.Errorf("the console shows registers:\n%s", out)
		}
		if strings.Contains(out, "guest: ") || !regexp.MustCompile(`rootvouch: (key|header|dm-crypt|dm-verity|verify): .*\s*$`).MatchString(strings.TrimSpace(out)) {
			t.Errorf("the console does not end with the step that the panic ended:\n%s", out)
		}
		if data := readFile(t, store); bytes.Contains(data, []byte(record)) {
			t.Error("the store has a record")
		}
	})

	t.Run("NMI in the booted system", func(t *testing.T) {
		t.Parallel()
		v := b.vm(t)
		v.config.CommandLine += " guest.nmi"
		v.devices = nmiDevice
		v.onLine("guest: waiting for an NMI", func() { v.monitor.execute("inject-nmi") })
		if out := v.bootTo("guest-reset"); registers.MatchString(out) || !strings.Contains(out, "guest: waiting for an NMI") || strings.Contains(out, "guest: still here") {
			t.Errorf("the console shows registers, or the VM went on:\n%s", out)
		}
	})

	// The attack works if root in the booted system raises the level.
	t.Run("control: NMI with messages on", func(t *testing.T) {
		t.Parallel()
		v := b.vm(t)
		v.config.CommandLine += " guest.nmi guest.verbose"
		v.devices = nmiDevice
		v.onLine("guest: waiting for an NMI", func() { v.monitor.execute("inject-nmi") })
		if out := v.bootTo("guest-reset"); !registers.MatchString(out) {
			t.Errorf("the console shows no registers, so the attack shows nothing:\n%s", out)
		}
	})

	// An exception in the kernel's own code prints registers whatever the level says,
	// unless the level is zero.
	t.Run("exception while the disk is decrypted", func(t *testing.T) {
		t.Parallel()
		v := b.vm(t)
		store := filepath.Join(t.TempDir(), "erst")
		args, socket := b.debuggerAt(t)
		v.devices = append(storeDevice(store), args...)
		v.onLine("rootvouch: dm-verity: ", func() { breakKernel(t, socket) })
		out := v.bootTo("guest-reset")
		if registers.MatchString(out) || strings.Contains(out, "Oops") || strings.Contains(out, "guest: ") {
			t.Errorf("the console shows registers, or the VM went on:\n%s", out)
		}
		if data := readFile(t, store); bytes.Contains(data, []byte(record)) {
			t.Error("the store has a record")
		}
		t.Log("observed: reset, no register on the console, no record in the store")
	})
	t.Run("control: exception with messages on", func(t *testing.T) {
		t.Parallel()
		v := b.vm(t)
		v.config.CommandLine += " guest.nmi guest.verbose"
		args, socket := b.debuggerAt(t)
		v.devices = args
		v.onLine("guest: waiting for an NMI", func() { breakKernel(t, socket) })
		if out := v.bootTo("guest-reset"); !registers.MatchString(out) {
			t.Errorf("the console shows no registers, so the attack shows nothing:\n%s", out)
		}
	})

	// A panic without the words of the command line: this kernel finds no root.
	for name, c := range map[string]struct {
		line   string
		stored bool
	}{
		"control: store without the words": {"console=ttyS0 panic=-1", true},
		"store with the words":             {cmdline.Default(), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := filepath.Join(t.TempDir(), "erst")
			args := append(b.machine("EPYC-v4"), "-kernel", b.kernel, "-append", c.line, "-serial", "stdio")
			out, err := exec.CommandContext(t.Context(), b.qemu, append(args, storeDevice(store)...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			data, err := os.ReadFile(store)
			if err != nil {
				t.Fatal(err)
			}
			if got := bytes.Contains(data, []byte(record)); got != c.stored {
				t.Errorf("the store has a record: %v, want %v\n%s", got, c.stored, out)
			}
		})
	}
}
