// Package process starts, reaps and ends the processes below PID 1.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path"
	"strings"
	"sync"
	"syscall"

	"github.com/rootvouch/rootvouch/boot/wait"
	"golang.org/x/sys/unix"
)

// Table holds the processes that PID 1 started. It also reaps every process whose
// parent is gone, as PID 1 must.
type Table struct {
	mu      sync.Mutex
	waiting map[int]chan unix.WaitStatus // :: PID of a process that Start returned -> its end
}

// New starts the reaper, which runs until the exec of the next init.
func New() *Table {
	t := &Table{waiting: make(map[int]chan unix.WaitStatus)}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	go func() {
		for range ended {
			t.reap()
		}
	}()
	return t
}

// reap collects the processes that have ended, and reports whether no child is
// left. It holds the lock throughout, so that no child ends between its fork and
// its entry in waiting.
func (t *Table) reap() (none bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return errors.Is(err, unix.ECHILD)
		}
		if end, ok := t.waiting[pid]; ok {
			end <- status
			delete(t.waiting, pid)
		}
	}
}

// Process is a process that a Table started.
type Process struct {
	PID int
	End <-chan unix.WaitStatus // gets one value
}

// Command says what to start.
type Command struct {
	Path  string   // or /proc/self/fd/N
	Argv  []string // argv[0] included
	Out   *os.File // standard output and error
	Extra []int    // descriptors 3 and up
	Root  string   // its root directory; "" for PID 1's own
}

// Start runs a command in a session of its own with an empty standard input and
// a small environment of fixed values.
func (t *Table) Start(cmd Command) (*Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", path.Base(cmd.Argv[0]), err)
	}
	defer null.Close()
	files := []uintptr{null.Fd(), cmd.Out.Fd(), cmd.Out.Fd()}
	for _, fd := range cmd.Extra {
		files = append(files, uintptr(fd))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	pid, err := syscall.ForkExec(cmd.Path, cmd.Argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/bin", "HOME=/", "TMPDIR=/tmp"},
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true, Chroot: cmd.Root},
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", path.Base(cmd.Argv[0]), err)
	}
	end := make(chan unix.WaitStatus, 1)
	t.waiting[pid] = end
	return &Process{PID: pid, End: end}, nil
}

// Wait returns how the process ended. If ctx ends first, Wait kills the process.
func (p *Process) Wait(ctx context.Context) (unix.WaitStatus, error) {
	select {
	case status := <-p.End:
		return status, nil
	case <-ctx.Done():
		p.Kill()
		return 0, ctx.Err()
	}
}

// Kill ends the process and its whole process group.
func (p *Process) Kill() { _ = unix.Kill(-p.PID, unix.SIGKILL) }

// KillAll ends every process but PID 1 and waits until they are gone. A process
// that loses its parent meanwhile becomes a child of PID 1, so none escapes.
func (t *Table) KillAll(ctx context.Context) error {
	for {
		if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("ending all processes: %w", err)
		}
		if t.reap() {
			return nil
		}
		if err := wait.Pause(ctx); err != nil {
			return fmt.Errorf("ending all processes: %w", err)
		}
	}
}

// Describe says how a process ended.
func Describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return fmt.Sprintf("killed by signal %d (%s)", status.Signal(), unix.SignalName(status.Signal()))
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// maxReason is how much of a program's output LastLine reads, in bytes.
const maxReason = 1 << 10

// LastLine returns the last line that a program printed to log. If the program
// printed nothing, LastLine returns the argument otherwise.
func LastLine(log *os.File, otherwise string) string {
	data := make([]byte, maxReason)
	n, _ := log.ReadAt(data, 0) // for a short file ReadAt returns io.EOF and all bytes
	lines := strings.Split(strings.TrimSpace(string(data[:n])), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return last
	}
	return otherwise
}

// FirstLine returns the first line that a program printed to log, or the argument
// otherwise.
func FirstLine(log *os.File, otherwise string) string {
	data := make([]byte, maxReason)
	n, _ := log.ReadAt(data, 0)
	if first, _, _ := strings.Cut(strings.TrimSpace(string(data[:n])), "\n"); first != "" {
		return first
	}
	return otherwise
}
