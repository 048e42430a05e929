package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// children starts processes and reaps every process whose parent is gone, which
// is PID 1's duty.
type children struct {
	mu      sync.Mutex
	waiting map[int]chan unix.WaitStatus // :: PID of a child of ours -> its end
}

// newChildren starts the reaper, which runs until the exec of the next init.
func newChildren() *children {
	c := &children{waiting: make(map[int]chan unix.WaitStatus)}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	go func() {
		for range ended {
			c.reap()
		}
	}()
	return c
}

// reap collects whoever has ended by now, and reports whether no child is left.
// It holds the lock throughout, so that no child ends between its fork and its
// entry in waiting.
func (c *children) reap() (none bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return errors.Is(err, unix.ECHILD)
		}
		if end, ok := c.waiting[pid]; ok {
			end <- status
			delete(c.waiting, pid)
		}
	}
}

// child is a process that PID 1 started.
type child struct {
	pid int
	end <-chan unix.WaitStatus // gets one value
}

// command says what to start.
type command struct {
	path  string   // or /proc/self/fd/N
	argv  []string // argv[0] included
	out   *os.File // its standard output and error
	extra []int    // descriptors 3 and up
}

// start runs a command in a session of its own with an empty standard input and
// a small environment of fixed values.
func (c *children) start(cmd command) (*child, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", path.Base(cmd.argv[0]), err)
	}
	defer null.Close()
	files := []uintptr{null.Fd(), cmd.out.Fd(), cmd.out.Fd()}
	for _, fd := range cmd.extra {
		files = append(files, uintptr(fd))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(cmd.path, cmd.argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/bin", "HOME=/", "TMPDIR=/tmp"},
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", path.Base(cmd.argv[0]), err)
	}
	end := make(chan unix.WaitStatus, 1)
	c.waiting[pid] = end
	return &child{pid: pid, end: end}, nil
}

// wait returns how the child ended. When ctx ends first, the child is killed.
func (ch *child) wait(ctx context.Context) (unix.WaitStatus, error) {
	select {
	case status := <-ch.end:
		return status, nil
	case <-ctx.Done():
		ch.kill()
		return 0, ctx.Err()
	}
}

// kill ends the child's whole process group, which is its session's first.
func (ch *child) kill() { _ = unix.Kill(-ch.pid, unix.SIGKILL) }

// killAll ends every process but PID 1 and waits until they are gone. Whoever
// loses a parent meanwhile becomes a child of PID 1, so none escapes.
func (c *children) killAll(ctx context.Context) error {
	for {
		if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("ending all processes: %w", err)
		}
		if c.reap() {
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("ending all processes: %w", err)
		}
	}
}

// describe says how a process ended.
func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return fmt.Sprintf("killed by signal %d (%s)", status.Signal(), unix.SignalName(status.Signal()))
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}
