package platform

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/rootvouch/rootvouch/gate/program"
)

const (
	// maxLine bounds a line of the console in bytes; a longer one comes in
	// pieces.
	maxLine = 4096
	// keptLines is the number of last lines in a Result.
	keptLines = 40
)

// console reads the serial port of a VM.
type console struct {
	log  io.Writer         // every byte as it came; may be nil
	line func(line string) // every line with text; may be nil
	// started is called at the first sign that the kernel runs, once.
	started func()

	mu   sync.Mutex
	last []string // guarded by mu; at most keptLines
}

// run reads until the other end is closed. If the log cannot be written, run
// returns the error, but still reads the console to its end, because QEMU would
// stop otherwise.
func (c *console) run(r io.Reader) error {
	var logErr error
	in := bufio.NewReaderSize(r, maxLine)
	started := false
	for {
		raw, err := in.ReadSlice('\n')
		if c.log != nil && logErr == nil && len(raw) > 0 {
			_, logErr = c.log.Write(raw)
		}
		if text := printable(raw); text != "" {
			if !started && !fromFirmware(text) {
				started = true
				c.started()
			}
			c.keep(text)
			if c.line != nil {
				c.line(text)
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return logErr
		}
	}
}

func (c *console) keep(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = append(c.last, text)
	if len(c.last) > keptLines {
		c.last = c.last[1:]
	}
}

// lines returns the last lines.
func (c *console) lines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.last...)
}

// fromFirmware reports whether a line comes from the firmware or the gate, and not
// from the kernel or a later program. The AmdSev firmware prints nothing before it
// lets a kernel start. It and similar firmware print these lines if there is no
// kernel to start. The gate prints its line before it powers off.
func fromFirmware(text string) bool {
	for _, prefix := range []string{"BdsDxe:", "UEFI ", "Shell>", "GNU GRUB", "grub", ">>Start ", "PXE-", program.Refused} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

// printable returns the text of a line, without terminal control sequences
// (ECMA-48), control characters and surrounding blanks, and with invalid UTF-8
// replaced. The guest writes the console, so no other bytes of it may reach a
// terminal.
func printable(raw []byte) string {
	var b strings.Builder
	const (
		text = iota
		escape
		sequence // after ESC [
		command  // after ESC ] and similar: up to BEL or ESC \
	)
	state := text
	for _, r := range string(raw) {
		switch state {
		case escape:
			switch r {
			case '[':
				state = sequence
			case ']', 'P', 'X', '^', '_':
				state = command
			default:
				state = text
			}
			continue
		case sequence:
			if r >= 0x40 && r <= 0x7e {
				state = text
			}
			continue
		case command:
			switch r {
			case 0x07:
				state = text
			case 0x1b:
				state = escape
			}
			continue
		}
		switch {
		case r == 0x1b:
			state = escape
		case r == '\t':
			b.WriteByte(' ')
		case r < 0x20 || r >= 0x7f && r < 0xa0 || isFormat(r):
		default:
			b.WriteRune(r)
		}
	}
	return strings.TrimSpace(b.String())
}

// isFormat reports whether r changes how its neighbours look: line and
// paragraph separators and the controls of writing direction.
func isFormat(r rune) bool {
	return r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff
}

// refusal returns the gate's refusal, if the console ends with one.
func (c *console) refusal() string {
	lines := c.lines()
	if len(lines) == 0 || !strings.HasPrefix(lines[len(lines)-1], program.Refused) {
		return ""
	}
	return lines[len(lines)-1]
}
