package attestd

import (
	"log/slog"
	"sync"
)

// Bounds of what attestd writes to its log in all its life: the log lies on a
// tmpfs that the booted system needs.
const (
	maxComplaints = 1000 // lines
	maxComplaint  = 300  // bytes of an error's text
)

// complaints is a log of failures that cannot grow without end.
type complaints struct {
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	failing bool       // the last outcome was a failure
	lines   int        // written
}

// note writes the first failure after a success. Those that follow it say the
// same, as long as nothing succeeds.
func (c *complaints) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := err != nil && !c.failing
	c.failing = err != nil
	if !first || c.lines == maxComplaints {
		return
	}
	c.lines++
	text := err.Error()
	c.log.Warn("no evidence given", "error", text[:min(len(text), maxComplaint)], "line", c.lines, "of_at_most", maxComplaints)
}
