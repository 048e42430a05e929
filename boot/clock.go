package boot

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// setClock sets the clock to the measured floor if it shows an earlier time. The
// host controls the clock. The clock can be ahead or stand still, and PID 1 cannot
// notice either. But the host cannot make a certificate valid again that expired
// before the floor.
func setClock(floor time.Time) (string, error) {
	now := time.Now().UTC()
	if !now.Before(floor) {
		return now.Format(time.RFC3339), nil
	}
	tv := unix.NsecToTimeval(floor.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return "", fmt.Errorf("setting clock to floor %s: %w", floor.Format(time.RFC3339), err)
	}
	return fmt.Sprintf("set to floor %s, was %s", floor.Format(time.RFC3339), now.Format(time.RFC3339)), nil
}
