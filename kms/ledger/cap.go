package ledger

import (
	"errors"
	"fmt"
	"slices"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
)

// ErrCapped says that the record's limit of releases within an hour is reached.
var ErrCapped = errors.New("the record's limit of releases within an hour is reached")

// maxBounded is how many disks with a limit fit into one transaction. Each needs one condition
// and one write more.
const maxBounded = 20

// uses are the releases within the last hour, for the disks of a batch that have a limit.
type uses struct {
	items map[string]kv.Item   // :: key -> the item as it was read
	now   map[string]store.Use // :: key -> with the releases of the batch
}

// readUses reads the uses of a batch.
func (l *Ledger) readUses(m *moment, batch []*claim) (uses, error) {
	u := uses{map[string]kv.Item{}, map[string]store.Use{}}
	var keys []string
	for _, c := range batch {
		if key := store.KeyUse(c.Record.DiskUUID); c.Record.MaxReleases > 0 && u.items[key].Key == "" {
			u.items[key] = kv.Item{Key: key}
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return u, nil
	}
	items, err := m.peek(keys...)
	if err != nil {
		return u, err
	}
	for _, item := range items {
		if u.now[item.Key], err = store.UseOf(item); err != nil {
			return u, err
		}
		u.items[item.Key] = item
	}
	return u, nil
}

// take counts a release, or returns ErrCapped.
func (u uses) take(m *moment, r store.Record) error {
	if r.MaxReleases == 0 {
		return nil
	}
	key := store.KeyUse(r.DiskUUID)
	if n := u.now[key].Within(m.now); n >= r.MaxReleases {
		return fmt.Errorf("disk %s: %w: there were %d, want at most %d", r.DiskUUID, ErrCapped, n, r.MaxReleases)
	}
	u.now[key] = u.now[key].Add(m.now)
	fresh := store.SetUse(r.DiskUUID, u.now[key])
	if i := slices.IndexFunc(m.writes, func(w kv.Write) bool { return w.Key == key }); i >= 0 {
		m.writes[i] = fresh // an earlier release of the batch is for the same disk
		return nil
	}
	m.conditions = append(m.conditions, kv.Cond{Key: key, Mod: u.items[key].Mod})
	m.write(fresh)
	return nil
}
