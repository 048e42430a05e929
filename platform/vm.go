package platform

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/platform/asp"
	"github.com/rootvouch/rootvouch/snp"
)

// Options say how a guest is run. The zero value suffices on the SNP platform.
type Options struct {
	QEMU string // the program; empty means DefaultQEMU
	// AMDSP signs the guest's reports, with randomness from Rand. The emulated
	// platform requires both; SNP ignores them.
	AMDSP *asp.Chip
	Rand  io.Reader
	// Console is called with each line of the serial port that has text, without
	// control characters, from one goroutine. It must not block for long. May be
	// nil.
	Console func(line string)
	// Log gets every byte of the serial port. May be nil.
	Log io.Writer
	// StartTimeout bounds the time until the kernel starts; 0 means 30 s and
	// half a second for each MiB of kernel and initramfs.
	StartTimeout time.Duration
	// Timeout bounds the VM's whole life. 0 means no bound.
	Timeout time.Duration
}

// handshake bounds the time until QEMU takes commands.
const handshake = 60 * time.Second

// VM is a guest that runs, or ran. Its methods can be called at any time, by
// any goroutine.
type VM struct {
	measured *Measured
	session  *asp.Session // nil on SNP
	forwards []Forward

	process  *process
	console  *console
	startFor time.Duration
	lifetime time.Duration

	start   sync.Once
	started chan struct{} // closed at the kernel's first sign
	stop    sync.Once
	stopped chan struct{} // closed by Stop

	result   Result        // read after finished
	finished chan struct{} // closed when everything has ended
}

// Measurement returns the launch digest of the guest.
func (v *VM) Measurement() snp.Measurement { return v.measured.Digest }

// ReportID returns the REPORT_ID of the guest's reports. On SNP ok is false,
// because the host does not know the REPORT_ID.
func (v *VM) ReportID() (id snp.ReportID, ok bool) {
	if v.session == nil {
		return snp.ReportID{}, false
	}
	return v.session.ReportID(), true
}

// Forwards returns the guest's forwards, with the host ports that QEMU uses.
func (v *VM) Forwards() []Forward { return append([]Forward(nil), v.forwards...) }

// Started returns a channel that is closed at the first sign that the firmware has
// let the kernel start.
func (v *VM) Started() <-chan struct{} { return v.started }

// Stop ends the VM as a power cut would. It does not wait.
func (v *VM) Stop() { v.stop.Do(func() { close(v.stopped) }) }

// Wait waits until the VM has ended and its processes and sockets are gone.
func (v *VM) Wait() Result {
	<-v.finished
	return v.result
}

// Start launches a guest. A cancelled ctx ends the guest. If Start fails, or when
// the VM has ended, nothing is left behind. QEMU does not outlive this process.
func Start(ctx context.Context, g Guest, o Options) (*VM, error) {
	if o.QEMU == "" {
		o.QEMU = DefaultQEMU
	}
	if err := g.Check(); err != nil {
		return nil, fmt.Errorf("checking the guest: %w", err)
	}
	if g.Kind == Emulated && (o.AMDSP == nil || o.Rand == nil) {
		return nil, errors.New("launching: the emulated platform needs a software AMD-SP and a source of randomness")
	}
	if err := checkHost(ctx, "/", o.QEMU, g.Kind); err != nil {
		return nil, err
	}
	if err := errors.Join(g.checkFiles(), checkPorts(g.Forwards)); err != nil {
		return nil, err
	}
	measured, err := Measure(g)
	if err != nil {
		return nil, fmt.Errorf("measuring the guest: %w", err)
	}
	v := &VM{
		measured: measured,
		lifetime: o.Timeout,
		startFor: o.StartTimeout,
		started:  make(chan struct{}),
		stopped:  make(chan struct{}),
		finished: make(chan struct{}),
	}
	if v.startFor == 0 {
		v.startFor = measured.startBound()
	}
	v.console = &console{log: o.Log, line: o.Console, started: v.kernelStarted}
	if g.Kind == Emulated {
		v.session, err = o.AMDSP.Launch(o.Rand, asp.Launch{Measurement: measured.Digest, Policy: g.Policy, HostData: g.HostData, IDBlock: g.IDBlock})
		if err != nil {
			return nil, err
		}
	}
	if err := v.launch(ctx, g, o.QEMU); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *VM) kernelStarted() { v.start.Do(func() { close(v.started) }) }

// launch starts QEMU, and the goroutines that end with it.
func (v *VM) launch(ctx context.Context, g Guest, program string) error {
	ends, err := v.wire(&g, program)
	if err != nil {
		return err
	}
	consoleDone := make(chan error, 1)
	go func() { consoleDone <- v.console.run(ends.console) }()
	var aspDone chan error
	if v.session != nil {
		aspDone = make(chan error, 1)
		go func() { aspDone <- v.session.Serve(ends.amdsp) }()
	}
	control, err := v.handshake(ctx, g, ends.qmp)
	if err != nil {
		v.process.end()
		ends.close()
		<-consoleDone
		if aspDone != nil {
			<-aspDone
		}
		if said := v.process.stderr.said(); said != "" {
			return fmt.Errorf("starting QEMU: %w: it said: %s", err, said)
		}
		return fmt.Errorf("starting QEMU: %w", err)
	}
	reason := make(chan string, 1)
	go func() { reason <- control.events(v.kernelStarted) }()
	go func() {
		defer close(v.finished)
		outcome := v.supervise(ctx)
		// QEMU has ended, so its ends of the pipe and sockets are closed, and the
		// readers reach end of file.
		why := <-reason
		detail := []error{<-consoleDone}
		ends.close()
		if aspDone != nil {
			detail = append(detail, <-aspDone)
		}
		v.result = v.conclude(outcome, why, errors.Join(detail...))
	}()
	return nil
}

// ends are this process's ends of its connections to QEMU.
type ends struct {
	console    *os.File
	qmp, amdsp net.Conn // amdsp is nil on SNP
}

func (e *ends) close() {
	for _, c := range []io.Closer{e.console, e.qmp} {
		if c != nil {
			c.Close()
		}
	}
	if e.amdsp != nil {
		e.amdsp.Close()
	}
}

// wire starts QEMU with all its connections. QEMU gets a copy of the firmware bytes
// that were measured. That firmware checks kernel, initramfs and command line.
func (v *VM) wire(g *Guest, program string) (*ends, error) {
	var qemus []*os.File // QEMU's descriptors, from 3 on
	defer func() {
		for _, f := range qemus {
			f.Close()
		}
	}()
	inherit := func(f *os.File) int {
		qemus = append(qemus, f)
		return 2 + len(qemus)
	}
	e := &ends{}
	ok := false
	defer func() {
		if !ok {
			e.close()
		}
	}()
	inMemory := func(name string, data []byte) (string, error) {
		f, err := memory(name, data)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("/proc/self/fd/%d", inherit(f)), nil
	}
	var err error
	if g.Firmware, err = inMemory("firmware", v.measured.firmware); err != nil {
		return nil, err
	}
	var p Parts
	connect := func(ours *net.Conn, fd *int) error {
		conn, qemu, err := socketPair()
		if err == nil {
			*ours, *fd = conn, inherit(qemu)
		}
		return err
	}
	if err := connect(&e.qmp, &p.QMP); err != nil {
		return nil, err
	}
	if g.Kind == Emulated {
		if err := connect(&e.amdsp, &p.AMDSP); err != nil {
			return nil, err
		}
		if p.HashesPage, err = inMemory("kernel-hashes", v.measured.page); err != nil {
			return nil, err
		}
		p.HashesAddress = v.measured.pageGPA
	}
	console, stdout, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	defer stdout.Close()
	e.console = console
	v.process, err = startProcess(append([]string{program}, Args(*g, p)...), stdout, qemus)
	ok = err == nil
	return e, err
}

// checkPorts refuses forwards whose host port is in use, because QEMU's own error
// is harder to read. It skips port 0, for which QEMU chooses a port.
func checkPorts(all []Forward) error {
	var errs []error
	for _, f := range all {
		if f.Host.Port() == 0 {
			continue
		}
		l, err := net.Listen("tcp", f.Host.String())
		if err != nil {
			errs = append(errs, fmt.Errorf("forwarding %v: %w", f.Host, errors.Unwrap(err)))
			continue
		}
		l.Close()
	}
	return errors.Join(errs...)
}

// handshake takes control of QEMU, learns its ports and lets the VM run.
func (v *VM) handshake(ctx context.Context, g Guest, conn net.Conn) (*qmp, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	deadline := time.AfterFunc(handshake, func() { conn.Close() })
	defer deadline.Stop()
	control, err := newQMP(conn)
	if err == nil {
		v.forwards, err = control.forwards(g.Forwards)
	}
	if err == nil {
		err = control.cont()
	}
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return control, err
}
