package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// DefaultRetention is the least time that records are kept after they were in force.
const DefaultRetention = 30 * 24 * time.Hour

// Confirm lets the staged record replace the disk's own, which is kept. A launch must have had
// the staged record's key. generation names the staged record; 0 means any. The errors match
// store.ErrNotFound and ErrConflict.
func (l *Ledger) Confirm(ctx context.Context, by audit.Actor, uuid pins.UUID, generation uint64) error {
	leases, err := l.Records.Leases(ctx, uuid)
	if err != nil {
		return err
	}
	return l.change(ctx, uuid, func(m *moment, d disk) error {
		if err := d.wantStaged(uuid); err != nil {
			return err
		}
		if generation != 0 && generation != d.staged.Generation {
			return fmt.Errorf("%w: staged record of disk %s has generation %d, want %d", ErrConflict, uuid, d.staged.Generation, generation)
		}
		had := false
		for _, lease := range leases {
			had = had || lease.Generation == d.staged.Generation
		}
		if !had {
			return fmt.Errorf("%w: no launch has had the key of generation %d of disk %s yet", ErrConflict, d.staged.Generation, uuid)
		}
		r := *d.staged
		if err := l.reseal(m, *d.staged, &r, store.KeyRecord(uuid)); err != nil {
			return err
		}
		m.write(l.keep(m, d.record, store.Replaced), kv.Write{Key: store.KeyStaged(uuid), Delete: true})
		m.write(d.index(uuid, r)...)
		m.say(audit.Confirm, by, r, "")
		return nil
	})
}

// Withdraw takes back the staged record, which is kept. The errors match store.ErrNotFound and
// ErrConflict.
func (l *Ledger) Withdraw(ctx context.Context, by audit.Actor, uuid pins.UUID) error {
	return l.change(ctx, uuid, func(m *moment, d disk) error {
		if err := d.wantStaged(uuid); err != nil {
			return err
		}
		m.write(l.keep(m, *d.staged, store.Withdrawn), kv.Write{Key: store.KeyStaged(uuid), Delete: true})
		m.write(d.index(uuid, d.record)...)
		m.say(audit.Withdraw, by, *d.staged, "")
		return nil
	})
}

func (d disk) wantStaged(uuid pins.UUID) error {
	switch {
	case !d.known:
		return store.ErrNotFound
	case d.staged == nil:
		return fmt.Errorf("%w: no record stands beside that of disk %s", ErrConflict, uuid)
	}
	return nil
}

// Delete removes the record and the key of a disk, and keeps both for a while. Its leases stay.
// The error matches store.ErrNotFound.
func (l *Ledger) Delete(ctx context.Context, by audit.Actor, uuid pins.UUID) error {
	return l.change(ctx, uuid, func(m *moment, d disk) error {
		if !d.known {
			return store.ErrNotFound
		}
		m.write(l.keep(m, d.record, store.Deleted), kv.Write{Key: store.KeyRecord(uuid), Delete: true}, store.SetCount(d.count-1))
		if d.staged != nil {
			m.write(l.keep(m, *d.staged, store.Withdrawn), kv.Write{Key: store.KeyStaged(uuid), Delete: true})
		}
		m.write(d.index(uuid)...)
		m.say(audit.Delete, by, d.record, "")
		return nil
	})
}

// Restore puts a kept record back in force, in the state that it had. generation names it; 0
// means the record of LastKept. If the disk has a record of its own, that record is kept
// instead. The errors match store.ErrNotFound and ErrOverlap.
func (l *Ledger) Restore(ctx context.Context, by audit.Actor, uuid pins.UUID, generation uint64) error {
	return l.change(ctx, uuid, func(m *moment, d disk) error {
		kept, err := l.kept(m, uuid, generation)
		if err != nil {
			return err
		}
		old := kept[LastKept(kept)]
		values, err := l.accepted(m, old)
		if err != nil {
			return err
		}
		if err := l.checkApart(m, old, values[0]); err != nil {
			return err
		}
		r := old
		if err := l.reseal(m, old, &r, store.KeyRecord(uuid)); err != nil {
			return err
		}
		m.write(kv.Write{Key: old.Item(), Delete: true})
		if d.known {
			m.write(l.keep(m, d.record, store.Replaced))
		} else {
			m.write(store.SetCount(d.count + 1))
		}
		if d.staged != nil {
			m.write(l.keep(m, *d.staged, store.Withdrawn), kv.Write{Key: store.KeyStaged(uuid), Delete: true})
		}
		m.write(d.index(uuid, r)...)
		root, err := l.RootOfTrust(ctx, r)
		if err != nil {
			return err
		}
		m.say(audit.Restore, by, r, root.String())
		return nil
	})
}

// LastKept returns the index of the record that was in force last. After Delete that is the
// disk's own record, even if a staged record was withdrawn at the same moment. If several
// qualify, the newest generation wins.
func LastKept(kept []store.Record) int {
	last := 0
	for i, r := range kept {
		a, b := kept[last].Kept(), r.Kept()
		if b.At.After(a.At) || b.At.Equal(a.At) && (b.Why != store.Withdrawn || a.Why == store.Withdrawn) {
			last = i
		}
	}
	return last
}

// maxPurge bounds the records that one transaction destroys.
const maxPurge = 50

// Purge destroys kept records of a disk, with their keys. generation names one; 0 means all.
// With early it also destroys records whose time has not come. Purge returns the number
// destroyed, also with an error, because it needs a transaction for each maxPurge records. The
// errors match store.ErrNotFound and ErrConflict. The engine does not wipe the space that it
// frees: a sealed key can stay on the medium for a while.
func (l *Ledger) Purge(ctx context.Context, by audit.Actor, uuid pins.UUID, generation uint64, early bool) (purged int, err error) {
	for {
		n, err := l.purge(ctx, by, uuid, generation, early)
		purged += n
		if purged > 0 && (errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrConflict)) {
			return purged, nil // the earlier transactions destroyed all
		}
		if n < maxPurge || err != nil {
			return purged, err
		}
	}
}

// purge makes one transaction of Purge.
func (l *Ledger) purge(ctx context.Context, by audit.Actor, uuid pins.UUID, generation uint64, early bool) (purged int, err error) {
	err = l.change(ctx, uuid, func(m *moment, _ disk) error {
		kept, err := l.kept(m, uuid, generation)
		if err != nil {
			return err
		}
		purged = 0
		var first time.Time
		for _, r := range kept {
			if until := r.Kept().Until; m.now.Before(until) && !early {
				if first.IsZero() || until.Before(first) {
					first = until
				}
				continue
			}
			if purged == maxPurge {
				break
			}
			purged++
			m.write(kv.Write{Key: r.Item(), Delete: true})
			m.say(audit.Purge, by, r, "")
		}
		if purged == 0 {
			return fmt.Errorf("%w: the records of disk %s are kept until %s", ErrConflict, uuid, first.Format(time.RFC3339))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return purged, nil
}

// kept returns the kept records of a disk: the one of a generation, or all with 0. It returns
// at least one, or an error.
func (l *Ledger) kept(m *moment, uuid pins.UUID, generation uint64) ([]store.Record, error) {
	all, err := l.Records.KeptOf(m.ctx, uuid)
	if err != nil {
		return nil, err
	}
	if generation != 0 {
		for _, r := range all {
			if r.Generation == generation {
				return []store.Record{r}, nil
			}
		}
		return nil, fmt.Errorf("%w: generation %d of disk %s is not kept", store.ErrNotFound, generation, uuid)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w, not even a kept one", store.ErrNotFound)
	}
	return all, nil
}

// say puts a record's change on the log. root is its root of trust if the change set one.
func (m *moment) say(event audit.Event, by audit.Actor, r store.Record, root string) {
	about := audit.AboutChange{
		Actor: by.Name, Ticket: by.Ticket, Disk: r.DiskUUID, SPIFFEID: r.SPIFFEID.String(), Generation: r.Generation, Evidence: string(r.Evidence),
		ReferenceValues: r.ReferenceValues, MaxReleases: r.MaxReleases, Header: r.Header.HeaderSHA256, SameVM: r.SameVM, State: string(r.State),
		RootOfTrust: root,
	}
	if r.Volume != nil {
		about.Writers, about.Unclean = string(r.Volume.Writers), string(r.Volume.Unclean)
	}
	for _, b := range r.Before {
		about.Before = append(about.Before, audit.Expiring(b))
	}
	m.entries = append(m.entries, audit.Entry{Event: event, About: about})
}
