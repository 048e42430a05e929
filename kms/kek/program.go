package kek

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/kms/kek/provider"
)

// programLimit bounds the time for one answer of a program, its start included.
const programLimit = 20 * time.Second

// program is a provider process that seals and opens, one request at a time. It is started on
// demand, and again after a failure.
type program struct {
	argv []string

	mu  sync.Mutex // guards run, and admits one request at a time
	run *running   // nil: no process runs
}

// running is one process of a program.
type running struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// Seal implements Sealer. The program uses its own randomness.
func (p *program) Seal(_ io.Reader, secret []byte, about AAD) ([]byte, error) {
	return p.ask(provider.OpSeal, secret, about)
}

// Open implements Sealer.
func (p *program) Open(sealed []byte, about AAD) ([]byte, error) {
	return p.ask(provider.OpOpen, sealed, about)
}

// Close ends the program, if it runs.
func (p *program) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop()
	return nil
}

func (p *program) stop() {
	if p.run == nil {
		return
	}
	p.run.in.Close() // the program ends at the end of its input
	done := make(chan struct{})
	go func() { p.run.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(programLimit):
		p.run.cmd.Process.Kill()
		<-done
	}
	p.run = nil
}

// ask sends one request. If the program has died, ask starts it once more.
func (p *program) ask(op byte, data []byte, about AAD) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := p.run == nil
	reply, err := p.try(op, data, about)
	if _, broken := errors.AsType[*programError](err); broken && !fresh {
		reply, err = p.try(op, data, about)
	}
	if err != nil {
		return nil, fmt.Errorf("provider %s: %w", p.argv[0], err)
	}
	return reply, nil
}

// programError says that the program breaks the protocol.
type programError struct{ error }

func (e *programError) Unwrap() error { return e.error }

func (p *program) try(op byte, data []byte, about AAD) ([]byte, error) {
	if p.run == nil {
		run, err := start(p.argv)
		if err != nil {
			return nil, &programError{err}
		}
		p.run = run
	}
	process := p.run.cmd.Process
	timer := time.AfterFunc(programLimit, func() { process.Kill() })
	status, reply, err := p.run.exchange(op, data, about)
	if !timer.Stop() && err != nil {
		err = fmt.Errorf("no answer within %s", programLimit)
	}
	if err != nil {
		p.run.in.Close()
		process.Kill()
		p.run.cmd.Wait()
		p.run = nil
		return nil, &programError{err}
	}
	switch status {
	case provider.StatusDone:
		return reply, nil
	case provider.StatusWrong:
		return nil, ErrWrongKey
	case provider.StatusFailed:
		return nil, fmt.Errorf("%.500q", reply)
	}
	return nil, fmt.Errorf("answers with status %d, want 0 to 2", status)
}

// start starts a program and waits for its greeting. The program shares our standard error.
func start(argv []string) (*running, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stderr = programEnvironment(), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	run := &running{cmd, in, bufio.NewReaderSize(out, 1024)}
	timer := time.AfterFunc(programLimit, func() { cmd.Process.Kill() })
	defer timer.Stop()
	greeting := make([]byte, len(provider.Greeting))
	if _, err := io.ReadFull(run.out, greeting); err != nil || string(greeting) != provider.Greeting {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
		return nil, fmt.Errorf("greeting is %q, want %q", greeting, provider.Greeting)
	}
	return run, nil
}

// programEnvironment returns our environment without the variables that systemd sets for the
// server.
func programEnvironment() []string {
	var kept []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if name != "NOTIFY_SOCKET" && name != "WATCHDOG_USEC" && name != "WATCHDOG_PID" {
			kept = append(kept, v)
		}
	}
	return kept
}

// exchange writes a request and reads its answer. The request is wiped.
func (r *running) exchange(op byte, data []byte, about AAD) (status byte, reply []byte, err error) {
	request := make([]byte, 0, 1+4+len(about)+4+len(data))
	defer func() { clear(request) }()
	request = append(request, op)
	for _, part := range [][]byte{about, data} {
		request = binary.BigEndian.AppendUint32(request, uint32(len(part)))
		request = append(request, part...)
	}
	if _, err := r.in.Write(request); err != nil {
		return 0, nil, fmt.Errorf("sending a request: %w", err)
	}
	if status, err = r.out.ReadByte(); err != nil {
		return 0, nil, fmt.Errorf("reading an answer: %w", err)
	}
	var size [4]byte
	if _, err := io.ReadFull(r.out, size[:]); err != nil {
		return 0, nil, fmt.Errorf("reading an answer: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > provider.MaxPart {
		return 0, nil, fmt.Errorf("reading an answer: it has %d bytes, want at most %d", n, provider.MaxPart)
	}
	reply = make([]byte, n)
	if _, err := io.ReadFull(r.out, reply); err != nil {
		return 0, nil, fmt.Errorf("reading an answer: %w", err)
	}
	return status, reply, nil
}
