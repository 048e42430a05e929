package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootlog"
	"golang.org/x/sys/unix"
)

// grace is the time after its bound in which a step can end by itself with a
// reason.
const grace = 5 * time.Second

// runner runs the steps. Its steps belong to the goroutine of Main.
type runner struct {
	console console
	steps   []bootlog.Step // that succeeded
	refused sync.Once
}

// step does one step and returns its result. describe turns the result into the
// detail of the step's line. If the step fails, step does not return. The step's
// watch ends only after its line is written, because the host controls the console
// and may block it as well.
func step[T any](r *runner, name string, limit time.Duration, describe func(T) string, do func(context.Context) (T, error)) T {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	watch := time.AfterFunc(limit+grace, func() {
		r.refuse(name, fmt.Errorf("it did not end within %s", limit+grace))
	})
	defer watch.Stop()
	start := sinceKernel()
	result, err := guard(func() (T, error) { return do(ctx) })
	if err != nil {
		r.refuse(name, err)
	}
	r.finish(name, describe(result), start)
	return result
}

// local does a step that waits for no other program and returns only the detail of
// its line.
func local(r *runner, name string, do func() (detail string, err error)) {
	step(r, name, localLimit, itself, func(context.Context) (string, error) { return do() })
}

func itself(detail string) string { return detail }

// finish records and prints a step that succeeded.
func (r *runner) finish(name, detail string, start time.Duration) {
	duration := sinceKernel() - start
	r.steps = append(r.steps, bootlog.Step{
		Name:       name,
		StartMS:    uint64(start.Milliseconds()),
		DurationMS: uint64(duration.Milliseconds()),
	})
	r.console.step(name, detail, duration)
}

// refuse prints the one line of a refusal and powers off. It never returns. A
// blocked console delays it by one second.
func (r *runner) refuse(step string, reason error) {
	r.refused.Do(func() {
		written := make(chan struct{})
		go func() {
			defer close(written)
			r.console.refusal(step, reason)
		}()
		select {
		case <-written:
		case <-time.After(time.Second):
		}
		powerOff()
	})
	select {} // another goroutine refuses already
}

// powerOff ends the machine. If the kernel cannot power off, PID 1 exits, the kernel
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

// guard turns a panic into an error, only so that the refusal's line can show it.
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
