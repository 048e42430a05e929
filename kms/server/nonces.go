package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/acl"
)

const (
	nonceLifetime = time.Minute
	// nonceSkew is how far the clock of another server that made a nonce may be ahead.
	nonceSkew = 5 * time.Second
	// nonceGrace is how long the server answers "ask again" to a request whose nonce is too
	// old. A copy of the request that came in time may still be in its transaction, here or at
	// another server. After nonceGrace that transaction has ended, and its result is visible.
	nonceGrace = 45 * time.Second

	nonceLabel = "rootvouch kms nonce v1"
)

// nonces makes nonces and recognizes its own without storing them. Each nonce has the time (8
// bytes, big-endian nanoseconds since 1970), 8 random bytes, and half an HMAC-SHA-256 over both
// and the caller. Any server with the key recognizes it. The lease, not the nonce, ensures that
// a nonce serves only one release.
type nonces struct {
	key  []byte
	rand io.Reader
}

// issue makes a nonce for this caller.
func (n nonces) issue(c acl.Caller, now time.Time) (evidence.Nonce, error) {
	var nonce evidence.Nonce
	binary.BigEndian.PutUint64(nonce[:8], uint64(now.UnixNano()))
	if _, err := io.ReadFull(n.rand, nonce[8:16]); err != nil {
		return evidence.Nonce{}, fmt.Errorf("making a nonce: %w", err)
	}
	copy(nonce[16:], n.tag(nonce, c))
	return nonce, nil
}

// until reports whether a nonce was made for this caller, and until when it is fresh. A nonce
// from the future is not fresh, because a clock that was set back must not extend its life.
func (n nonces) until(c acl.Caller, nonce evidence.Nonce, now time.Time) (until time.Time, ours bool) {
	if !hmac.Equal(nonce[16:], n.tag(nonce, c)) {
		return time.Time{}, false
	}
	made := time.Unix(0, int64(binary.BigEndian.Uint64(nonce[:8])))
	if now.Sub(made) < -nonceSkew {
		return time.Time{}, false
	}
	return made.Add(nonceLifetime), true
}

// tag is the MAC of a nonce's first half for a caller. Each part follows its size.
func (n nonces) tag(nonce evidence.Nonce, c acl.Caller) []byte {
	mac := hmac.New(sha256.New, n.key)
	key := sha256.Sum256(c.SPKI)
	for _, part := range [][]byte{[]byte(nonceLabel), nonce[:16], []byte(c.ID.String()), key[:]} {
		mac.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		mac.Write(part)
	}
	return mac.Sum(nil)[:16]
}
