package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopGrace is the time after SIGTERM in which a process can end by itself.
const stopGrace = 5 * time.Second

// process is a server that must not outlive this process.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when the process has ended
	err  error         // how it ended; read after done
}

// startProcess starts argv with its output in logDir/name.log. The process gets a
// session of its own: Ctrl-C on the terminal reaches only the demo, which then ends
// its processes in order. If the demo is killed, the kernel ends the process.
func startProcess(name, logDir string, argv ...string) (*process, error) {
	return startProcessTo(name, logDir, nil, argv...)
}

// startProcessTo also gives the process's standard output to a writer.
func startProcessTo(name, logDir string, stdout io.Writer, argv ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(logDir, name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", name, err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if stdout != nil {
		cmd.Stdout = io.MultiWriter(log, stdout)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		log.Close()
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		log.Close()
		close(p.done)
	}()
	return p, nil
}

// stop ends the process, by its own ID, and waits until it has ended.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopGrace):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// ready waits until probe succeeds, the process ends or the time is up.
func (p *process) ready(ctx context.Context, limit time.Duration, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended (%v) before it was ready; its last line: %s", p.name, p.err, lastLine(p.log.Name()))
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
				return cause
			}
			return fmt.Errorf("%s was not ready within %v: %v; its last line: %s", p.name, limit, err, lastLine(p.log.Name()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lastLine returns the last line of a log, for an error message.
func lastLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return last
	}
	return "(it said nothing)"
}

// runCommand runs argv to its end and returns its standard output. If ctx is
// cancelled, the command gets SIGTERM and time to clean up. The error of a failed
// command holds its standard error.
func runCommand(ctx context.Context, argv ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		said := strings.TrimSpace(stderr.String())
		if said == "" {
			said = "(it said nothing)"
		}
		return stdout.Bytes(), &commandError{strings.Join(argv, " "), said, err}
	}
	return stdout.Bytes(), nil
}

// commandError is a command that ran and failed.
type commandError struct {
	command, said string
	err           error // an *exec.ExitError
}

func (e *commandError) Error() string {
	return fmt.Sprintf("running %s: %v: %s", e.command, e.err, e.said)
}

func (e *commandError) Unwrap() error { return e.err }

// stopper ends processes in the reverse order of their start.
type stopper struct {
	mu   sync.Mutex
	undo []func() // guarded by mu
}

func (s *stopper) add(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undo = append(s.undo, f)
}

func (s *stopper) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.undo) - 1; i >= 0; i-- {
		s.undo[i]()
	}
	s.undo = nil
}
