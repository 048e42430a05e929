package kds

import "time"

// SetClock has d take its time from now.
func (d *Dir) SetClock(now func() time.Time) { d.now = now }
