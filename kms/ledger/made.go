package ledger

import (
	"context"

	"github.com/rootvouch/rootvouch/kms/audit"
)

// MakeKey makes a key for a disk that will be built. The key is in the store before the caller
// has it. It waits there, under a name, until a put claims it for its disk. The caller wipes
// the key.
func (l *Ledger) MakeKey(ctx context.Context, by audit.Actor) (id string, key []byte, err error) {
	if err := l.lock(ctx); err != nil {
		return "", nil, err
	}
	defer l.unlock()
	// The key is made once and not for each proposal, because an earlier proposal may be the
	// one that happens.
	id, key, write, err := l.Records.MakeKey(l.clock().UTC().Round(0))
	if err != nil {
		return "", nil, err
	}
	err = l.sealing(ctx, nil, func(m *moment) error {
		old, err := l.Records.OldMade(m.ctx, m.now)
		if err != nil {
			return err
		}
		m.write(append(old, write)...)
		m.entries = []audit.Entry{{Event: audit.MakeKey, About: audit.AboutMadeKey{Actor: by.Name, Ticket: by.Ticket, ID: id}}}
		return nil
	})
	if err != nil {
		clear(key)
		return "", nil, err
	}
	return id, key, nil
}
