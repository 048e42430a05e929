package server

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
)

// Limits of refusals on the audit log, for each SPIFFE ID.
const (
	refusalBurst    = 50
	refusalInterval = time.Second // time until one more is allowed
	refusalsPerDay  = 1000        // some 700 kB: the log is never cut
	refusalDay      = 24 * time.Hour
	refusalCallers  = 4096 // all others share one allowance

	leftOutInterval = time.Hour // the longest time until the number left out is on the log
)

// limiter bounds how many refusals each caller can put on the audit log. It counts the refusals
// that it leaves out. The count goes on the caller's next refusal, or on a leaf of its own.
type limiter struct {
	mu      sync.Mutex            // guards the fields below
	callers map[string]*allowance // :: SPIFFE ID -> its allowance
}

type allowance struct {
	left       int
	since      time.Time // when left was last computed
	today      int       // refusals on the log since day
	day        time.Time
	suppressed uint64
}

func newLimiter() *limiter { return &limiter{callers: map[string]*allowance{}} }

// allow reports whether one more refusal of this caller goes on the log, and how many before it
// were left out.
func (l *limiter) allow(id string, now time.Time) (suppressed uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.callers[id]
	if a == nil {
		if len(l.callers) >= refusalCallers {
			id = ""
		}
		if a = l.callers[id]; a == nil {
			a = &allowance{left: refusalBurst, since: now, day: now}
			l.callers[id] = a
		}
	}
	if now.Before(a.since) { // the clock was set back
		a.since = now
	}
	if more := int(now.Sub(a.since) / refusalInterval); more > 0 {
		a.left, a.since = min(a.left+more, refusalBurst), now
	}
	if now.Sub(a.day) >= refusalDay || now.Before(a.day) {
		a.today, a.day = 0, now
	}
	if a.left == 0 || a.today == refusalsPerDay {
		a.suppressed++
		return 0, false
	}
	a.left--
	a.today++
	suppressed, a.suppressed = a.suppressed, 0
	return suppressed, true
}

// leftOut returns how many refusals of each caller are on no leaf yet, and resets the counts.
func (l *limiter) leftOut() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := map[string]uint64{}
	for id, a := range l.callers {
		if a.suppressed > 0 {
			counts[id], a.suppressed = a.suppressed, 0
		}
	}
	return counts
}

// noteLeftOut puts those counts on the log.
func (s *Server) noteLeftOut() {
	ctx, cancel := context.WithTimeout(context.Background(), noteLimit)
	defer cancel()
	for id, count := range s.refusals.leftOut() {
		entry := audit.Entry{Event: audit.LeftOut, About: audit.AboutLeftOut{SPIFFEID: id, Count: count}}
		if err := s.Ledger.Note(ctx, entry); err != nil {
			s.Log.Error("recording how many refusals were left out", "spiffe_id", id, "count", count, "err", err)
		}
	}
}

// cachedValues is how many decoded refval.json the cache holds.
const cachedValues = 1024

// valuesCache caches decoded reference values by their digest. An entry never goes stale,
// because the digest fixes its content.
type valuesCache struct {
	mu      sync.Mutex                    // guards decoded
	decoded map[pins.Digest]refval.Values // :: SHA-256 of refval.json -> Values
}

func newValuesCache() *valuesCache {
	return &valuesCache{decoded: map[pins.Digest]refval.Values{}}
}

// get returns reference values. For the zero digest it returns the zero Values, which accept
// nothing.
func (c *valuesCache) get(ctx context.Context, l *ledger.Ledger, digest pins.Digest) (refval.Values, error) {
	if digest == (pins.Digest{}) {
		return refval.Values{}, nil
	}
	c.mu.Lock()
	values, ok := c.decoded[digest]
	c.mu.Unlock()
	if ok {
		return values, nil
	}
	data, err := l.Records.Blob(ctx, digest)
	if err != nil {
		return refval.Values{}, err
	}
	if values, err = refval.Decode(data); err != nil {
		return refval.Values{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.decoded) >= cachedValues {
		clear(c.decoded)
	}
	c.decoded[digest] = values
	return values, nil
}

// collateralCache holds the digest of the list of collateral that was stored last.
type collateralCache struct {
	mu     sync.Mutex // guards the fields below
	last   appraise.Collateral
	digest pins.Digest
}

// put stores a list of collateral, and all that it names, durably, and returns the list's
// digest.
func (c *collateralCache) put(ctx context.Context, l *ledger.Ledger, now appraise.Collateral) (pins.Digest, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.digest != (pins.Digest{}) && slices.Equal(c.last.Certificates, now.Certificates) && slices.Equal(c.last.CRLs, now.CRLs) {
		return c.digest, nil
	}
	list := audit.CollateralList{Certificates: []pins.Digest{}, CRLs: []pins.Digest{}}
	for _, cert := range now.Certificates {
		digest, err := l.Records.PutBlob(ctx, cert.Raw)
		if err != nil {
			return pins.Digest{}, err
		}
		list.Certificates = append(list.Certificates, digest)
	}
	for _, crl := range now.CRLs {
		digest, err := l.Records.PutBlob(ctx, crl.Raw)
		if err != nil {
			return pins.Digest{}, err
		}
		list.CRLs = append(list.CRLs, digest)
	}
	digest, err := l.Records.PutBlob(ctx, list.Encode())
	if err == nil {
		c.last, c.digest = now, digest
	}
	return digest, err
}
