package server

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/keyapi"
	"github.com/rootvouch/rootvouch/kms/acl"
)

// Bounds of nonces.
const (
	nonceLifetime  = time.Minute
	noncesPerSVID  = 8       // one more drops the caller's own oldest
	noncesTogether = 1 << 16 // about 8 MiB
)

// nonces are those that were issued and not yet used. They do not outlive the
// process: a caller in between gets a new one.
type nonces struct {
	rand io.Reader

	mu          sync.Mutex          // guards what follows
	outstanding map[svidID][]issued // :: SVID -> its nonces, oldest first
	count       int                 // of all nonces in outstanding
	swept       time.Time
}

// svidID is SHA-256 over an SVID's SPIFFE ID and public key.
type svidID [sha256.Size]byte

type issued struct {
	nonce keyapi.Nonce
	at    time.Time
}

func newNonces(rand io.Reader) *nonces {
	return &nonces{rand: rand, outstanding: map[svidID][]issued{}}
}

func svidOf(c acl.Caller) svidID {
	// A SPIFFE ID has no NUL.
	return sha256.Sum256(bytes.Join([][]byte{[]byte(c.ID.String()), c.SPKI}, []byte{0}))
}

// issue makes a nonce that this caller can use once. It is refused when
// there are too many of all callers together.
func (n *nonces) issue(c acl.Caller, now time.Time) (keyapi.Nonce, error) {
	var nonce keyapi.Nonce
	if _, err := io.ReadFull(n.rand, nonce[:]); err != nil {
		return keyapi.Nonce{}, fmt.Errorf("making a nonce: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if now.Sub(n.swept) >= nonceLifetime/4 || now.Before(n.swept) || n.count >= noncesTogether {
		n.sweepLocked(now)
	}
	caller := svidOf(c)
	mine := n.outstanding[caller]
	if len(mine) >= noncesPerSVID {
		mine = slices.Delete(mine, 0, 1)
		n.count--
	}
	if n.count >= noncesTogether {
		return keyapi.Nonce{}, refuse(keyapi.CodeBusy, "%d nonces are outstanding", n.count)
	}
	n.outstanding[caller] = append(mine, issued{nonce, now})
	n.count++
	return nonce, nil
}

// take uses a nonce up, and reports whether it was good.
func (n *nonces) take(c acl.Caller, nonce keyapi.Nonce, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	caller := svidOf(c)
	mine := n.outstanding[caller]
	i := slices.IndexFunc(mine, func(x issued) bool { return x.nonce == nonce })
	if i < 0 {
		return false
	}
	good := alive(mine[i], now)
	if mine = slices.Delete(mine, i, i+1); len(mine) == 0 {
		delete(n.outstanding, caller)
	} else {
		n.outstanding[caller] = mine
	}
	n.count--
	return good
}

// alive treats a clock that was set back like time that has passed.
func alive(x issued, now time.Time) bool {
	age := now.Sub(x.at)
	return age >= 0 && age < nonceLifetime
}

func (n *nonces) sweepLocked(now time.Time) {
	n.swept = now
	n.count = 0
	for caller, all := range n.outstanding {
		all = slices.DeleteFunc(all, func(x issued) bool { return !alive(x, now) })
		if n.count += len(all); len(all) == 0 {
			delete(n.outstanding, caller)
		} else {
			n.outstanding[caller] = all
		}
	}
}
