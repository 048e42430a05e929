package kds

import "time"

// SetClock sets the clock of d.
func (d *Dir) SetClock(now func() time.Time) { d.now = now }
