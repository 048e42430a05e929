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

// putVolume adds the state of a volume to a change that registers its record. The known
// contents stay as long as the record is of the same volume. A record of another volume cannot
// stand beside it, because both would share one state.
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

// openVolume adds to m that a claim's launch has the volume, and tells the claim what the
// server knows about it. A request that is answered again gets the same answer as before.
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
		return ErrReleased // the answer that this launch got is no longer true
	}
	*c.Volume = opened
	c.About.Volume = &audit.OpenedVolume{Found: opened.Found, Generation: opened.Generation, Digest: opened.Digest, Holder: opened.Holder}
	if known.State == store.VolumeOpen && known.Holder != opened.Holder {
		c.About.Volume.Before = known.Launch
	}
	return nil
}

// CloseVolume makes the close of a volume durable, with its leaf. If the close was made before,
// it returns nil. If the launch no longer has the volume, the attempt goes on the log, and the
// error matches store.ErrFork. The caller has verified r.
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

// Word is an operator's word about a volume.
type Word struct {
	Event audit.Event
	Say   func(store.Volume, time.Time) (store.Volume, error)
}

// SayOfVolume makes the operator's word about a volume durable, with its leaf. The errors match
// store.ErrNotFound and store.ErrVolumeState.
func (l *Ledger) SayOfVolume(ctx context.Context, by audit.Actor, disk pins.UUID, word Word) (store.Volume, error) {
	var after store.Volume
	err := l.volume(ctx, disk, func(m *moment, v store.Volume) error {
		var err error
		if after, err = word.Say(v, m.now); err != nil {
			return err
		}
		m.latest = m.now // an operator who acts vouches for the clock
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
