package snpdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/snp"
)

const (
	// maxAnswer bounds an answer of the software AMD-SP in bytes.
	maxAnswer = reportResponseSize + maxCertificates

	firstPause, longestPause = 5 * time.Millisecond, 200 * time.Millisecond

	// attempt bounds one try: another process may have taken the answer.
	attempt = 4 * time.Second
)

// findPort returns the device node of the virtio port on which the software AMD-SP
// answers. class is /sys/class/virtio-ports. It has a directory for each port, with
// a file "name" if the hypervisor named the port.
func findPort(class, dev string) (string, error) {
	ports, err := os.ReadDir(class)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("finding the virtio port %s: %w", virtioPortName, err)
	}
	for _, port := range ports {
		name, err := os.ReadFile(filepath.Join(class, port.Name(), "name"))
		if err == nil && strings.TrimSuffix(string(name), "\n") == virtioPortName {
			return filepath.Join(dev, port.Name()), nil
		}
	}
	return "", fmt.Errorf("finding the virtio port %s among %d in %s: %w: want the module virtio_console, and a VM of the emulated platform", virtioPortName, len(ports), class, ErrNotFound)
}

func openPort(path string, limit time.Duration) (*Device, error) {
	if err := present(path, "want a virtio port, or the socket of a software AMD-SP"); err != nil {
		return nil, err
	}
	return &Device{kind: VirtioPort, ask: port{path, limit}.ask}, nil
}

// port asks the software AMD-SP of the emulated platform, with the protocol of
// docs/spec/emulated-asp.md.
type port struct {
	path  string
	limit time.Duration // for one question
}

// ask repeats a question until it gets a whole answer or the limit passes. Lost
// answers are normal here: the kernel lets one process open the port at a time, and
// the next process gets the answer for one that closed the port too early.
func (p port) ask(request snp.ReportRequest) (answer, error) {
	end := time.Now().Add(p.limit) //nolint:forbidigo // a device deadline, not a time that decides a verdict
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		got, err := p.exchange(request, time.Now().Add(min(attempt, p.limit/3))) //nolint:forbidigo // as above
		var refused *statusError
		if err == nil || errors.As(err, &refused) {
			return got, err
		}
		if time.Until(end) <= pause { //nolint:forbidigo // as above
			return answer{}, fmt.Errorf("no answer within %v: %w", p.limit, err)
		}
		time.Sleep(pause)
	}
}

// conn is what a character device and a unix socket have in common.
type conn interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// exchange opens the port, asks once, and closes it.
func (p port) exchange(request snp.ReportRequest, end time.Time) (answer, error) {
	c, err := open(p.path, end)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(end); err != nil {
		return answer{}, fmt.Errorf("setting a deadline on %s: %w", p.path, err)
	}
	if _, err := c.Write(request.Marshal()); err != nil {
		return answer{}, fmt.Errorf("sending MSG_REPORT_REQ: %w", err)
	}
	var prefix [4]byte
	if _, err := io.ReadFull(c, prefix[:]); err != nil {
		return answer{}, fmt.Errorf("receiving the length of the answer: %w", err)
	}
	length := binary.LittleEndian.Uint32(prefix[:])
	if length < snp.ReportResponseHeader || length > maxAnswer {
		return answer{}, fmt.Errorf("answer has %d bytes, want %d to %d", length, snp.ReportResponseHeader, maxAnswer)
	}
	message := make([]byte, length)
	if _, err := io.ReadFull(c, message); err != nil {
		return answer{}, fmt.Errorf("receiving the answer: %w", err)
	}
	report, err := reportOf(message)
	if err != nil {
		return answer{}, err
	}
	parsed, err := snp.ParseReport(report)
	if err != nil {
		return answer{}, err
	}
	if parsed.ReportData != request.ReportData {
		return answer{}, fmt.Errorf("answer is for REPORT_DATA %x, want %x: another process asked for it", parsed.ReportData, request.ReportData)
	}
	return answer{report: report, certificates: message[reportResponseSize:]}, nil
}

func open(path string, end time.Time) (conn, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() == fs.ModeSocket {
		return (&net.Dialer{Deadline: end}).Dial("unix", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("another process has the port open: %w", err)
	}
	return f, err
}
