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

// patience is the time after which a step reports that it is still at work, and the
// interval of further reports if lines cannot be rewritten.
const (
	patience      = time.Second
	plainReminder = 10 * time.Second
)

const notConfidential = emulated.Warning

// step is one part of the demo.
type step struct {
	title string
	do    func(context.Context) error
	// proved returns lines that say what the step has shown. Nil means that the
	// step has nothing to report.
	proved func() ([]string, error)
}

// columns is the width that the demo's own lines fit.
const columns = 80

// Voice tells the user what happens. Commands begin with "$", lines of the VM's
// console with "│", and proofs of a step with "✓".
type Voice struct {
	Out      io.Writer
	Terminal bool // lines can be rewritten
	Console  bool // all lines of the VM's console, not only PID 1's and the last one

	mu      sync.Mutex
	waiting bool // the last line is a reminder to be rewritten; guarded by mu
	count   int  // steps so far; guarded by mu
	hidden  int  // lines of the console that were not shown; guarded by mu
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

// command shows a command before it runs. $STATE stands for a directory that is
// removed when the demo ends.
func (v *Voice) command(line string) {
	for _, part := range fold(line, columns-len("     \\ ")) {
		v.say("   %s", part)
	}
}

// fold breaks a command at its spaces into lines of that width, in a form that a
// shell accepts.
func fold(line string, width int) []string {
	var lines []string
	current := ""
	for _, word := range units(line) {
		switch {
		case current == "":
			current = word
		case len(current)+1+len(word) <= width:
			current += " " + word
		default:
			lines = append(lines, current+" \\")
			current = "    " + word
		}
	}
	return append(lines, current)
}

// units returns the words of a command, each flag together with its value.
func units(line string) []string {
	var all []string
	for _, word := range strings.Split(line, " ") {
		if n := len(all); n > 0 && strings.HasPrefix(all[n-1], "--") && !strings.Contains(all[n-1], " ") && !strings.HasPrefix(word, "-") {
			all[n-1] += " " + word
			continue
		}
		all = append(all, word)
	}
	return all
}

// console shows a line of the VM. It counts the lines of kernel and systemd, and
// shows them only if the user asked for all lines.
func (v *Voice) console(line string) {
	if line = strings.TrimRight(line, " "); strings.TrimSpace(line) == "" {
		return
	}
	if !v.Console && !strings.HasPrefix(line, "rootvouch: ") && !strings.Contains(line, multiUser) {
		v.mu.Lock()
		v.hidden++
		v.mu.Unlock()
		return
	}
	const room = columns - len("   | ")
	if runes := []rune(line); !v.Console && len(runes) > room {
		line = string(runes[:room-1]) + "…"
	}
	v.say("   │ %s", line)
}

// folded prints how many lines of the console were not shown.
func (v *Voice) folded() {
	v.mu.Lock()
	hidden := v.hidden
	v.mu.Unlock()
	if hidden > 0 {
		v.say("   │ (%d lines of kernel and systemd: logs/vm.log; --show-console shows them)", hidden)
	}
}

func (v *Voice) result(text []byte) {
	for line := range strings.Lines(string(text)) {
		for _, part := range wrap(strings.TrimRight(line, "\n"), columns) {
			v.say("%s", part)
		}
	}
}

// wrap breaks a line that is too wide at its spaces, and cuts a word that is too
// wide. Further lines are indented.
func wrap(line string, width int) []string {
	const indent = "        "
	var lines []string
	runes := []rune(line)
	for len(runes) > width {
		at := width
		for i := width; i > len(indent); i-- {
			if runes[i] == ' ' {
				at = i
				break
			}
		}
		lines = append(lines, string(runes[:at]))
		runes = append([]rune(indent), []rune(strings.TrimLeft(string(runes[at:]), " "))...)
	}
	return append(lines, string(runes))
}

func (v *Voice) closing(out string) {
	v.say("")
	v.say("%s", notConfidential)
	v.say("In %s: the release, the proof, and the boot as a picture. Judge it again:", out)
	v.command("$ rootvouch report verify --bundle " + out + "/" + proofFile + " --refval " + out + "/release/refval.json")
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
	if err != nil {
		return err
	}
	v.say("   done in %.1f s", time.Since(start).Seconds())
	if s.proved == nil {
		return nil
	}
	lines, err := s.proved()
	for _, line := range lines {
		v.say("   ✓ %s", line)
	}
	return err
}

// remind prints the elapsed time once a second, until done is closed.
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
