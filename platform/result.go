package platform

import (
	"context"
	"fmt"
	"time"
)

// Outcome says how a VM ended. Its zero value is no outcome.
type Outcome string

const (
	// PoweredOff: the guest powered itself off, as PID 1 does after a refusal
	// and an operating system when it is shut down.
	PoweredOff Outcome = "powered off"
	// Reset: the guest asked for a reset, which a kernel panic does too. The VM
	// is not started again.
	Reset Outcome = "reset"
	// KernelNeverStarted: the firmware did not let the kernel start in time, or the
	// gate refused the machine and powered off. The firmware starts no kernel if
	// kernel, initramfs or command line differ from the kernel-hashes page.
	KernelNeverStarted Outcome = "kernel never started"
	// TimedOut: the VM reached the end of Options.Timeout.
	TimedOut Outcome = "timed out"
	// Cancelled: the context was cancelled, or Stop was called.
	Cancelled Outcome = "cancelled"
	// Failed: QEMU ended without a request of the guest.
	Failed Outcome = "QEMU failed"
)

// Result is the end of a VM.
type Result struct {
	Outcome   Outcome
	ExitCode  int      // of QEMU; -1 when a signal ended it
	Detail    string   // what QEMU or the runner reports about it; may be empty
	LastLines []string // of the console
}

// Err returns nil if the guest powered itself off, and otherwise an error that says
// how the VM ended.
func (r Result) Err() error {
	if r.Outcome == PoweredOff && r.Detail == "" {
		return nil
	}
	return &EndError{r}
}

// EndError is the error of a VM that ended in another way than by powering itself
// off.
type EndError struct{ Result Result }

func (e *EndError) Error() string {
	s := fmt.Sprintf("running the VM: %s", e.Result.Outcome)
	if e.Result.Detail != "" {
		s += ": " + e.Result.Detail
	}
	return s
}

// Hint says where to look for the cause.
func (e *EndError) Hint() string {
	switch e.Result.Outcome {
	case KernelNeverStarted:
		return "the firmware refuses, silently, a kernel, initramfs or command line that changed since it was hashed; a large initramfs on a slow machine needs a longer --start-timeout"
	case Reset:
		return "a kernel panic resets the VM, and prints nothing once PID 1 has checked the kernel: the last line of PID 1 on the console says how far the boot came"
	}
	return "look at the last lines of the console"
}

// supervise waits until QEMU has ended. It ends QEMU at a timeout or a
// cancellation, and returns the reason. If QEMU ended by itself, it returns "".
func (v *VM) supervise(ctx context.Context) Outcome {
	starting := time.NewTimer(v.startFor)
	defer starting.Stop()
	var lifetime <-chan time.Time
	if v.lifetime > 0 {
		timer := time.NewTimer(v.lifetime)
		defer timer.Stop()
		lifetime = timer.C
	}
	started := v.started
	for {
		var outcome Outcome
		select {
		case <-v.process.done:
			return ""
		case <-started:
			starting.Stop()
			started = nil
			continue
		case <-starting.C:
			outcome = KernelNeverStarted
		case <-lifetime:
			outcome = TimedOut
		case <-ctx.Done():
			outcome = Cancelled
		case <-v.stopped:
			outcome = Cancelled
		}
		v.process.end()
		return outcome
	}
}

// conclude makes a result. reason is QEMU's reason for the end, and ours is the
// error of the runner's own goroutines.
func (v *VM) conclude(outcome Outcome, reason string, ours error) Result {
	r := Result{Outcome: outcome, ExitCode: v.process.cmd.ProcessState.ExitCode(), LastLines: v.console.lines()}
	switch {
	case outcome == KernelNeverStarted:
		r.Detail = fmt.Sprintf("nothing on the console within %v", v.startFor)
	case outcome == TimedOut:
		r.Detail = fmt.Sprintf("it ran for %v", v.lifetime)
	case outcome != "":
	case reason == reasonShutdown && v.console.refusal() != "":
		r.Outcome, r.Detail = KernelNeverStarted, v.console.refusal()
	case reason == reasonShutdown:
		r.Outcome = PoweredOff
	case reason == reasonReset || reason == reasonPanic:
		r.Outcome = Reset
		select {
		case <-v.started:
		default:
			r.Outcome, r.Detail = KernelNeverStarted, "the firmware gave up"
		}
	default:
		r.Outcome = Failed
		r.Detail = fmt.Sprintf("%v: %s", v.process.cmd.ProcessState, v.process.stderr.said())
	}
	if ours != nil {
		r.Detail = fmt.Sprintf("%s (%v)", r.Detail, ours)
	}
	return r
}
