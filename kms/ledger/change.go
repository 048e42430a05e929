package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
)

// Errors of changes.
var (
	ErrExists      = errors.New("already has a record")
	ErrOverlap     = errors.New("another disk's record overlaps")
	ErrRootOfTrust = errors.New("the record has another root of trust")
	// ErrConflict says that the state of the records does not allow the change.
	ErrConflict = errors.New("the state of the records does not allow it")
)

// Replace says what a Put may replace. The zero value replaces nothing.
type Replace struct {
	Record      bool // the record that the disk has
	RootOfTrust bool // its root of trust as well
	// Beside lets the new record stand beside the disk's own until it is confirmed. Each launch
	// then gets the key of the record that its evidence satisfies.
	Beside bool
}

// disk is the state of a disk before a change.
type disk struct {
	record     store.Record // valid if known
	known      bool
	staged     *store.Record // will replace record
	generation uint64        // the newest so far
	count      uint64        // number of all records
}

// change makes one change of a disk's records. decide gets the disk's records, may read more
// items, and adds writes and leaves to the moment. Every change writes the epoch. So if two
// changes are decided at the same time, one of them fails and is decided again.
func (l *Ledger) change(ctx context.Context, uuid pins.UUID, decide func(*moment, disk) error) error {
	if err := l.lock(ctx); err != nil {
		return err
	}
	defer l.unlock()
	return l.sealing(ctx, keysOfDisk(uuid), func(m *moment) error {
		d, err := m.disk(uuid)
		if err != nil {
			return err
		}
		m.write(kv.Write{Key: store.KeyEpoch})
		m.latest = m.now // a user who changes a record vouches for the clock
		return decide(m, d)
	})
}

// keysOfDisk are the keys of the items that every change of a disk's records depends on.
func keysOfDisk(uuid pins.UUID) []string {
	return []string{store.KeyEpoch, store.KeyRecord(uuid), store.KeyStaged(uuid), store.KeyGeneration(uuid), store.KeyCount}
}

// disk reads the records of a disk.
func (m *moment) disk(uuid pins.UUID) (disk, error) {
	items, err := m.get(keysOfDisk(uuid)...)
	if err != nil {
		return disk{}, err
	}
	var d disk
	if d.generation, err = store.GenerationOf(items[3]); err != nil {
		return disk{}, err
	}
	if d.count, err = store.CountOf(items[4]); err != nil {
		return disk{}, err
	}
	switch d.record, err = store.RecordOf(items[1], uuid); {
	case err == nil:
		d.known = true
	case !errors.Is(err, store.ErrNotFound):
		return disk{}, err
	}
	switch staged, err := store.RecordOf(items[2], uuid); {
	case err == nil:
		d.staged = &staged
	case !errors.Is(err, store.ErrNotFound):
		return disk{}, err
	}
	return d, nil
}

// PutMade is Put with a key that MakeKey made. Afterwards the key no longer waits. The error
// also matches store.ErrNotMade.
func (l *Ledger) PutMade(ctx context.Context, by audit.Actor, r store.Record, values []byte, id string, replace Replace) (store.Record, error) {
	return l.put(ctx, by, r, values, func(m *moment) ([]byte, error) {
		items, err := m.get(store.KeyMade(id))
		if err != nil {
			return nil, err
		}
		m.write(kv.Write{Key: store.KeyMade(id), Delete: true})
		return l.Records.MadeKey(items[0], m.now)
	}, replace)
}

// Put registers a record with its refval.json and key. Put sets Generation, Created, Changed
// and State. If the disk has a record, Put refuses unless replace allows it. A replaced record
// is kept for a while. The errors match ErrExists, ErrOverlap, ErrRootOfTrust and ErrConflict.
func (l *Ledger) Put(ctx context.Context, by audit.Actor, r store.Record, values, key []byte, replace Replace) (store.Record, error) {
	return l.put(ctx, by, r, values, func(*moment) ([]byte, error) { return bytes.Clone(key), nil }, replace)
}

func (l *Ledger) put(ctx context.Context, by audit.Actor, r store.Record, values []byte, keyOf func(*moment) ([]byte, error), replace Replace) (store.Record, error) {
	mine, err := decodeValues(values)
	if err != nil {
		return store.Record{}, err
	}
	if r.ReferenceValues = (pins.Digest{}); values != nil {
		if r.ReferenceValues, err = l.Records.PutBlob(ctx, values); err != nil {
			return store.Record{}, err
		}
	}
	at := store.KeyRecord(r.DiskUUID)
	if replace.Beside {
		at = store.KeyStaged(r.DiskUUID)
	}
	err = l.change(ctx, r.DiskUUID, func(m *moment, d disk) error {
		r.State, r.Created, r.Changed, r.Generation = store.Enabled, m.now, m.now, d.generation+1
		event := audit.Put
		switch {
		case d.known && !replace.Record && !replace.Beside:
			return fmt.Errorf("disk %s: %w", r.DiskUUID, ErrExists)
		case !d.known && replace.Beside:
			return fmt.Errorf("%w: disk %s has no record, so no other can stand beside it", ErrConflict, r.DiskUUID)
		case d.known:
			if err := l.checkRoot(ctx, d.record, mine.RootOfTrust, replace.RootOfTrust); err != nil {
				return err
			}
			r.Created = d.record.Created
		default:
			m.write(store.SetCount(d.count + 1))
		}
		if replace.Beside {
			event, r.State = audit.Stage, d.record.State
			if err := l.checkDistinct(m, d.record, r, mine); err != nil {
				return err
			}
		} else if d.known {
			m.write(l.keep(m, d.record, store.Replaced))
		}
		if d.staged != nil {
			m.write(l.keep(m, *d.staged, store.Withdrawn))
			if !replace.Beside {
				m.write(kv.Write{Key: store.KeyStaged(r.DiskUUID), Delete: true})
			}
		}
		if err := l.checkApart(m, r, mine); err != nil {
			return err
		}
		key, err := keyOf(m)
		if err != nil {
			return err
		}
		defer clear(key)
		item, err := l.Records.Seal(at, r, key)
		if err != nil {
			return err
		}
		m.write(item, store.SetGeneration(r.DiskUUID, r.Generation))
		names := []store.Record{r}
		if replace.Beside {
			names = append(names, d.record)
		}
		m.write(d.index(r.DiskUUID, names...)...)
		if err := l.putVolume(m, r, replace.Beside); err != nil {
			return err
		}
		m.say(event, by, r, mine.RootOfTrust.String())
		return nil
	})
	if err != nil {
		return store.Record{}, err
	}
	items, err := l.engine.Get(ctx, at)
	if err != nil {
		return store.Record{}, err
	}
	return store.RecordOf(items[0], r.DiskUUID)
}

// keep makes the item of a record that is no longer in force.
func (l *Ledger) keep(m *moment, r store.Record, why store.Reason) kv.Write {
	return store.Keep(r, store.Kept{Why: why, At: m.now, Until: m.now.Add(l.Retention)})
}

// index makes the items of the index from SPIFFE IDs to the records of a disk. The items for
// the records now replace those for the records of d.
func (d disk) index(uuid pins.UUID, now ...store.Record) (writes []kv.Write) {
	wanted := map[string]bool{}
	for _, r := range now {
		wanted[store.KeyCaller(r.SPIFFEID, uuid)] = true
	}
	var had []store.Record
	if d.known {
		had = append(had, d.record)
	}
	if d.staged != nil {
		had = append(had, *d.staged)
	}
	gone := map[string]bool{}
	for _, r := range had {
		if key := store.KeyCaller(r.SPIFFEID, uuid); !wanted[key] {
			gone[key] = true
		}
	}
	for key := range wanted {
		writes = append(writes, kv.Write{Key: key})
	}
	for key := range gone {
		writes = append(writes, kv.Write{Key: key, Delete: true})
	}
	return writes
}

// checkRoot refuses a root of trust that differs from the old record's, unless mayChange is
// set.
func (l *Ledger) checkRoot(ctx context.Context, old store.Record, fresh refval.RootOfTrust, mayChange bool) error {
	if mayChange {
		return nil
	}
	was, err := l.RootOfTrust(ctx, old)
	if err != nil {
		return err
	}
	if was != fresh {
		return fmt.Errorf("disk %s: %w: got %v, want %v", old.DiskUUID, ErrRootOfTrust, fresh, was)
	}
	return nil
}

// RootOfTrust returns the root of trust of a record's reference values. If evidence is not
// required, it is the zero value, which vouches for nothing.
func (l *Ledger) RootOfTrust(ctx context.Context, r store.Record) (refval.RootOfTrust, error) {
	data, err := l.Records.Values(ctx, r)
	if err != nil {
		return refval.RootOfTrust{}, err
	}
	values, err := decodeValues(data)
	return values.RootOfTrust, err
}

// accepted reads all reference values that a record accepts. It reads them from the store, not
// from a cache.
func (l *Ledger) accepted(m *moment, r store.Record) ([]refval.Values, error) {
	digests := r.Accepts(m.now)
	if len(digests) == 0 {
		return []refval.Values{{}}, nil
	}
	var all []refval.Values
	for _, digest := range digests {
		data, err := l.Records.Blob(m.ctx, digest)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", r.DiskUUID, err)
		}
		values, err := refval.Decode(data)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", r.DiskUUID, err)
		}
		all = append(all, values)
	}
	return all, nil
}

// checkApart compares a record, with its newest reference values, with the records of all other
// disks that have the same SPIFFE ID. It skips retired records.
func (l *Ledger) checkApart(m *moment, r store.Record, mine refval.Values) error {
	others, err := l.Records.ByCaller(m.ctx, r.SPIFFEID)
	if err != nil {
		return err
	}
	all := []refval.Values{mine}
	if len(r.Before) > 0 {
		if all, err = l.accepted(m, r); err != nil {
			return err
		}
	}
	for _, other := range others {
		if other.DiskUUID == r.DiskUUID || other.State == store.Retired || r.State == store.Retired {
			continue
		}
		theirs, err := l.accepted(m, other)
		if err != nil {
			return err
		}
		for _, values := range all {
			for _, of := range theirs {
				if err := acl.CheckApart(r, other, values, of); err != nil {
					return fmt.Errorf("%w: %v", ErrOverlap, err)
				}
			}
		}
	}
	return nil
}

// checkDistinct refuses a record beside another one of its disk if a launch could satisfy both.
// The server could not tell which of the two headers such a launch has.
func (l *Ledger) checkDistinct(m *moment, current, fresh store.Record, mine refval.Values) error {
	if current.Evidence != store.EvidenceRequired || fresh.Evidence != store.EvidenceRequired {
		return fmt.Errorf("%w: without evidence nothing tells a launch with the new header from one with the old", ErrConflict)
	}
	theirs, err := l.accepted(m, current)
	if err != nil {
		return err
	}
	for _, values := range theirs {
		for _, of := range values.Measurements {
			if slices.ContainsFunc(mine.Measurements, func(x refval.Measurement) bool { return x.Digest == of.Digest }) {
				return fmt.Errorf("%w: both records accept the measurement %s, so nothing tells a launch with the new header from one with the old", ErrConflict, of.Digest)
			}
		}
	}
	return nil
}

// decodeValues decodes a refval.json. Without data it returns the zero Values, which accept
// nothing.
func decodeValues(data []byte) (refval.Values, error) {
	if data == nil {
		return refval.Values{}, nil
	}
	return refval.Decode(data)
}

// Update says what changes in a record. The key stays. Nil fields change nothing.
type Update struct {
	// Values is a refval.json. The present values stay in force beside it for KeepBefore.
	Values     []byte
	KeepBefore time.Duration
	// RootOfTrust lets the record get another root of trust.
	RootOfTrust bool
	// MaxReleases limits the launches within an hour; 0 is no limit.
	MaxReleases *uint32
}

// Update changes what a record accepts. The errors match store.ErrNotFound, ErrOverlap,
// ErrRootOfTrust and ErrConflict.
func (l *Ledger) Update(ctx context.Context, by audit.Actor, uuid pins.UUID, u Update) error {
	mine, err := decodeValues(u.Values)
	if err != nil {
		return err
	}
	var fresh pins.Digest
	if u.Values != nil {
		if fresh, err = l.Records.PutBlob(ctx, u.Values); err != nil {
			return err
		}
	}
	return l.change(ctx, uuid, func(m *moment, d disk) error {
		if !d.known {
			return store.ErrNotFound
		}
		r, root := d.record, ""
		if u.MaxReleases != nil {
			r.MaxReleases = *u.MaxReleases
		}
		if u.Values != nil {
			if err := l.checkRoot(ctx, d.record, mine.RootOfTrust, u.RootOfTrust); err != nil {
				return err
			}
			if r, err = r.Accept(fresh, m.now, u.KeepBefore); err != nil {
				return fmt.Errorf("%w: %v", ErrConflict, err)
			}
			if err := l.checkApart(m, r, mine); err != nil {
				return err
			}
			if d.staged != nil {
				if err := l.checkStaged(m, r, *d.staged); err != nil {
					return err
				}
			}
			root = mine.RootOfTrust.String()
		}
		if err := l.reseal(m, d.record, &r, r.Item()); err != nil {
			return err
		}
		m.say(audit.Update, by, r, root)
		return nil
	})
}

func (l *Ledger) checkStaged(m *moment, r, staged store.Record) error {
	theirs, err := l.accepted(m, staged)
	if err != nil {
		return err
	}
	return l.checkDistinct(m, r, staged, theirs[0])
}

// reseal writes fresh to the key at of the store, with the disk key of old. fresh is the new
// form of old.
func (l *Ledger) reseal(m *moment, old store.Record, fresh *store.Record, at string) error {
	key, err := l.Records.Key(old)
	if err != nil {
		return err
	}
	defer clear(key)
	fresh.Changed = m.now
	item, err := l.Records.Seal(at, *fresh, key)
	if err != nil {
		return err
	}
	m.write(item)
	return nil
}

// SetState enables, disables or retires the records of a disk. After it returns, the key of a
// disabled or retired record is not released. The error matches store.ErrNotFound, or
// ErrConflict if the record is retired: only Revive takes that back.
func (l *Ledger) SetState(ctx context.Context, by audit.Actor, uuid pins.UUID, state store.State) error {
	return l.setState(ctx, by, uuid, state, false)
}

// Revive enables a record that was retired. The errors match store.ErrNotFound and
// ErrOverlap.
func (l *Ledger) Revive(ctx context.Context, by audit.Actor, uuid pins.UUID) error {
	return l.setState(ctx, by, uuid, store.Enabled, true)
}

func (l *Ledger) setState(ctx context.Context, by audit.Actor, uuid pins.UUID, state store.State, revive bool) error {
	event := map[store.State]audit.Event{store.Enabled: audit.Enable, store.Disabled: audit.Disable, store.Retired: audit.Retire}[state]
	return l.change(ctx, uuid, func(m *moment, d disk) error {
		if !d.known {
			return store.ErrNotFound
		}
		r := d.record
		r.State = state
		if d.record.State == store.Retired && state != store.Retired {
			if !revive {
				return fmt.Errorf("%w: the record of disk %s is retired", ErrConflict, uuid)
			}
			values, err := l.accepted(m, r)
			if err != nil {
				return err
			}
			if err := l.checkApart(m, r, values[0]); err != nil {
				return err
			}
		}
		if d.staged != nil { // the staged record takes the same state
			staged := *d.staged
			staged.State = state
			if err := l.reseal(m, *d.staged, &staged, staged.Item()); err != nil {
				return err
			}
		}
		if err := l.reseal(m, d.record, &r, r.Item()); err != nil {
			return err
		}
		m.say(event, by, r, "")
		return nil
	})
}
