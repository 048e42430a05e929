package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// putVolume adds the state of a volume to a change that registers its record. What is known
// of its contents stays as long as it is the same volume; another one does not stand beside
// it, for there is one state of both.
func (l *Ledger) putVolume(m *moment, r store.Record, beside bool) error {
	if r.Volume == nil {
		return nil
	}
	items, err := m.get(store.KeyVolume(r.DiskUUID))
	if err != nil {
		return err
	}
	known, err := l.Records.VolumeOf(items[0], r.DiskUUID)
	if err == nil && known.Header == r.Header.HeaderSHA256 {
		return nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if beside {
		return fmt.Errorf("%w: a volume with another header cannot stand beside %s", ErrConflict, r.DiskUUID)
	}
	item, err := l.Records.SetVolume(store.NewVolume(r.Header, m.now))
	if err != nil {
		return err
	}
	m.write(item)
	return nil
}

// openVolume adds to m that a claim's launch has the volume, and tells the claim what it
// found. A request that is answered again is told what it was told before.
func (l *Ledger) openVolume(m *moment, c *claim, event audit.Event) error {
	items, err := m.get(store.KeyVolume(c.Record.DiskUUID))
	if err != nil {
		return err
	}
	known, err := l.Records.VolumeOf(items[0], c.Record.DiskUUID)
	if err != nil {
		return err
	}
	if known.Header != c.Record.Header.HeaderSHA256 {
		return fmt.Errorf("%w: header pin is %s, want %s of the record", store.ErrVolumeState, known.Header, c.Record.Header.HeaderSHA256)
	}
	opened := known
	if event == audit.Release {
		if opened, err = known.Open(*c.Record.Volume, c.Launch, m.now); err != nil {
			return err
		}
		item, err := l.Records.SetVolume(opened)
		if err != nil {
			return err
		}
		m.write(item)
	} else if known.State != store.VolumeOpen || known.Holder != store.HolderOf(known.DiskUUID, c.Launch) {
		return ErrReleased // what this launch was told is not true any more
	}
	*c.Volume = opened
	c.About.Volume = &audit.OpenedVolume{Found: opened.Found, Generation: opened.Generation, Digest: opened.Digest, Holder: opened.Holder}
	if known.State == store.VolumeOpen && known.Holder != opened.Holder {
		c.About.Volume.Before = known.Launch
	}
	return nil
}

// CloseVolume makes the close of a volume durable, with its leaf. A close that was made
// already is made; one by a launch that has the volume no more is on the log, and the
// error matches store.ErrFork. r was verified.
func (l *Ledger) CloseVolume(ctx context.Context, remote string, disk pins.UUID, r keyapi.CommitRequest) error {
	var fork error
	err := l.volume(ctx, disk, func(m *moment, v store.Volume) error {
		closed, again, err := v.Close(r, m.now)
		about := audit.AboutVolume{Remote: remote, Holder: r.Holder, Disk: disk, State: string(closed.State), Generation: r.Generation, Digest: r.Digest}
		switch fork = err; {
		case again:
			return nil
		case errors.Is(err, store.ErrFork):
			m.entries = []audit.Entry{{Event: audit.VolumeFork, About: about}}
			return nil
		case err != nil:
			return err
		}
		m.entries = []audit.Entry{{Event: audit.VolumeClose, About: about}}
		return m.setVolume(closed)
	})
	if err != nil {
		return err
	}
	return fork
}

// Word is what the operator can say of a volume.
type Word struct {
	Event audit.Event
	Say   func(store.Volume, time.Time) (store.Volume, error)
}

// SayOfVolume makes the operator's word about a volume durable, with its leaf. The errors
// match store.ErrNotFound and store.ErrVolumeState.
func (l *Ledger) SayOfVolume(ctx context.Context, by audit.Actor, disk pins.UUID, word Word) (store.Volume, error) {
	var after store.Volume
	err := l.volume(ctx, disk, func(m *moment, v store.Volume) error {
		var err error
		if after, err = word.Say(v, m.now); err != nil {
			return err
		}
		m.latest = m.now // who says something has seen to the clock
		m.entries = []audit.Entry{{Event: word.Event, About: audit.AboutVolume{
			Actor: by.Name, Ticket: by.Ticket, Holder: v.Holder, Disk: disk, State: string(after.State), Generation: after.Generation, Digest: after.Digest}}}
		return m.setVolume(after)
	})
	return after, err
}

// volume makes one transaction about a volume.
func (l *Ledger) volume(ctx context.Context, disk pins.UUID, decide func(*moment, store.Volume) error) error {
	if err := l.lock(ctx); err != nil {
		return err
	}
	defer l.unlock()
	return l.transact(ctx, []string{store.KeyVolume(disk)}, func(m *moment) error {
		items, err := m.get(store.KeyVolume(disk))
		if err != nil {
			return err
		}
		v, err := l.Records.VolumeOf(items[0], disk)
		if err != nil {
			return err
		}
		return decide(m, v)
	})
}

func (m *moment) setVolume(v store.Volume) error {
	item, err := m.ledger.Records.SetVolume(v)
	if err != nil {
		return err
	}
	m.write(item)
	return nil
}
