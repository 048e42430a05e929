package image

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress shows how far a long piece of work is. On a terminal it draws a bar in place.
// Elsewhere it prints a line every few seconds. It shows nothing for work of less than a
// second.
type progress struct {
	w        io.Writer
	what     string
	terminal bool
	start    time.Time

	mu    sync.Mutex // guards the fields below
	last  time.Time  // when progress was last shown
	shown bool
}

const (
	progressQuiet  = time.Second
	progressRedraw = 100 * time.Millisecond
	progressLine   = 5 * time.Second
	progressWidth  = 30 // characters
)

func newProgress(w io.Writer, what string) *progress {
	f, isFile := w.(*os.File)
	return &progress{w: w, what: what, terminal: isFile && term.IsTerminal(int(f.Fd())), start: time.Now()}
}

// update reports that done of total bytes are done; total 0 means unknown. It may be called
// from several goroutines.
func (p *progress) update(done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	interval := progressLine
	if p.terminal {
		interval = progressRedraw
	}
	took := now.Sub(p.start)
	if took < progressQuiet || now.Sub(p.last) < interval {
		return
	}
	p.last, p.shown = now, true
	line := p.line(done, total, float64(done)/took.Seconds())
	switch {
	case !p.terminal:
		fmt.Fprintln(p.w, line)
	case total == 0:
		fmt.Fprintf(p.w, "\r%s\x1b[K", line)
	default:
		full := int(done * progressWidth / total)
		fmt.Fprintf(p.w, "\r[%s%s] %s\x1b[K", strings.Repeat("#", full), strings.Repeat(".", progressWidth-full), line)
	}
}

// line describes the progress in words; rate is in bytes per second.
func (p *progress) line(done, total uint64, rate float64) string {
	if total == 0 {
		return fmt.Sprintf("%s: %s, %s/s", p.what, bytesText(float64(done)), bytesText(rate))
	}
	left := time.Duration(float64(total-min(done, total)) / max(rate, 1) * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s: %3d %% of %s, %s/s, %v left", p.what, done*100/total, bytesText(float64(total)), bytesText(rate), left)
}

// done ends the bar's line.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal && p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

// bytesText writes a number of bytes for people.
func bytesText(n float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if n < 1024 {
			return fmt.Sprintf("%.4g %s", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.4g TiB", n)
}
