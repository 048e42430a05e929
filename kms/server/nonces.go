package server

import (
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/keyapi"
)

// Bounds of nonces.
const (
	nonceLifetime  = time.Minute
	noncesPerSVID  = 8       // one more drops the SVID's own oldest
	noncesPerID    = 64      // one more drops the SPIFFE ID's own oldest: its agent gets it any number of SVIDs
	noncesTogether = 1 << 16 // about 8 MiB
)

// nonces are those that were issued and not yet used. They do not outlive the
// process: a caller in between gets a new one.
type nonces struct {
	rand io.Reader

	mu          sync.Mutex          // guards what follows
	outstanding map[string][]issued // :: SPIFFE ID -> its nonces, oldest first
	count       int                 // of all nonces in outstanding
	swept       time.Time
}

type issued struct {
	nonce evidence.Nonce
	key   [sha256.Size]byte // SHA-256 of the SVID's public key
	at    time.Time
}

func newNonces(rand io.Reader) *nonces {
	return &nonces{rand: rand, outstanding: map[string][]issued{}}
}

// issue makes a nonce that this caller can use once. It is refused when
// there are too many of all callers together.
func (n *nonces) issue(c acl.Caller, now time.Time) (evidence.Nonce, error) {
	x := issued{key: sha256.Sum256(c.SPKI), at: now}
	if _, err := io.ReadFull(n.rand, x.nonce[:]); err != nil {
		return evidence.Nonce{}, fmt.Errorf("making a nonce: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if now.Sub(n.swept) >= nonceLifetime/4 || now.Before(n.swept) || n.count >= noncesTogether {
		n.sweepLocked(now)
	}
	id := c.ID.String()
	all := n.outstanding[id]
	n.setLocked(id, len(all), makeRoom(all, x.key))
	if n.count >= noncesTogether {
		return evidence.Nonce{}, refuse(keyapi.CodeBusy, "%d nonces are outstanding", n.count)
	}
	all = n.outstanding[id]
	n.setLocked(id, len(all), append(all, x))
	return x.nonce, nil
}

// makeRoom drops the oldest nonce of the SVID with this key, or else of all,
// where there may be no more.
func makeRoom(all []issued, key [sha256.Size]byte) []issued {
	same := func(x issued) bool { return x.key == key }
	mine := 0
	for _, x := range all {
		if same(x) {
			mine++
		}
	}
	switch {
	case mine >= noncesPerSVID:
		i := slices.IndexFunc(all, same)
		return slices.Delete(all, i, i+1)
	case len(all) >= noncesPerID:
		return slices.Delete(all, 0, 1)
	}
	return all
}

// setLocked replaces the nonces of one SPIFFE ID, which has before of them.
func (n *nonces) setLocked(id string, before int, all []issued) {
	n.count += len(all) - before
	if len(all) == 0 {
		delete(n.outstanding, id)
	} else {
		n.outstanding[id] = all
	}
}

// take uses a nonce up, and reports whether it was good.
func (n *nonces) take(c acl.Caller, nonce evidence.Nonce, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	id, key := c.ID.String(), sha256.Sum256(c.SPKI)
	mine := n.outstanding[id]
	i := slices.IndexFunc(mine, func(x issued) bool { return x.nonce == nonce && x.key == key })
	if i < 0 {
		return false
	}
	good := alive(mine[i], now)
	n.setLocked(id, len(mine), slices.Delete(mine, i, i+1))
	return good
}

// alive treats a clock that was set back like time that has passed.
func alive(x issued, now time.Time) bool {
	age := now.Sub(x.at)
	return age >= 0 && age < nonceLifetime
}

func (n *nonces) sweepLocked(now time.Time) {
	n.swept = now
	for id, all := range n.outstanding {
		n.setLocked(id, len(all), slices.DeleteFunc(all, func(x issued) bool { return !alive(x, now) }))
	}
}
