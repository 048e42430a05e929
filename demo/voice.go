package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/internal/emulated"
)

// patience is after how long a step says that it is still at work, and how
// often then, where nothing can be rewritten.
const (
	patience      = time.Second
	plainReminder = 10 * time.Second
)

const notConfidential = emulated.Warning

// step is one part of the demo.
type step struct {
	title string
	do    func(context.Context) error
}

// Voice tells the user what happens. Commands begin with "$", what the VM says
// on its console with "│".
type Voice struct {
	Out      io.Writer
	Terminal bool // lines can be rewritten

	mu      sync.Mutex
	waiting bool // the last line is a reminder to be rewritten; guarded by mu
	count   int  // steps so far; guarded by mu
}

func (v *Voice) say(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.waiting {
		fmt.Fprint(v.Out, "\r\033[K")
		v.waiting = false
	}
	fmt.Fprintf(v.Out, format+"\n", args...)
}

func (v *Voice) banner() {
	v.say("rootvouch demo: the whole chain on this machine")
	v.say(notConfidential)
}

// command shows a command before it runs; $STATE stands for a directory that is
// gone when the demo ends.
func (v *Voice) command(line string) { v.say("   %s", line) }

func (v *Voice) console(line string) {
	if strings.TrimSpace(line) != "" {
		v.say("   │ %s", line)
	}
}

func (v *Voice) result(text []byte) {
	for line := range strings.Lines(string(text)) {
		v.say("%s", strings.TrimRight(line, "\n"))
	}
}

func (v *Voice) closing(out string) {
	v.say("")
	v.say("%s", notConfidential)
	v.say("disk, initramfs, reference values and logs are in %s", out)
	v.say("")
}

// step does one part, and reminds the user that it is at work.
func (v *Voice) step(ctx context.Context, s step) error {
	v.mu.Lock()
	v.count++
	number := v.count
	v.mu.Unlock()
	v.say("")
	v.say("%d. %s", number, s.title)
	start := time.Now()
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		v.remind(start, done)
	}()
	err := s.do(ctx)
	close(done)
	<-finished
	if err == nil {
		v.say("   done in %.1f s", time.Since(start).Seconds())
	}
	return err
}

// remind says once a second how long it has been, until done.
func (v *Voice) remind(start time.Time, done <-chan struct{}) {
	tick := time.NewTicker(patience)
	defer tick.Stop()
	next := patience
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		elapsed := time.Since(start)
		if v.Terminal {
			v.mu.Lock()
			fmt.Fprintf(v.Out, "\r\033[K   … %.0f s", elapsed.Seconds())
			v.waiting = true
			v.mu.Unlock()
		} else if elapsed >= next {
			v.say("   … %.0f s", elapsed.Seconds())
			next = elapsed + plainReminder
		}
	}
}
