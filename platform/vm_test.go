package platform_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/vmtest"
)

// shortStart is a bound for tests in which no kernel starts: the tiny initramfs
// is hashed within 3 s on an idle machine.
const shortStart = 25 * time.Second

func tiny(t *testing.T, words string) platform.Guest {
	g := vmtest.Guest(t)
	g.Initramfs = vmtest.TinyInitramfs(t)
	g.CommandLine = "console=ttyS0 loglevel=4 panic=-1 " + words
	return g
}

// The guest's processes get reports over the virtio port, one after the other, and
// the reports describe the launch.
func TestVMReports(t *testing.T) {
	g := tiny(t, "guest=report")
	g.HostData = snp.HostData{1, 2, 3}
	g.Forwards = []platform.Forward{{Host: netip.MustParseAddrPort("127.0.0.1:0"), GuestPort: 8444}}
	g.Disk = g.Initramfs
	m := vmtest.Boot(t, g, nil)
	if p := m.Port(8444); p.Port() == 0 {
		t.Errorf("forward is %v, want the port that was chosen", p)
	}
	m.Expect("EFI stub:")
	m.Expect("guest: hello from PID 1")
	m.PoweredOff()
	seen := 0
	text := ""
	for _, line := range m.Lines() {
		if more, ok := strings.CutPrefix(line, "guest: + "); ok {
			text += more
		}
		last, ok := strings.CutPrefix(line, "guest: . ")
		if !ok {
			continue
		}
		checkEvidence(t, m, g, text+last)
		text = ""
		seen++
	}
	if seen != 4 {
		t.Errorf("%d askers got an answer, want 4", seen)
	}
}

func checkEvidence(t *testing.T, m *vmtest.Machine, g platform.Guest, text string) {
	t.Helper()
	var asker byte
	var encoded string
	if n, err := fmt.Sscanf(text, "evidence %d: %s", &asker, &encoded); n != 2 {
		t.Errorf("the guest says %.80q (%v)", text, err)
		return
	}
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	e, err := evidence.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.ParseReport(e.Report)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := m.VM().ReportID()
	if r.Measurement != m.VM().Measurement() || r.ReportID != id || r.HostData != g.HostData || r.Policy != g.Policy {
		t.Errorf("the report is not of this launch: %+v", r)
	}
	if r.ReportData != (snp.ReportData{asker}) {
		t.Errorf("asker %d got REPORT_DATA %v", asker, r.ReportData)
	}
	if len(e.Certificates) != 3 {
		t.Errorf("%d certificates came along, want 3", len(e.Certificates))
	}
}

// The firmware refuses inputs that are not in the kernel-hashes page, with one case
// for each input that it checks. QEMU gets other inputs than the measured ones, as
// from a hostile host.
func TestVMFirmwareRefuses(t *testing.T) {
	good := tiny(t, "guest=off")
	for _, c := range []struct {
		name string
		edit func(t *testing.T, g *platform.Guest)
	}{
		{"one more word on the command line", func(t *testing.T, g *platform.Guest) { g.CommandLine += " rootvouch.shell" }},
		{"one more byte on the initramfs", func(t *testing.T, g *platform.Guest) { g.Initramfs = vmtest.Append(t, g.Initramfs, 0) }},
		{"one flipped bit in the kernel", func(t *testing.T, g *platform.Guest) { g.Kernel = vmtest.FlipBit(t, g.Kernel, -4096) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // they only wait
			given := good
			c.edit(t, &given)
			m := vmtest.BootWith(t, good, platform.Options{StartTimeout: shortStart, QEMU: vmtest.Swapped(t, good, given)})
			m.NeverStarted()
		})
	}
}

// TestVMHostProgram gives both firmwares a program of the host. The stock firmware
// runs it before the kernel that it verified, although the launch digest does not
// cover the program. The hardened firmware starts the kernel.
func TestVMHostProgram(t *testing.T) {
	const said = "the host's program runs"
	evil := func(t *testing.T) platform.Options {
		return platform.Options{QEMU: vmtest.Adding(t, "-shim", vmtest.EFIProgram(t, said))}
	}
	t.Run("stock", func(t *testing.T) {
		g := tiny(t, "guest=off")
		g.Firmware, g.AcceptHostCode = vmtest.StockFirmware(t), true
		m := vmtest.BootWith(t, g, evil(t))
		m.Expect(said)
	})
	t.Run("hardened", func(t *testing.T) {
		m := vmtest.BootWith(t, tiny(t, "guest=off"), evil(t))
		m.Expect("guest: hello from PID 1")
		m.PoweredOff()
		for _, line := range m.Lines() {
			if strings.Contains(line, said) {
				t.Error("the host's program ran")
			}
		}
	})
}

func TestVMKernelPanicEndsIt(t *testing.T) {
	m := vmtest.Boot(t, tiny(t, "guest=panic"), nil)
	m.Expect("Kernel panic")
	m.Panicked()
}

func TestVMEnds(t *testing.T) {
	g := tiny(t, "guest=hang")
	chip, _ := vmtest.Chip(t)
	start := func(t *testing.T, ctx context.Context, timeout time.Duration) (*platform.VM, <-chan struct{}) {
		hello := make(chan struct{})
		vm, err := platform.Start(ctx, g, platform.Options{AMDSP: chip, Rand: rand.Reader, Timeout: timeout, Console: func(line string) {
			if strings.Contains(line, "guest: hello") {
				close(hello)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		return vm, hello
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		vm, hello := start(t, ctx, 0)
		select {
		case <-hello:
		case <-time.After(2 * time.Minute):
			t.Error("no word from PID 1")
		}
		cancel()
		if got := vm.Wait(); got.Outcome != platform.Cancelled {
			t.Errorf("outcome is %q (%s), want %q", got.Outcome, got.Detail, platform.Cancelled)
		}
	})
	t.Run("timed out", func(t *testing.T) {
		vm, _ := start(t, context.Background(), 2*time.Second)
		if got := vm.Wait(); got.Outcome != platform.TimedOut {
			t.Errorf("outcome is %q (%s), want %q", got.Outcome, got.Detail, platform.TimedOut)
		}
	})
	t.Run("QEMU refuses", func(t *testing.T) {
		wrong := g
		wrong.MemoryMiB = 1 << 20 // more than a machine of ours has
		wrong.Disk = t.TempDir()
		_, err := platform.Start(context.Background(), wrong, platform.Options{AMDSP: chip, Rand: rand.Reader})
		if err == nil || !strings.Contains(err.Error(), "it said:") {
			t.Errorf("got %v, want what QEMU said", err)
		}
	})
	t.Run("no disk", func(t *testing.T) {
		wrong := g
		wrong.Disk = "/nowhere/disk.img"
		_, err := platform.Start(context.Background(), wrong, platform.Options{AMDSP: chip, Rand: rand.Reader})
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want os.ErrNotExist", err)
		}
	})
}
