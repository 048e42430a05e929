// Package boot is PID 1 of a rootvouch guest: the steps from the kernel's first
// process to the root filesystem's own init.
//
// The steps run one after the other, each with a bound of its own. When one
// fails, panics or does not end in time, one line says which and why, and the
// machine powers off; there is no other way out, no shell, and no second try
// with less security (docs/adr/0006-one-way-out.md). A panic of a goroutine
// that is not ours ends PID 1, on which the kernel panics.
//
// docs/boot.md describes what each step checks, and what is left for the booted
// system.
package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/dm"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/luks2"
	"golang.org/x/sys/unix"
)

// Limits bound the steps that wait for somebody else. What a step has not done
// by then is refused.
type Limits struct {
	Network time.Duration // an interface appears, and DHCP answers
	Agent   time.Duration // the SPIRE agent attests, restarts included
	Key     time.Duration // the key comes from fetchkey
	Disk    time.Duration // the disk appears
}

// DefaultLimits are those of a real guest: patient enough for a server that
// restarts, short enough that a VM without its servers is soon gone.
func DefaultLimits() Limits {
	return Limits{
		Network: 45 * time.Second,
		Agent:   60 * time.Second,
		Key:     120 * time.Second,
		Disk:    15 * time.Second,
	}
}

const (
	// localLimit bounds a step that waits for nobody.
	localLimit = 60 * time.Second
	// slowestRead is the rate in bytes per second below which reading a whole
	// disk is given up.
	slowestRead = 8 << 20
	// grace is what a step gets beyond its bound to end by itself and say more.
	grace = 5 * time.Second
)

// machine is the state that one step leaves for the next. Its fields belong to
// the goroutine of Main.
type machine struct {
	console  console
	limits   Limits
	children *children
	steps    []bootlog.Step
	refused  sync.Once

	config    bootconfig.Config
	network   network
	agent     *agent
	disks     disks
	release   *keyapi.Released
	disk      *disk
	container *luks2.Container
	control   *dm.Control
	crypt     *dm.Device
	verity    *dm.Device
	initramfs *os.File // the old root directory

	attestdFile *os.File // its program
	attestdLog  *os.File
	attestd     *child
}

// step is one line of the boot.
type step struct {
	name  string
	limit time.Duration
	do    func(context.Context) (detail string, err error)
}

// Main boots the machine and does not return. It refuses to be anything else
// than PID 1, because its way out is the power switch.
func Main(limits Limits) {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: error: this is PID 1 of a rootvouch guest, and not a command")
		os.Exit(2)
	}
	debug.SetTraceback("none") // the console is the host's, and a trace shows arguments
	m := &machine{limits: limits, children: newChildren()}
	for _, s := range []step{
		{"start", localLimit, m.start},
		{"config", localLimit, m.readConfig},
	} {
		m.run(s)
	}
	for _, s := range m.plan() {
		m.run(s)
	}
	panic("boot: internal error: the last step returned")
}

// plan lists the steps after the configuration is known.
func (m *machine) plan() []step {
	verifyLimit := localLimit + time.Duration(m.config.Disk.HashOffset/slowestRead)*time.Second
	return []step{
		{"modules", localLimit, m.loadModules},
		{"clock", localLimit, m.setClock},
		{"network", m.limits.Network, m.configureNetwork},
		{"agent", m.limits.Agent, m.startAgent},
		{"key", m.limits.Disk + m.limits.Key, m.fetchKey},
		{"header", m.limits.Disk, m.findDisk},
		{"dm-crypt", localLimit, m.openCrypt},
		{"dm-verity", localLimit, m.openVerity},
		{"verify", verifyLimit, m.verify},
		{"mount", localLimit, m.mountRoot},
		{"hand-over", localLimit, m.handOver},
		{"switch", localLimit, m.switchRoot},
	}
}

// run does one step, and does not return unless it succeeded. The step's watch
// ends after its line is written, because the console is the host's and may
// block as well.
func (m *machine) run(s step) {
	ctx, cancel := context.WithTimeout(context.Background(), s.limit)
	defer cancel()
	watch := time.AfterFunc(s.limit+grace, func() {
		m.refuse(s.name, fmt.Errorf("got no end of it within %s", s.limit+grace))
	})
	defer watch.Stop()
	start := sinceKernel()
	detail, err := guard(func() (string, error) { return s.do(ctx) })
	if err != nil {
		m.refuse(s.name, err)
	}
	m.finish(s.name, detail, start)
}

// finish records and prints a step that succeeded.
func (m *machine) finish(name, detail string, start time.Duration) {
	duration := sinceKernel() - start
	m.steps = append(m.steps, bootlog.Step{
		Name:       name,
		StartMS:    uint64(start.Milliseconds()),
		DurationMS: uint64(duration.Milliseconds()),
	})
	m.console.step(name, detail, duration)
}

// refuse prints the one line of a refusal and powers off. It never returns. A
// console that takes nothing delays it by a second.
func (m *machine) refuse(step string, reason error) {
	m.refused.Do(func() {
		written := make(chan struct{})
		go func() {
			defer close(written)
			m.console.refusal(step, reason)
		}()
		select {
		case <-written:
		case <-time.After(time.Second):
		}
		powerOff()
	})
	select {} // somebody else refuses already
}

// powerOff ends the machine. Where the kernel cannot, PID 1 exits, the kernel
// panics, and the launcher ends the VM.
func powerOff() {
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	os.Exit(int(errnoOf(err)))
}

func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	if errors.As(err, &errno) && errno != 0 {
		return errno
	}
	return 1
}

// guard turns a panic into an error, for the line and for nothing else.
func guard[T any](do func() (T, error)) (result T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return do()
}

// sinceKernel returns the time since the kernel started (CLOCK_MONOTONIC).
func sinceKernel() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("boot: internal error: reading CLOCK_MONOTONIC: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
