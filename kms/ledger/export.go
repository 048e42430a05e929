package ledger

import (
	"context"
	"fmt"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// Export passes the key of a disk's record to seal, and records the recipients on the log.
// generation names the record; 0 means the disk's own. The sealed key may leave the server when
// Export returns nil. The error matches store.ErrNotFound.
func (l *Ledger) Export(ctx context.Context, by audit.Actor, uuid pins.UUID, generation uint64, recipients []string, seal func(key []byte) error) (uint64, error) {
	r, err := l.find(ctx, uuid, generation)
	if err != nil {
		return 0, err
	}
	key, err := l.Records.Key(r)
	if err != nil {
		return 0, err
	}
	defer clear(key)
	if err := seal(key); err != nil {
		return 0, err
	}
	return r.Generation, l.Note(ctx, audit.Entry{Event: audit.Export, About: audit.AboutExport{
		Actor: by.Name, Ticket: by.Ticket, Disk: uuid, Generation: r.Generation, Recipients: recipients}})
}

// find returns the record of a generation, also one that is staged or kept. 0 means the disk's
// own.
func (l *Ledger) find(ctx context.Context, uuid pins.UUID, generation uint64) (store.Record, error) {
	if generation == 0 {
		return l.Records.Get(ctx, uuid)
	}
	current, staged, err := l.Records.Both(ctx, uuid)
	for _, r := range []*store.Record{current, staged} {
		if err == nil && r != nil && r.Generation == generation {
			return *r, nil
		}
	}
	kept, err := l.Records.KeptOf(ctx, uuid)
	if err != nil {
		return store.Record{}, err
	}
	for _, r := range kept {
		if r.Generation == generation {
			return r, nil
		}
	}
	return store.Record{}, fmt.Errorf("%w: of generation %d", store.ErrNotFound, generation)
}
