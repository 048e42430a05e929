package ledger

import "time"

// A transaction costs two syncs and some pages of the tree, however many releases share it. So a
// release waits a moment for others, if enough of them are on their way. Without that wait, a
// server that is as busy as it can be makes a transaction for nearly every release.

// gatherTime bounds the wait. In that time, eight releases come to a server on two cores that
// releases as fast as it can.
const gatherTime = 20 * time.Millisecond

// Numbers of releases that share a transaction.
const (
	worthwhile = 5  // fewer are not worth a wait
	plenty     = 16 // more save little: each of these has a sixteenth of the cost
)

// announced is how long an announcement counts. A guest that needs more time for its report is not
// waited for.
const announced = 50 * time.Millisecond

// maxAnnounced bounds how many announcements count at once.
const maxAnnounced = 1024

// Announce says that a release to this peer is on its way: the peer has got a nonce, or its
// request is being judged. A peer counts once.
func (l *Ledger) Announce(peer string) {
	now := l.clock()
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	if len(l.coming) >= maxAnnounced {
		l.comingLocked(now)
	}
	if len(l.coming) < maxAnnounced {
		l.coming[peer] = now
	}
}

// Retract says that no release to this peer is on its way.
func (l *Ledger) Retract(peer string) {
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	delete(l.coming, peer)
	l.signal()
}

// Coming returns how many releases are on their way.
func (l *Ledger) Coming() int {
	now := l.clock()
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	return l.comingLocked(now)
}

// comingLocked forgets the announcements that no longer count, and returns how many do.
func (l *Ledger) comingLocked(now time.Time) int {
	for peer, at := range l.coming {
		if age := now.Sub(at); age < 0 || age > announced {
			delete(l.coming, peer)
		}
	}
	return len(l.coming)
}

// enqueue makes a claim wait for a transaction.
func (l *Ledger) enqueue(c *claim) {
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	l.pending = append(l.pending, c)
	delete(l.coming, c.About.Remote)
	l.signal()
}

// signal tells gather that the number of claims or announcements changed.
func (l *Ledger) signal() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// gather waits for releases that are on their way. The caller holds the gate.
func (l *Ledger) gather() {
	end := time.NewTimer(gatherTime)
	defer end.Stop()
	for l.gathering() {
		select {
		case <-l.changed:
		case <-end.C:
			return
		}
	}
}

// gathering reports whether more claims are worth a wait.
func (l *Ledger) gathering() bool {
	now := l.clock()
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	waiting, coming := len(l.pending), l.comingLocked(now)
	return coming > 0 && waiting < plenty && waiting+coming >= worthwhile
}
