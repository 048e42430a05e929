// Package timeline shows where a boot's time went, as text and as a picture.
package timeline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/internal/strictjson"
)

const (
	// MaxSize bounds a file of events, in bytes.
	MaxSize = 16 << 20

	// Kernel is the mark of the first sign that the kernel runs.
	Kernel = "kernel"

	// reached and multiUser are parts of the line in which systemd says that the
	// system is up. Between them are remains of colour codes.
	reached   = "Reached target"
	multiUser = "multi-user.target"
)

// Event is an observation of the launcher, written as one line of JSON.
type Event struct {
	MS   uint64 `json:"ms"` // milliseconds since the launch
	Mark string `json:"mark,omitempty"`
	Line string `json:"line,omitempty"` // of the console
}

// Encode returns the event with a newline at its end.
func (e Event) Encode() []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(e); err != nil {
		panic("timeline: internal error: encoding an event: " + err.Error())
	}
	return out.Bytes()
}

// Decode reads events, one a line.
func Decode(data []byte) ([]Event, error) {
	var all []Event
	for line := range bytes.Lines(data) {
		var e Event
		if err := strictjson.Unmarshal(bytes.TrimSpace(line), &e); err != nil {
			return nil, fmt.Errorf("decoding event %d: %v", len(all)+1, err)
		}
		all = append(all, e)
	}
	return all, nil
}

// Span is one part of a boot.
type Span struct {
	Name       string
	Kind       string // host, kernel, pid1 or system: who was at work
	Start, End uint64 // milliseconds since the launch
}

// Boot is a boot in parts, in order. The parts do not overlap. Time between two
// parts belongs to neither.
type Boot struct {
	Spans []Span
	// Complete says that the booted system said it is up.
	Complete bool
}

// step matches PID 1's line about a finished step.
var step = regexp.MustCompile(`^rootvouch: ([a-z-]{1,32}): .* \(([0-9]{1,9}) ms\)$`)

// New finds the parts of a boot. If log is nil, PID 1's steps come from its lines
// on the console.
func New(events []Event, log *bootlog.Log) (Boot, error) {
	var kernel, up, last uint64
	var steps []Span
	for _, e := range events {
		last = max(last, e.MS)
		if e.Mark == Kernel && kernel == 0 {
			kernel = e.MS
		}
		if m := step.FindStringSubmatch(e.Line); m != nil {
			took, err := strconv.ParseUint(m[2], 10, 64)
			if err != nil {
				return Boot{}, err
			}
			steps = append(steps, Span{m[1], "pid1", e.MS - min(took, e.MS), e.MS})
		}
		if strings.Contains(e.Line, reached) && strings.Contains(e.Line, multiUser) && up == 0 {
			up = e.MS
		}
	}
	if kernel == 0 {
		return Boot{}, errors.New("no kernel started")
	}
	if log != nil {
		steps = fromLog(steps, *log)
	}
	b := Boot{Spans: []Span{{"firmware and gate", "host", 0, kernel}}, Complete: up > 0}
	at := kernel
	if len(steps) > 0 {
		b.Spans = append(b.Spans, Span{"kernel, initramfs", "kernel", kernel, max(kernel, steps[0].Start)})
	}
	for _, s := range steps {
		s.Start = max(s.Start, at)
		s.End = max(s.Start, s.End)
		b.Spans, at = append(b.Spans, s), s.End
	}
	switch end := up; {
	case end == 0 && last > at:
		b.Spans = append(b.Spans, Span{"until the last line", "system", at, last})
	case end > at:
		b.Spans = append(b.Spans, Span{"systemd to multi-user", "system", at, end})
	}
	return b, nil
}

// fromLog takes the steps from a boot log. The log's times are those of the guest's
// clock; the first step that both the log and the console have gives the difference
// of the two clocks. Steps after the writing of the log come from the console.
func fromLog(console []Span, log bootlog.Log) []Span {
	shift, found := int64(0), false
	for _, s := range log.Steps {
		for _, c := range console {
			if !found && c.Name == s.Name {
				shift, found = int64(c.End)-int64(s.StartMS+s.DurationMS), true
			}
		}
	}
	if !found {
		return console
	}
	var all []Span
	known := map[string]bool{}
	for _, s := range log.Steps {
		start := max(0, int64(s.StartMS)+shift)
		all = append(all, Span{s.Name, "pid1", uint64(start), uint64(start) + s.DurationMS})
		known[s.Name] = true
	}
	for _, c := range console {
		if !known[c.Name] {
			all = append(all, c)
		}
	}
	return all
}

// end returns the time at which the boot was over, in milliseconds, at least 1.
func (b Boot) end() uint64 {
	end := uint64(1)
	for _, s := range b.Spans {
		end = max(end, s.End)
	}
	return end
}

// Text shows the boot in lines of at most 80 columns.
func (b Boot) Text() []byte {
	const bar = 40
	var out bytes.Buffer
	end := b.end()
	for _, s := range b.Spans {
		from := int(s.Start * bar / end)
		width := max(1, int(s.End*bar/end)-from)
		from = min(from, bar-1)
		width = min(width, bar-from)
		fmt.Fprintf(&out, "%-22.22s %s%s%s %7.3f s\n", s.Name, strings.Repeat(" ", from), strings.Repeat("█", width), strings.Repeat(" ", bar-from-width), float64(s.End-s.Start)/1000)
	}
	word := "to multi-user"
	if !b.Complete {
		word = "to the last line: the system did not come up"
	}
	fmt.Fprintf(&out, "%.3f s from the launch %s\n", float64(end)/1000, word)
	return out.Bytes()
}
