package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
)

// Errors of Put.
var (
	ErrExists      = errors.New("it has a record already")
	ErrOverlap     = errors.New("another disk's record overlaps")
	ErrRootOfTrust = errors.New("the record has another root of trust")
)

// Replace says what a Put may replace. The zero value replaces nothing.
type Replace struct {
	Record      bool // the record that the disk has
	RootOfTrust bool // its root of trust as well
}

// disk is what a change finds.
type disk struct {
	record     store.Record // with known
	known      bool
	generation uint64 // the newest there was
}

// change makes one change of a disk's record. decide gets what there is now, may read more,
// and says what to write and to put on the log. Every change writes the epoch: so those
// that were decided side by side see each other, and what decide reads is as it was.
func (l *Ledger) change(ctx context.Context, uuid pins.UUID, decide func(*moment, disk) error) error {
	if err := l.lock(ctx); err != nil {
		return err
	}
	defer l.unlock()
	return l.transact(ctx, func(m *moment) error {
		items, err := m.get(store.KeyEpoch, store.KeyRecord(uuid), store.KeyGeneration(uuid))
		if err != nil {
			return err
		}
		var d disk
		if d.generation, err = store.GenerationOf(items[2]); err != nil {
			return err
		}
		switch d.record, err = store.RecordOf(items[1], uuid); {
		case err == nil:
			d.known = true
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		m.write(kv.Write{Key: store.KeyEpoch})
		m.latest = m.now // who changes a record has seen to the clock
		return decide(m, d)
	})
}

// Put registers a record with its refval.json and key; Generation, Created, Changed and
// State are set here. A disk that has a record is refused unless replace says otherwise. The
// errors match ErrExists, ErrOverlap and ErrRootOfTrust.
func (l *Ledger) Put(ctx context.Context, actor string, r store.Record, values, key []byte, replace Replace) (store.Record, error) {
	mine, err := decodeValues(values)
	if err != nil {
		return store.Record{}, err
	}
	if r.ReferenceValues = (pins.Digest{}); values != nil {
		if r.ReferenceValues, err = l.Records.PutBlob(ctx, values); err != nil {
			return store.Record{}, err
		}
	}
	err = l.change(ctx, r.DiskUUID, func(m *moment, d disk) error {
		r.State, r.Created, r.Changed = store.Enabled, m.now, m.now
		switch {
		case d.known && !replace.Record:
			return fmt.Errorf("disk %s: %w", r.DiskUUID, ErrExists)
		case d.known:
			if err := l.checkRoot(ctx, d.record, mine.RootOfTrust, replace.RootOfTrust); err != nil {
				return err
			}
			r.Created = d.record.Created
			m.write(forget(d.record, r)...)
		}
		if err := l.checkApart(ctx, r, mine); err != nil {
			return err
		}
		r.Generation = d.generation + 1
		item, err := l.Records.Seal(r, key)
		if err != nil {
			return err
		}
		m.write(item, store.SetGeneration(r.DiskUUID, r.Generation), kv.Write{Key: store.KeyCaller(r.SPIFFEID, r.DiskUUID)})
		m.entries = about(audit.Put, actor, r, mine.RootOfTrust.String())
		return nil
	})
	if err != nil {
		return store.Record{}, err
	}
	return l.Records.Get(ctx, r.DiskUUID)
}

// forget removes what says that old's caller is named, where that is not fresh's.
func forget(old, fresh store.Record) []kv.Write {
	if old.SPIFFEID == fresh.SPIFFEID {
		return nil
	}
	return []kv.Write{{Key: store.KeyCaller(old.SPIFFEID, old.DiskUUID), Delete: true}}
}

// checkRoot refuses another root of trust than the old record has, unless that may change.
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

// RootOfTrust returns the root of trust of a record's reference values. It is the zero
// value, which vouches for nothing, where evidence is not required.
func (l *Ledger) RootOfTrust(ctx context.Context, r store.Record) (refval.RootOfTrust, error) {
	data, err := l.Records.Values(ctx, r)
	if err != nil {
		return refval.RootOfTrust{}, err
	}
	values, err := decodeValues(data)
	return values.RootOfTrust, err
}

// checkApart holds a new record against all others of its caller.
func (l *Ledger) checkApart(ctx context.Context, r store.Record, mine refval.Values) error {
	others, err := l.Records.ByCaller(ctx, r.SPIFFEID)
	if err != nil {
		return err
	}
	for _, other := range others {
		data, err := l.Records.Values(ctx, other)
		if err != nil {
			return err
		}
		theirs, err := decodeValues(data)
		if err != nil {
			return err
		}
		if err := acl.CheckApart(r, other, mine, theirs); err != nil {
			return fmt.Errorf("%w: %v", ErrOverlap, err)
		}
	}
	return nil
}

// decodeValues gives the zero Values, which accept nothing, where there are none.
func decodeValues(data []byte) (refval.Values, error) {
	if data == nil {
		return refval.Values{}, nil
	}
	return refval.Decode(data)
}

// SetState enables or disables the record of a disk. Once it returns, no release of a
// disabled record happens. The error matches store.ErrNotFound.
func (l *Ledger) SetState(ctx context.Context, actor string, uuid pins.UUID, state store.State) error {
	event := audit.Enable
	if state == store.Disabled {
		event = audit.Disable
	}
	return l.change(ctx, uuid, func(m *moment, d disk) error {
		if !d.known {
			return store.ErrNotFound
		}
		key, err := l.Records.Key(d.record)
		if err != nil {
			return err
		}
		defer clear(key)
		r := d.record
		r.State, r.Changed = state, m.now
		item, err := l.Records.Seal(r, key)
		if err != nil {
			return err
		}
		m.write(item)
		m.entries = about(event, actor, r, "")
		return nil
	})
}

// Delete removes the record and the key of a disk; its leases stay. The error matches
// store.ErrNotFound. The engine does not wipe what it frees: the sealed key can stay on the
// disk for a while.
func (l *Ledger) Delete(ctx context.Context, actor string, uuid pins.UUID) error {
	return l.change(ctx, uuid, func(m *moment, d disk) error {
		if !d.known {
			return store.ErrNotFound
		}
		m.write(kv.Write{Key: store.KeyRecord(uuid), Delete: true}, kv.Write{Key: store.KeyCaller(d.record.SPIFFEID, uuid), Delete: true})
		m.entries = about(audit.Delete, actor, d.record, "")
		return nil
	})
}

// about says what became of a record. root is its root of trust if that was set.
func about(event audit.Event, actor string, r store.Record, root string) []audit.Entry {
	return []audit.Entry{{Event: event, About: audit.AboutChange{
		Actor: actor, Disk: r.DiskUUID, SPIFFEID: r.SPIFFEID.String(), Generation: r.Generation, Evidence: string(r.Evidence),
		ReferenceValues: r.ReferenceValues, Header: r.Header.HeaderSHA256, SameVM: r.SameVM,
		RootOfTrust: root,
	}}}
}
