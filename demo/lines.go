package demo

import (
	"bytes"
	"strings"
	"sync"
)

// maxLine bounds a line of the console in bytes. A longer line is cut.
const maxLine = 16 << 10

// lineWatcher splits its input into lines, passes each line on, and wakes the
// callers that wait for a line.
type lineWatcher struct {
	onLine func(string) // called by Write; may be nil

	mu      sync.Mutex
	partial []byte                   // guarded by mu
	seen    []string                 // guarded by mu
	waiting map[string]chan struct{} // :: text -> closed when a line has it; guarded by mu
}

func newLineWatcher(onLine func(string)) *lineWatcher {
	return &lineWatcher{onLine: onLine, waiting: map[string]chan struct{}{}}
}

// Write never fails.
func (w *lineWatcher) Write(data []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partial = append(w.partial, data...)
	for {
		end := bytes.IndexByte(w.partial, '\n')
		if end < 0 && len(w.partial) > maxLine {
			end = maxLine
		}
		if end < 0 {
			return len(data), nil
		}
		w.line(strings.TrimRight(string(w.partial[:end]), "\r"))
		w.partial = w.partial[min(end+1, len(w.partial)):]
	}
}

// line takes one line; the caller holds mu.
func (w *lineWatcher) line(line string) {
	w.seen = append(w.seen, line)
	if w.onLine != nil {
		w.onLine(line) // before the callers that wait for the line go on
	}
	for text, found := range w.waiting {
		if strings.Contains(line, text) {
			close(found)
			delete(w.waiting, text)
		}
	}
}

// find returns a channel that is closed once a line, past or to come, contains
// text. One caller may wait for one text at a time.
func (w *lineWatcher) find(text string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := make(chan struct{})
	for _, line := range w.seen {
		if strings.Contains(line, text) {
			close(found)
			return found
		}
	}
	w.waiting[text] = found
	return found
}

// last returns the last line with text.
func (w *lineWatcher) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.seen) - 1; i >= 0; i-- {
		if strings.TrimSpace(w.seen[i]) != "" {
			return w.seen[i]
		}
	}
	return "(it said nothing)"
}
