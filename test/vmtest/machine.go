// Package vmtest boots VMs in tests and checks expectations about them.
//
//	m := vmtest.Boot(t, guest, nil)
//	m.Expect("rootvouch: dm-verity:")
//	m.Refused("verify", "root hash")
//
// Every wait is bounded. When an expectation fails, the whole console is in the
// test's log. A VM ends with its test.
package vmtest

import (
	"context"
	"crypto/rand"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/platform/asp"
)

// The bounds. A boot on an idle machine with two cores takes 15 s; tests share
// such a machine with others.
const (
	lifetime = 12 * time.Minute // of a VM
	patience = 6 * time.Minute  // of Expect, and for the end of a VM
)

// Machine is a VM of a test. One goroutine uses it: the test's.
type Machine struct {
	t  testing.TB
	vm *platform.VM

	mu    sync.Mutex
	lines []string      // guarded by mu; the console so far
	more  chan struct{} // guarded by mu; closed and replaced when a line is added

	next  int           // the first line that Expect has not passed yet
	ended chan struct{} // closed when result is set
	// result is read after ended.
	result platform.Result
}

// Boot launches a guest. c signs its reports; nil means the chip of [Chip].
func Boot(t testing.TB, g platform.Guest, c *asp.Chip) *Machine {
	t.Helper()
	return BootWith(t, g, platform.Options{AMDSP: c})
}

// BootWith is Boot with the test's own options. It ignores o.Console, and zero
// options get defaults.
func BootWith(t testing.TB, g platform.Guest, o platform.Options) *Machine {
	t.Helper()
	if o.AMDSP == nil {
		o.AMDSP, _ = Chip(t)
	}
	if o.Timeout == 0 {
		o.Timeout = lifetime
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	m := &Machine{t: t, more: make(chan struct{}), ended: make(chan struct{})}
	o.Console = m.add
	vm, err := platform.Start(context.Background(), g, o)
	if err != nil {
		t.Fatalf("booting: %v", err)
	}
	m.vm = vm
	go func() {
		m.result = vm.Wait()
		close(m.ended)
	}()
	t.Cleanup(func() {
		m.Stop()
		if t.Failed() {
			t.Logf("the console of the VM, which ended with %q %s:\n%s", m.result.Outcome, m.result.Detail, strings.Join(m.Lines(), "\n"))
		}
	})
	return m
}

func (m *Machine) add(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines = append(m.lines, line)
	close(m.more)
	m.more = make(chan struct{})
}

// Lines returns the console so far.
func (m *Machine) Lines() []string {
	lines, _ := m.snapshot()
	return lines
}

func (m *Machine) snapshot() (lines []string, more <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.lines...), m.more
}

// VM gives access to the launch digest, the REPORT_ID and the like.
func (m *Machine) VM() *platform.VM { return m.vm }

// Port returns the address at which the host reaches a TCP port of the guest.
func (m *Machine) Port(guest uint16) netip.AddrPort {
	m.t.Helper()
	for _, f := range m.vm.Forwards() {
		if f.GuestPort == guest {
			return f.Host
		}
	}
	m.t.Fatalf("no forward to port %d of the guest in %v", guest, m.vm.Forwards())
	return netip.AddrPort{}
}

// Expect waits for a line that contains text, and returns the line. It starts after
// the line that the last Expect found.
func (m *Machine) Expect(text string) string {
	m.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for over := false; ; {
		lines, more := m.snapshot()
		for ; m.next < len(lines); m.next++ {
			if strings.Contains(lines[m.next], text) {
				m.next++
				return lines[m.next-1]
			}
		}
		if over {
			m.t.Fatalf("the VM ended (%s) without a line %q", m.result.Outcome, text)
		}
		select {
		case <-more:
		case <-m.ended:
			over = true // look once more: the last lines came before the end
		case <-timeout.C:
			m.t.Fatalf("no line %q within %v", text, patience)
		}
	}
}

// Ended waits until the VM has ended, and returns how.
func (m *Machine) Ended() platform.Result {
	m.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-m.ended:
	case <-timeout.C:
		m.t.Fatalf("the VM did not end within %v", patience)
	}
	return m.result
}

// PoweredOff waits until the VM has ended, and fails unless the guest powered
// itself off.
func (m *Machine) PoweredOff() {
	m.t.Helper()
	m.endsWith(platform.PoweredOff)
}

// Panicked waits until the VM has ended, and fails unless the kernel panicked.
func (m *Machine) Panicked() {
	m.t.Helper()
	m.endsWith(platform.Reset)
	m.t.Log("observed: kernel panic, reset")
	m.never(func(lines []string) bool { return !contains(lines, "Kernel panic") }, "no kernel panic on the console")
}

// NeverStarted waits until the VM has ended, and fails unless the firmware refused
// to start the kernel, without a message.
func (m *Machine) NeverStarted() {
	m.t.Helper()
	m.endsWith(platform.KernelNeverStarted)
	m.t.Log("observed: no kernel started")
	m.never(func(lines []string) bool { return len(lines) > 0 }, "something is on the console, though no kernel started")
}

// refusal begins the line with which PID 1 refuses to boot.
const refusal = "rootvouch: refused: "

// Refused waits until the VM has ended. It fails unless PID 1 refused to boot at
// this step, with exactly one line whose reason contains this text, and then
// powered off without a further step, an operating system or a shell.
func (m *Machine) Refused(step, reason string) {
	m.t.Helper()
	m.endsWith(platform.PoweredOff)
	refused := ""
	for _, line := range m.Lines() {
		_, rest, ok := strings.Cut(line, refusal)
		switch {
		case ok && refused != "":
			m.t.Fatalf("two refusals: %q and %q", refused, rest)
		case ok:
			refused = rest
		case refused != "" && strings.Contains(line, "rootvouch: "):
			m.t.Fatalf("PID 1 went on after its refusal: %q", line)
		}
	}
	at, why, _ := strings.Cut(refused, ": ")
	if at != step || !strings.Contains(why, reason) {
		m.t.Fatalf("refused: %q, want step %q and a reason with %q", refused, step, reason)
	}
	m.t.Logf("observed: refused: %s, powered off", refused)
	m.never(func(lines []string) bool {
		return contains(lines, "systemd[1]") || contains(lines, "Reached target") || contains(lines, "Welcome to ")
	}, "an operating system was started")
	m.never(func(lines []string) bool {
		return contains(lines, "login:") || contains(lines, "(initramfs)") || contains(lines, "sh-5")
	}, "somebody is offered a prompt")
}

func (m *Machine) endsWith(want platform.Outcome) {
	m.t.Helper()
	if got := m.Ended(); got.Outcome != want {
		m.t.Fatalf("the VM ended with %q (%s), want %q", got.Outcome, got.Detail, want)
	}
}

func (m *Machine) never(bad func(lines []string) bool, fault string) {
	m.t.Helper()
	if bad(m.Lines()) {
		m.t.Fatal(fault)
	}
}

func contains(lines []string, text string) bool {
	for _, line := range lines {
		if strings.Contains(line, text) {
			return true
		}
	}
	return false
}

// Stop ends the VM as a power cut would, and waits until it has ended.
func (m *Machine) Stop() {
	m.vm.Stop()
	<-m.ended
}
