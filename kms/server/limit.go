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

// Bounds of refusals on the audit log, for each SPIFFE ID.
const (
	refusalBurst    = 50
	refusalInterval = time.Second // for one more
	refusalsPerDay  = 1000        // some 700 kB: the log is never cut
	refusalDay      = 24 * time.Hour
	refusalCallers  = 4096 // all others share one allowance

	leftOutInterval = time.Hour // at most, until what was left out is on the log as a number
)

// limiter bounds how many refusals each caller can put on the audit log. It counts the
// refusals that it leaves out. The next refusal, or a leaf of its own, has the count.
type limiter struct {
	mu      sync.Mutex            // guards what follows
	callers map[string]*allowance // :: SPIFFE ID -> its allowance
}

type allowance struct {
	left       int
	since      time.Time // when left was reckoned
	today      int       // how many went on the log since day
	day        time.Time
	suppressed uint64
}

func newLimiter() *limiter { return &limiter{callers: map[string]*allowance{}} }

// allow reports whether one more refusal of this caller goes on the log, and how
// many before it did not.
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

// leftOut returns how many refusals of each caller are on no line yet, and forgets
// them.
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
			s.Log.Error("writing down how many refusals were left out", "spiffe_id", id, "count", count, "err", err)
		}
	}
}

// cachedValues is how many decoded refval.json are kept.
const cachedValues = 1024

// valuesCache keeps decoded reference values by their digest, which never stand
// for others.
type valuesCache struct {
	mu      sync.Mutex                    // guards decoded
	decoded map[pins.Digest]refval.Values // :: SHA-256 of refval.json -> Values
}

func newValuesCache() *valuesCache {
	return &valuesCache{decoded: map[pins.Digest]refval.Values{}}
}

// get returns reference values; the zero Values, which accept nothing, for the zero digest.
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

// collateralCache keeps the digest of the list of collateral that was put last.
type collateralCache struct {
	mu     sync.Mutex // guards what follows
	last   appraise.Collateral
	digest pins.Digest
}

// put makes a list of collateral, and all that it names, durable in the book, and returns
// the list's digest.
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
