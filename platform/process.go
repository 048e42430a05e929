package platform

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endWithin is the time between SIGTERM and SIGKILL, in which QEMU can end by
// itself.
const endWithin = 3 * time.Second

// process is a QEMU that runs.
type process struct {
	cmd    *exec.Cmd
	stderr *tail
	done   chan struct{} // closed when the process has ended and cmd.ProcessState is set
}

// startProcess starts a program with its standard output and further descriptors,
// from 3 on. The program leads a process group of its own, so Ctrl-C on the
// terminal reaches only this process. If this process dies, the kernel kills the
// program.
func startProcess(argv []string, stdout *os.File, extra []*os.File) (*process, error) {
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), stderr: &tail{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = stdout, p.stderr, extra
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = endWithin
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the thread that started the child ends (prctl(2)),
		// so this thread has to live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait() // ProcessState says how it ended
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	return p, nil
}

// end ends the process, by its own ID, and waits until it has ended.
func (p *process) end() {
	p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	timer := time.NewTimer(endWithin)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.cmd.Process.Kill()
		<-p.done
	}
}

// tail keeps the last bytes that are written to it.
type tail struct {
	mu   sync.Mutex
	data []byte // guarded by mu; at most maxTail bytes
}

const maxTail = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if excess := len(t.data) - maxTail; excess > 0 {
		t.data = append([]byte(nil), t.data[excess:]...)
	}
	return len(p), nil
}

// said returns QEMU's errors in one line, without the lines that TCG always prints
// about CPU features that it lacks.
func (t *tail) said() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for line := range bytes.Lines(t.data) {
		text := printable(line)
		if text != "" && !strings.Contains(text, "TCG doesn't support requested feature") {
			lines = append(lines, text)
		}
	}
	return strings.Join(lines, "; ")
}

// socketPair returns our end of a new pair of sockets, and QEMU's.
func socketPair() (ours net.Conn, qemus *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	qemus = os.NewFile(uintptr(fds[1]), "qemu's end")
	file := os.NewFile(uintptr(fds[0]), "our end")
	defer file.Close() // FileConn has a descriptor of its own
	if ours, err = net.FileConn(file); err != nil {
		qemus.Close()
		return nil, nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	return ours, qemus, nil
}

// memory returns an unnamed, sealed file in memory. No process can change it, so
// QEMU gets exactly the bytes that were measured. The file vanishes when this
// process ends, however it ends.
func memory(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(data); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("filling a file in memory: %w", err)
	}
	return f, nil
}
