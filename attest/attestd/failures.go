package attestd

import (
	"log/slog"
	"sync"
)

// Bounds of attestd's log over its whole life. The log lies on a tmpfs whose space
// the booted system needs.
const (
	maxFailures    = 1000 // lines
	maxFailureText = 300  // bytes of an error's text
)

// failures is a log of failures with a bounded number of lines.
type failures struct {
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	failing bool       // the last outcome was a failure
	lines   int        // written so far
}

// note writes the first failure after a success. It drops further failures until
// the next success.
func (c *failures) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := err != nil && !c.failing
	c.failing = err != nil
	if !first || c.lines == maxFailures {
		return
	}
	c.lines++
	text := err.Error()
	c.log.Warn("no evidence given", "error", text[:min(len(text), maxFailureText)], "line", c.lines, "of_at_most", maxFailures)
}
