package ledger

import (
	"context"
	"errors"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
)

// Bounds of one step of a rewrap.
const (
	rewrapSeals = 50 // seals in one transaction
	rewrapPages = 20 // pages read for one step
)

// errForgotten says that the current key-encryption key is not on the store's list.
var errForgotten = errors.New("current key-encryption key is not on the store's list")

// sealing is transact for a change that seals secrets. It ensures that the store's list has the
// current key-encryption key when the change happens. Another server's Forget may have removed
// the key since this server started.
func (l *Ledger) sealing(ctx context.Context, ahead []string, build func(*moment) error) error {
	for range attempts {
		err := l.transact(ctx, append([]string{store.KeyMeta}, ahead...), func(m *moment) error {
			items, err := m.get(store.KeyMeta)
			if err != nil {
				return err
			}
			switch listed, err := l.Records.Lists(items[0]); {
			case err != nil:
				return err
			case !listed:
				return errForgotten
			}
			return build(m)
		})
		if !errors.Is(err, errForgotten) {
			return err
		}
		if err := l.Records.Admit(ctx); err != nil {
			return err
		}
	}
	return errForgotten
}

// Rewrap seals secrets again under the current key-encryption key, one step at a time. A step
// covers items after the given one. Rewrap returns the number of secrets sealed and the start
// of the next step, "" when it is done. Releases go on meanwhile. A rewrap that was interrupted
// can begin again: it skips secrets that are sealed under the current key.
func (l *Ledger) Rewrap(ctx context.Context, by audit.Actor, after string) (sealed int, next string, err error) {
	if err := l.lock(ctx); err != nil {
		return 0, "", err
	}
	defer l.unlock()
	err = l.sealing(ctx, nil, func(m *moment) error {
		sealed, next = 0, after
		for range rewrapPages {
			items, last, err := l.Records.SecretsAfter(m.ctx, next, rewrapSeals)
			if err != nil {
				return err
			}
			for _, item := range items {
				write, stale, err := l.Records.Reseal(item)
				if err != nil {
					return err
				}
				if stale {
					m.conditions = append(m.conditions, kv.Cond{Key: item.Key, Mod: item.Mod})
					m.write(write)
					sealed++
				}
			}
			if next = last; next == "" || sealed > 0 {
				break
			}
		}
		m.entries = nil
		if sealed > 0 {
			m.entries = []audit.Entry{{Event: audit.Rewrap, About: audit.AboutRewrap{
				Actor: by.Name, Ticket: by.Ticket, KEK: l.Records.KEK(), Items: uint64(sealed)}}}
		}
		return nil
	})
	if err != nil {
		return 0, "", err
	}
	return sealed, next, nil
}

// Forget removes key-encryption keys that seal no secret from the store's list. A server may
// then start without them. Forget reads all secrets, and returns the keys that stay.
func (l *Ledger) Forget(ctx context.Context, by audit.Actor) (inUse []string, err error) {
	if err := l.lock(ctx); err != nil {
		return nil, err
	}
	defer l.unlock()
	err = l.transact(ctx, []string{store.KeyEpoch, store.KeyMeta}, func(m *moment) error {
		m.entries = nil
		items, err := m.get(store.KeyEpoch, store.KeyMeta)
		if err != nil {
			return err
		}
		write, names, changes, err := l.Records.ForgetKEKs(m.ctx, items[1])
		if err != nil {
			return err
		}
		inUse = names
		if changes {
			m.write(kv.Write{Key: store.KeyEpoch}, write)
			m.entries = []audit.Entry{{Event: audit.Rewrap, About: audit.AboutRewrap{Actor: by.Name, Ticket: by.Ticket, KEK: l.Records.KEK()}}}
		}
		return nil
	})
	return inUse, err
}
