// Package publish moves the leaves of the key server's book into its transparency log.
//
// The leaves of all lanes come into the log in the order of their transactions, so that the
// log is the same whoever publishes. Tiles come first, then one transaction that says
// what the log has and removes the leaves from the book, then the checkpoint's file: so
// the directory never knows more than the book, and one that does shows an older book.
package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
	"github.com/rootvouch/rootvouch/pins"
)

// Errors of Open.
var (
	// ErrOldStore says that the book is older than the log.
	ErrOldStore = errors.New("store is older than the log")
	// ErrLog says that the log has not what the book says that it has.
	ErrLog = errors.New("log was cut or changed")
)

const (
	// interval is the least time between two checkpoints.
	interval = time.Second
	// poll is how often the lanes of other servers are looked at.
	poll = 5 * time.Second
	// page is how many segments of a lane are read at once, and are removed in one
	// transaction.
	page = 100
)

// Publisher publishes one book into one directory.
type Publisher struct {
	store *store.Store
	dir   tlogdir.Dir
	log   *slog.Logger

	tree  tlogdir.Tree          // that the directory has
	blobs map[pins.Digest]bool  // that it has
	shown atomic.Pointer[State] // of the last time
}

// State is where a publisher stands.
type State struct {
	Tree       tlogdir.Tree
	Checkpoint []byte    // signed
	At         time.Time // when all that there was had been published, or it was opened
}

// Open opens the log of a book, and verifies that they fit each other: the newest tiles are
// those that the book's checkpoint stands for. The errors match ErrOldStore and ErrLog.
func Open(ctx context.Context, s *store.Store, path string, log *slog.Logger) (*Publisher, error) {
	p := &Publisher{store: s, dir: tlogdir.Dir(path), log: log, blobs: map[pins.Digest]bool{}}
	if err := p.open(ctx); err != nil {
		return nil, fmt.Errorf("opening log %s: %w", path, err)
	}
	return p, nil
}

func (p *Publisher) open(ctx context.Context) error {
	shown, err := p.dir.Checkpoint()
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(p.store.LogPublic())
	if err != nil {
		return err
	}
	there, err := tlogdir.OpenCheckpoint(shown, verifier)
	if err != nil {
		return err
	}
	c, err := p.store.Checkpoint(ctx)
	if err != nil {
		return err
	}
	if p.tree, err = tlogdir.OpenCheckpoint([]byte(c.Signed), verifier); err != nil {
		return fmt.Errorf("the store's checkpoint: %w", err)
	}
	if there.Size > p.tree.Size {
		return fmt.Errorf("%w: it knows of %d leaves, and the log has %d: put back the store that was last in use", ErrOldStore, p.tree.Size, there.Size)
	}
	if err := p.dir.CheckEdge(p.tree); err != nil {
		return fmt.Errorf("%w: the store knows of %d leaves: %v: put back the log that was last in use", ErrLog, p.tree.Size, err)
	}
	if err := p.dir.CheckExtends(there, p.tree); err != nil {
		return fmt.Errorf("%w: %v", ErrLog, err)
	}
	if there.Size < p.tree.Size { // a crash came between transaction and file
		if err := p.dir.WriteCheckpoint([]byte(c.Signed)); err != nil {
			return err
		}
	}
	p.shown.Store(&State{Tree: p.tree, Checkpoint: []byte(c.Signed), At: time.Now()})
	return nil
}

// State is where the publisher stands.
func (p *Publisher) State() State { return *p.shown.Load() }

// Run publishes until ctx is done, and then what is left. written says when there is
// something new.
func (p *Publisher) Run(ctx context.Context, written <-chan struct{}) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return p.tolerate(p.Publish(last))
		case <-pause.C:
		}
		if err := p.tolerate(p.Publish(ctx)); err != nil {
			return err
		}
		select {
		case <-written:
		case <-ticker.C:
		case <-ctx.Done():
		}
		pause.Reset(interval)
	}
}

// tolerate logs what may be well again the next time: leaves are safe in the book, and wait.
// A broken store and a log that was changed are not.
func (p *Publisher) tolerate(err error) error {
	if err == nil || errors.Is(err, kv.ErrBroken) || errors.Is(err, ErrLog) {
		return err
	}
	if !errors.Is(err, context.Canceled) {
		p.log.Error("publishing the log", "err", err)
	}
	return nil
}

// Publish publishes all that there is now.
func (p *Publisher) Publish(ctx context.Context) error {
	for {
		more, err := p.publish(ctx)
		if err != nil {
			return fmt.Errorf("publishing: %w", err)
		}
		if !more {
			state := p.State()
			state.At = time.Now()
			p.shown.Store(&state)
			return nil
		}
	}
}

// publish publishes the next segments, and reports whether there may be more.
func (p *Publisher) publish(ctx context.Context) (more bool, err error) {
	items, err := p.store.Engine.Get(ctx, store.KeyCheckpoint)
	if err != nil {
		return false, err
	}
	c, err := store.CheckpointOf(items[0])
	if err != nil {
		return false, err
	}
	if c.Signed != string(p.State().Checkpoint) {
		if err := p.open(ctx); err != nil { // another publisher was here
			return false, err
		}
	}
	segments, more, err := p.pending(ctx)
	if err != nil || len(segments) == 0 {
		return false, err
	}
	lanes := audit.Lanes{}
	for lane, head := range c.Lanes {
		lanes[lane] = head
	}
	leaves, writes, err := p.read(ctx, segments, lanes)
	if err != nil {
		return false, err
	}
	tree, err := p.dir.Append(p.tree, leaves)
	if err != nil {
		return false, err
	}
	signed, err := tlogdir.Sign(tree, p.store.Keys().Log)
	if err != nil {
		return false, err
	}
	writes = append(writes, store.SetCheckpoint(store.Checkpoint{Signed: string(signed), Lanes: lanes}))
	happened, err := p.store.Engine.Commit(ctx, []kv.Cond{{Key: items[0].Key, Mod: items[0].Mod}}, writes)
	if err != nil {
		return false, err // if it happened all the same, the next time finds it
	}
	if !happened {
		return true, nil
	}
	if err := p.dir.WriteCheckpoint(signed); err != nil {
		return false, err
	}
	old := p.tree
	p.tree = tree
	p.shown.Store(&State{Tree: tree, Checkpoint: signed, At: p.State().At})
	return more, p.dir.Tidy(old, tree)
}

// pending returns the oldest segments of all lanes, by the revision that wrote them.
func (p *Publisher) pending(ctx context.Context) (segments []kv.Item, more bool, err error) {
	// A segment that is written while the lanes are read may come before one of another
	// lane that is not seen any more: those wait.
	until, err := p.store.Engine.Revision(ctx)
	if err != nil {
		return nil, false, err
	}
	var lanes []string
	err = kv.Each(ctx, p.store.Engine, store.PrefixLane, func(item kv.Item) error {
		lanes = append(lanes, strings.TrimPrefix(item.Key, store.PrefixLane))
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	for _, lane := range lanes {
		items, err := p.store.Engine.List(ctx, store.PrefixSegments(lane), "", page)
		if err != nil {
			return nil, false, err
		}
		if len(items) == page { // what comes after them is not known yet
			until, more = min(until, items[page-1].Mod), true
		}
		segments = append(segments, items...)
	}
	segments = slices.DeleteFunc(segments, func(s kv.Item) bool { return s.Mod > until })
	slices.SortFunc(segments, func(a, b kv.Item) int { return cmp.Compare(a.Mod, b.Mod) })
	if len(segments) > page {
		segments, more = segments[:page], true
	}
	return segments, more, nil
}

// read takes segments apart, holds them against the ends of their lanes, and brings what
// they refer to into the directory. The writes remove them.
func (p *Publisher) read(ctx context.Context, segments []kv.Item, lanes audit.Lanes) (leaves [][]byte, writes []kv.Write, err error) {
	for _, s := range segments {
		all, err := store.SegmentOf(s)
		if err != nil {
			return nil, nil, err
		}
		for _, data := range all {
			leaf, err := lanes.Next(data)
			if err != nil {
				return nil, nil, fmt.Errorf("%w: %v", ErrLog, err)
			}
			if err := p.bring(ctx, leaf); err != nil {
				return nil, nil, err
			}
			leaves = append(leaves, data)
		}
		writes = append(writes, kv.Write{Key: s.Key, Delete: true})
	}
	return leaves, writes, nil
}

// bring copies the contents that a leaf refers to, if they are not there yet. What a list
// of collateral names comes before the list.
func (p *Publisher) bring(ctx context.Context, leaf audit.Leaf) error {
	if about, ok := leaf.About.(audit.AboutRelease); ok && about.Proof != nil && !p.blobs[about.Proof.Collateral] {
		data, err := p.store.Blob(ctx, about.Proof.Collateral)
		if err != nil {
			return fmt.Errorf("leaf %s: %w", leaf.Place, err)
		}
		list, err := audit.DecodeCollateral(data)
		if err != nil {
			return fmt.Errorf("leaf %s: %w", leaf.Place, err)
		}
		if err := p.copyBlobs(ctx, slices.Concat(list.Certificates, list.CRLs)); err != nil {
			return fmt.Errorf("leaf %s: %w", leaf.Place, err)
		}
	}
	if err := p.copyBlobs(ctx, leaf.About.Contents()); err != nil {
		return fmt.Errorf("leaf %s: %w", leaf.Place, err)
	}
	return nil
}

func (p *Publisher) copyBlobs(ctx context.Context, digests []pins.Digest) error {
	for _, digest := range digests {
		if p.blobs[digest] {
			continue
		}
		data, err := p.store.Blob(ctx, digest)
		if err != nil {
			return err
		}
		if err := p.dir.PutBlob(data); err != nil {
			return err
		}
		p.blobs[digest] = true
	}
	return nil
}
