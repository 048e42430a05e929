package boot

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/internal/emulated"
)

// maxLine bounds a line on the console, in bytes.
const maxLine = 600

// notConfidential is the note on the first line when the software AMD-SP makes the
// reports.
const notConfidential = emulated.Warning

// console writes PID 1's lines. The lines wait until decide is called, because only
// boot.json says whether the owner wants them. The zero value has no file and
// writes nothing.
type console struct {
	file atomic.Pointer[os.File]

	mu      sync.Mutex // guards what follows
	enabled bool
	decided bool
	waiting []line // before decide
}

// line is one line of a step. A line without a duration reports progress.
type line struct {
	step, detail string
	duration     time.Duration
	finished     bool
}

func (l line) String() string {
	if !l.finished {
		return fmt.Sprintf("rootvouch: %s: %s", l.step, clean(l.detail))
	}
	return fmt.Sprintf("rootvouch: %s: %s (%d ms)", l.step, clean(l.detail), l.duration.Milliseconds())
}

// open opens /dev/console for the lines, and as the standard descriptors that the
// root filesystem's init inherits.
func (c *console) open() error {
	file, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening console: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup2(int(file.Fd()), fd); err != nil {
			return fmt.Errorf("opening console: %w", err)
		}
	}
	c.file.Store(file)
	return nil
}

// decide sets whether the steps are written, and whether the first line says that
// the VM is emulated.
func (c *console) decide(enabled, emulated bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enabled, c.decided = enabled, true
	for i, l := range c.waiting {
		if i == 0 && emulated {
			l.detail += "; " + notConfidential
		}
		c.writeLocked(l)
	}
	c.waiting = nil
}

// step writes the line of a finished step.
func (c *console) step(name, detail string, duration time.Duration) {
	c.write(line{name, detail, duration, true})
}

// progress writes a line between steps, for an observer of the console.
func (c *console) progress(name, detail string) {
	c.write(line{step: name, detail: detail})
}

func (c *console) write(l line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.decided {
		c.waiting = append(c.waiting, l)
		return
	}
	c.writeLocked(l)
}

func (c *console) writeLocked(l line) {
	if file := c.file.Load(); c.enabled && file != nil {
		_, _ = file.WriteString(l.String() + "\n") // a console that is gone stops no boot
	}
}

// refusal writes the last line of a failed boot, even if the owner turned all other
// lines off, and waits until the console has taken it. It takes no lock, because the
// holder of the lock may be waiting for the console.
func (c *console) refusal(step string, reason error) {
	file := c.file.Load()
	if file == nil {
		file = os.Stderr
	}
	_, _ = fmt.Fprintf(file, "rootvouch: refused: %s: %s\n", step, clean(reason.Error()))
	_ = unix.IoctlSetInt(int(file.Fd()), unix.TCSBRK, 1) // tcdrain(3)
}

// warn writes a line about a fault that does not end the machine, even if the owner
// turned all other lines off.
func (c *console) warn(step string, reason error) {
	file := c.file.Load()
	if file == nil {
		return
	}
	_, _ = fmt.Fprintf(file, "rootvouch: %s: %s\n", step, clean(reason.Error()))
	_ = unix.IoctlSetInt(int(file.Fd()), unix.TCSBRK, 1) // tcdrain(3)
}

// clean makes one line of text that other programs wrote. So no control character
// reaches the console, and no second line that looks like PID 1's.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r > '~' && r < 0xa0 || r == '\u2028' || r == '\u2029' || r == 0xfffd:
			return '?'
		}
		return r
	}, strings.TrimSpace(s))
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}
