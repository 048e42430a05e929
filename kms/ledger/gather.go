package ledger

import "time"

// A transaction costs two syncs and some pages of the tree, however many releases share it. So on
// a busy server a release waits a moment for those that are on their way. On a server with few
// peers it does not wait, because there the processor has time to spare.

// gatherTime bounds the wait. In that time, eight releases come to a server on two cores that
// releases as fast as it can.
const gatherTime = 20 * time.Millisecond

// Numbers of releases.
const (
	worthwhile = 5  // fewer are not worth a wait
	plenty     = 16 // more save little: these have a sixteenth of the transaction's cost each
)

// gather waits until the releases that may come have come: at most others, besides the one that
// waits. The caller holds the gate.
func (l *Ledger) gather(others int) {
	want := min(1+others, plenty)
	if want < worthwhile {
		return
	}
	end := time.NewTimer(gatherTime)
	defer end.Stop()
	for l.waiting() < want {
		select {
		case <-l.arrived:
		case <-end.C:
			return
		}
	}
}

// waiting returns how many claims wait for a transaction.
func (l *Ledger) waiting() int {
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	return len(l.pending)
}

// enqueue makes a claim wait for a transaction.
func (l *Ledger) enqueue(c *claim) {
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	l.pending = append(l.pending, c)
	select {
	case l.arrived <- struct{}{}:
	default:
	}
}
