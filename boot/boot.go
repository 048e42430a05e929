// Package boot is PID 1 of a rootvouch guest: the steps from the kernel's first
// process to the root filesystem's own init.
//
// The steps run one after the other, each with a time limit of its own. If a step
// fails, panics or exceeds its limit, PID 1 prints the step and the reason on one
// line and powers the machine off. There is no shell, and no retry with less security
// (docs/adr/0006-one-way-out.md). If a panic in a library's goroutine ends PID 1, the
// kernel panics, which ends the VM.
//
// Main lists the steps. The inputs of a step are its arguments, and its results are
// variables of Main. docs/boot.md describes what each step checks, and what PID 1 passes
// to the booted system.
package boot

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/rootvouch/rootvouch/boot/agent"
	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/disk"
	"github.com/rootvouch/rootvouch/boot/network"
	"github.com/rootvouch/rootvouch/boot/process"
	"github.com/rootvouch/rootvouch/boot/tables"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

// Limits bound the steps that wait for another program or machine. If a step takes
// longer, PID 1 refuses.
type Limits struct {
	Network time.Duration // an interface appears, and DHCP answers
	Agent   time.Duration // the SPIRE agent attests, restarts included
	Key     time.Duration // the key comes from fetchkey
	Disk    time.Duration // the disk appears
}

// DefaultLimits returns the limits of a real guest. They are long enough for a
// server that restarts, and short enough to end a VM soon if its servers are away.
func DefaultLimits() Limits {
	return Limits{
		Network: 45 * time.Second,
		Agent:   180 * time.Second, // a report alone may take a minute
		Key:     240 * time.Second,
		Disk:    15 * time.Second,
	}
}

const (
	// localLimit bounds a step that waits for no other program.
	localLimit = 60 * time.Second
	// slowestRead is the rate in bytes per second below which PID 1 gives up
	// reading a whole disk.
	slowestRead = 8 << 20
)

// Main boots the machine and does not return. It runs only as PID 1, because it
// ends by powering the machine off.
func Main(limits Limits) {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: error: this is PID 1 of a rootvouch guest, and not a command")
		os.Exit(2)
	}
	debug.SetTraceback("none") // the console is the host's, and a trace shows arguments
	r, processes := new(runner), process.New()

	local(r, "start", func() (string, error) { return start(&r.console) })
	config := step(r, "config", localLimit, describeConfig, readConfig)
	r.console.decide(config.Console, config.Emulated())
	local(r, "kernel", func() (string, error) { return holdKernel(config.CommandLine) })
	local(r, "tables", func() (string, error) { return tables.Check(tables.Firmware, config.Gate) })
	local(r, "modules", func() (string, error) { return loadModules(config) })
	local(r, "clock", func() (string, error) { return setClock(config.ClockFloor) })
	link := step(r, "network", limits.Network, network.Network.String, func(ctx context.Context) (network.Network, error) {
		return network.Configure(ctx, config.Network)
	})
	disks := disk.NewFinder(config.Disk.PayloadOffset)
	spire, release := fetchKey(r, limits, processes, config, disks)
	root := openRoot(r, limits, config, disks, release)
	local(r, "mount", func() (string, error) { return mountRoot(root.Path(), string(config.Disk.Filesystem)) })
	written := openVolumes(r, limits, processes, config, spire)
	booted := step(r, "hand-over", localLimit, (*system).String, func(context.Context) (*system, error) {
		return handOver(processes, config, link, root.Disk(), written, bootLog(config, release, written, r.steps))
	})
	step(r, "switch", localLimit, itself, func(ctx context.Context) (string, error) {
		start := sinceKernel()
		return "", booted.switchRoot(ctx, func(detail string) { r.finish("switch", detail, start) })
	})
	panic("boot: internal error: the last step returned")
}

// fetchKey runs the steps that get the key and the header pin of the root. If the
// configuration has volumes, the agent stays, to get their keys.
func fetchKey(r *runner, limits Limits, processes *process.Table, config bootconfig.Config, disks *disk.Finder) (*agent.Agent, *keyapi.Released) {
	spire := step(r, "agent", limits.Agent, (*agent.Agent).String, func(ctx context.Context) (*agent.Agent, error) {
		return agent.Start(ctx, processes, config)
	})
	release := step(r, "key", limits.Disk+limits.Key, describeRelease, func(ctx context.Context) (*keyapi.Released, error) {
		uuid, err := uuidToAskFor(ctx, config.Disk.Header, disks, limits.Disk)
		if err != nil {
			return nil, err
		}
		release, err := spire.FetchKey(ctx, uuid)
		if err != nil || len(config.Volumes) > 0 {
			return release, err
		}
		if err := spire.End(ctx); err != nil {
			release.Wipe()
			return nil, err
		}
		return release, nil
	})
	return spire, release
}

// openRoot runs the steps from the encrypted disk to a device that checks every
// block. Both keys are wiped at the end of step "dm-crypt".
func openRoot(r *runner, limits Limits, config bootconfig.Config, disks *disk.Finder, release *keyapi.Released) *disk.Checked {
	encrypted := step(r, "header", limits.Disk, (*disk.Disk).String, func(ctx context.Context) (*disk.Disk, error) {
		return disks.Find(ctx, release.Header, config.Disk.Verity)
	})
	decrypted := step(r, "dm-crypt", localLimit, (*disk.Decrypted).String, func(context.Context) (*disk.Decrypted, error) {
		return encrypted.Decrypt(release.Key[:])
	})
	lazy := config.Verification == bootconfig.VerificationLazy
	root := step(r, "dm-verity", localLimit, (*disk.Checked).String, func(context.Context) (*disk.Checked, error) {
		return decrypted.Check(lazy)
	})
	limit := localLimit + time.Duration(config.Disk.HashOffset/slowestRead)*time.Second
	step(r, "verify", limit, itself, func(ctx context.Context) (string, error) {
		if lazy {
			return "skipped: verification is lazy", nil
		}
		return root.ReadAll(ctx, verifyProgress(&r.console))
	})
	return root
}

// uuidToAskFor takes the disk's UUID from boot.json, or else from the only
// encrypted disk that is attached. The host controls the UUID of that disk, so the
// UUID decides nothing: the header pin that comes with the key names the key's
// disk.
func uuidToAskFor(ctx context.Context, pin *pins.Header, disks *disk.Finder, limit time.Duration) (pins.UUID, error) {
	if pin != nil {
		return pin.DiskUUID, nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return disks.OnlyUUID(ctx)
}

func describeRelease(r *keyapi.Released) string {
	return fmt.Sprintf("generation %d from %s for disk %s", r.Generation, r.KMSID, r.Header.DiskUUID)
}

// progressEvery is the time between two lines about a long read.
const progressEvery = 5 * time.Second

// verifyProgress returns a function that prints a line every progressEvery. Several
// readers call it.
func verifyProgress(c *console) func(done, size uint64) {
	now := nowAndThen()
	return func(done, size uint64) {
		if now() {
			c.progress("verify", fmt.Sprintf("%d of %d MiB", done>>20, size>>20))
		}
	}
}

// nowAndThen returns a function that reports whether it is time for a line. Of
// several concurrent callers it tells one.
func nowAndThen() func() bool {
	var next atomic.Int64
	next.Store(int64(sinceKernel() + progressEvery))
	return func() bool {
		due, now := next.Load(), int64(sinceKernel())
		return now >= due && next.CompareAndSwap(due, now+int64(progressEvery))
	}
}
