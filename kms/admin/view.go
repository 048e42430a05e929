package admin

import (
	"context"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// maxGists bounds the number of summaries in the cache.
const maxGists = 4096

// gist is the summary of reference values that a list shows.
type gist struct {
	root         string
	measurements []snp.Measurement
}

// gists caches the summaries by the digest of the reference values. An entry never goes stale,
// because the digest fixes its content.
type gists struct {
	mu  sync.Mutex           // guards all
	all map[pins.Digest]gist // :: SHA-256 of refval.json -> what it says
}

func (a *Admin) gist(ctx context.Context, digest pins.Digest) (gist, error) {
	if digest == (pins.Digest{}) {
		return gist{root: refval.RootOfTrust{}.String()}, nil
	}
	a.gists.mu.Lock()
	g, ok := a.gists.all[digest]
	a.gists.mu.Unlock()
	if ok {
		return g, nil
	}
	data, err := a.ledger.Records.Blob(ctx, digest)
	if err != nil {
		return gist{}, err
	}
	values, err := refval.Decode(data)
	if err != nil {
		return gist{}, err
	}
	g.root = values.RootOfTrust.String()
	for _, m := range values.Measurements {
		g.measurements = append(g.measurements, m.Digest)
	}
	a.gists.mu.Lock()
	defer a.gists.mu.Unlock()
	if a.gists.all == nil || len(a.gists.all) >= maxGists {
		a.gists.all = map[pins.Digest]gist{}
	}
	a.gists.all[digest] = g
	return g, nil
}

// view returns a record as clients see it. If a part cannot be read, that part has the error,
// and the other parts are complete.
func (a *Admin) view(ctx context.Context, r store.Record) adminapi.Record {
	shown := adminapi.Record{
		Header: r.Header, SPIFFEID: r.SPIFFEID.String(), Evidence: string(r.Evidence),
		ReferenceValuesSHA256: r.ReferenceValues, RootOfTrust: "unreadable", SameVM: r.SameVM, State: string(r.State),
		Generation: r.Generation, Created: r.Created, Changed: r.Changed, MaxReleases: r.MaxReleases, Measurements: []adminapi.Measurement{},
	}
	if r.Volume != nil {
		shown.Volume = &adminapi.VolumePolicy{Writers: string(r.Volume.Writers), Unclean: string(r.Volume.Unclean)}
	}
	if k := r.Kept(); k != nil {
		shown.Kept = &adminapi.Kept{Why: string(k.Why), At: k.At, Until: k.Until}
	}
	g, err := a.gist(ctx, r.ReferenceValues)
	if err != nil {
		return shown
	}
	shown.RootOfTrust = g.root
	seen := map[snp.Measurement]bool{}
	add := func(g gist, until time.Time) {
		for _, m := range g.measurements {
			if !seen[m] {
				seen[m] = true
				shown.Measurements = append(shown.Measurements, adminapi.Measurement{Digest: m, Until: until})
			}
		}
	}
	add(g, time.Time{})
	for _, b := range r.Before {
		if g, err := a.gist(ctx, b.ReferenceValues); err == nil && a.ledger.Now().Before(b.Until) {
			add(g, b.Until)
		}
	}
	return shown
}
