// Package publish moves the leaves of the key server's store into its transparency log.
//
// The leaves of all lanes enter the log in the order of their transactions, so every replica
// would publish the same log. Each replica has a copy of the log, in a directory. One replica
// publishes. It writes the tiles. Then it writes the new size and root of the log, and the size
// of its own copy, to the store, in one transaction. Then it writes the checkpoint's file. The
// other replicas append the new leaves to their copies, and verify that the copies have the same
// root. A leaf stays in the store until all copies have the leaf.
//
// So a directory's checkpoint is newer than the store only if somebody has put back an older copy
// of the store. Then Open returns ErrOldStore.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
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
	// ErrOldStore says that the store is older than the log.
	ErrOldStore = errors.New("store is older than the log")
	// ErrLog says that the log lacks leaves that the store says it has.
	ErrLog = errors.New("log was cut or changed")
)

const (
	// interval is the least time between two checkpoints.
	interval = time.Second
	// poll is the time between two reads of the other servers' lanes.
	poll = 5 * time.Second
	// page is how many segments of a lane are read at once and removed in one transaction.
	page = 100
)

// Publisher publishes one store into one directory.
type Publisher struct {
	store   *store.Store
	replica string
	dir     tlogdir.Dir
	log     *slog.Logger

	tree  tlogdir.Tree          // the tree in the directory
	blobs map[pins.Digest]bool  // contents in the directory
	shown atomic.Pointer[State] // the last state

	ckpt  int64     // revision of the checkpoint at the last read
	since time.Time // when that revision was first read
	swept time.Time // time of the last sweep
}

// State is a publisher's progress.
type State struct {
	Tree       tlogdir.Tree
	Checkpoint []byte    // signed
	At         time.Time // when all leaves were last published, or when the log was opened
}

// Open opens a replica's copy of a store's log, and verifies that the two fit each other: the
// newest tiles must be those that the store names. The errors match ErrOldStore and ErrLog.
func Open(ctx context.Context, s *store.Store, replica, path string, log *slog.Logger) (*Publisher, error) {
	p := &Publisher{store: s, replica: replica, dir: tlogdir.Dir(path), log: log, blobs: map[pins.Digest]bool{}}
	if err := p.open(ctx); err != nil {
		return nil, fmt.Errorf("opening log %s: %w", path, err)
	}
	return p, nil
}

// errMoved says that another replica published meanwhile.
var errMoved = errors.New("the log moved on meanwhile: try again")

// open opens the copy. If another replica publishes meanwhile, open reads again.
func (p *Publisher) open(ctx context.Context) error {
	const attempts = 100
	for range attempts {
		if err := p.openOnce(ctx); !errors.Is(err, errMoved) {
			return err
		}
	}
	return errMoved
}

func (p *Publisher) openOnce(ctx context.Context) error {
	b, err := p.look(ctx)
	if err != nil {
		return err
	}
	shown, err := p.dir.Checkpoint()
	if err != nil {
		return err
	}
	there, err := p.verify(shown)
	if err != nil {
		return err
	}
	if there.Size > b.tree.Size {
		return fmt.Errorf("%w: store has %d leaves in the log, but the log has %d: put back the store that was last in use", ErrOldStore, b.tree.Size, there.Size)
	}
	if there.Size > b.own.Size {
		if err := p.adopt(ctx, &b, there); err != nil {
			return err
		}
	}
	p.tree = p.treeOf(b.own)
	if err := p.dir.CheckEdge(p.tree); err != nil {
		return fmt.Errorf("%w: the store knows of %d leaves: %v: put back the log that was last in use", ErrLog, p.tree.Size, err)
	}
	if err := p.dir.CheckExtends(there, p.tree); err != nil {
		return fmt.Errorf("%w: %v", ErrLog, err)
	}
	if p.tree.Size == b.tree.Size {
		if p.tree != b.tree {
			return fmt.Errorf("%w: root of %d leaves is %s, want %s", ErrLog, p.tree.Size, p.tree.Root, b.tree.Root)
		}
		if there.Size < p.tree.Size { // a crash came after the transaction and before the file
			shown = []byte(b.checkpoint.Signed)
			if err := p.dir.WriteCheckpoint(shown); err != nil {
				return err
			}
		}
	}
	p.shown.Store(&State{Tree: p.tree, Checkpoint: shown, At: time.Now()})
	return nil
}

// verify opens a signed checkpoint of this log.
func (p *Publisher) verify(signed []byte) (tlogdir.Tree, error) {
	verifier, err := note.NewVerifier(p.store.LogPublic())
	if err != nil {
		return tlogdir.Tree{}, err
	}
	return tlogdir.OpenCheckpoint(signed, verifier)
}

func (p *Publisher) treeOf(c store.Copy) tlogdir.Tree {
	return tlogdir.Tree{Origin: p.store.LogOrigin(), Size: c.Size, Root: c.Root}
}

// adopt accepts a directory that an operator copied from another replica: it has more leaves
// than the store knows of.
func (p *Publisher) adopt(ctx context.Context, b *book, there tlogdir.Tree) error {
	if err := p.dir.CheckExtends(p.treeOf(b.own), there); err != nil {
		return fmt.Errorf("%w: %v: copy it again from another replica", ErrLog, err)
	}
	lanes := maps.Clone(b.own.Lanes)
	err := p.dir.Read(there, b.own.Size, func(_ int64, data []byte) error {
		leaf, err := lanes.Next(data)
		if err != nil {
			return err
		}
		return p.bring(ctx, leaf)
	})
	if err != nil {
		return fmt.Errorf("%w: %v: copy it again from another replica", ErrLog, err)
	}
	b.own = store.Copy{Size: there.Size, Root: there.Root, Lanes: lanes}
	revision, err := p.store.Engine.Commit(ctx, b.conditions, []kv.Write{store.SetCopy(p.replica, b.own)})
	if err == nil && revision == 0 {
		err = errMoved
	}
	return err
}

// State returns the publisher's progress.
func (p *Publisher) State() State { return *p.shown.Load() }

// Newest returns how many leaves the log has, as the store says, whichever replica published
// them.
func (p *Publisher) Newest(ctx context.Context) (int64, error) {
	checkpoint, err := p.store.Checkpoint(ctx)
	if err != nil {
		return 0, err
	}
	tree, err := p.verify([]byte(checkpoint.Signed))
	return tree.Size, err
}

// Run publishes until ctx is done, and then finishes. A value on written says that leaves wait.
func (p *Publisher) Run(ctx context.Context, written <-chan struct{}) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return p.tolerate(p.finish(context.WithoutCancel(ctx)))
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

// finish publishes the rest. If another replica publishes, finish waits until this copy has the
// leaves that the store has now. So servers that stop together leave equal copies.
func (p *Publisher) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	b, err := p.look(ctx)
	if err != nil {
		return err
	}
	wanted, _, err := p.pending(ctx, b.own.Lanes)
	if err != nil {
		return err
	}
	for {
		if err := p.Publish(ctx); err != nil {
			return err
		}
		if b, err = p.look(ctx); err != nil {
			return err
		}
		wanted = slices.DeleteFunc(wanted, func(s segment) bool { return covers(b.own.Lanes, s) })
		if len(wanted) == 0 {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for another replica to publish %d segments: %w", len(wanted), ctx.Err())
		}
	}
}

// tolerate logs an error that may pass, because the leaves wait safely in the store. It returns
// the error if the store is broken or the log was changed.
func (p *Publisher) tolerate(err error) error {
	if err == nil || errors.Is(err, kv.ErrBroken) || errors.Is(err, ErrLog) {
		return err
	}
	if !errors.Is(err, context.Canceled) {
		p.log.Error("publishing the log", "err", err)
	}
	return nil
}

// Publish publishes all leaves that wait, if this replica is the one to publish.
func (p *Publisher) Publish(ctx context.Context) error {
	for {
		more, err := p.publish(ctx)
		if err != nil {
			return fmt.Errorf("publishing: %w", err)
		}
		if !more {
			return nil
		}
	}
}

// publish brings our copy up to the checkpoint. If the copy is up to date, it publishes the
// next segments. It reports whether more may follow at once.
func (p *Publisher) publish(ctx context.Context) (more bool, err error) {
	b, err := p.look(ctx)
	if err != nil {
		return false, err
	}
	if p.treeOf(b.own) != p.tree {
		if err := p.open(ctx); err != nil { // another process uses our directory
			return false, err
		}
	}
	segments, more, err := p.pending(ctx, b.own.Lanes)
	if err != nil {
		return false, err
	}
	behind := b.own.Size < b.tree.Size
	switch {
	case behind:
		segments = slices.DeleteFunc(segments, func(s segment) bool { return !covers(b.checkpoint.Lanes, s) })
		if len(segments) == 0 {
			return false, fmt.Errorf("%w: the log has %d leaves, this copy has %d, and the store lacks those between: copy the log of another replica", ErrLog, b.tree.Size, b.own.Size)
		}
	case len(segments) == 0:
		p.current()
		return false, p.sweep(ctx, b)
	case !p.leads(b):
		return false, nil
	}
	return p.move(ctx, b, segments, behind, more)
}

// takeover is how long leaves may wait under an unchanged checkpoint before another replica
// takes over publishing.
const takeover = 3 * time.Second

// leads reports whether this replica publishes. If two replicas think so, one transaction fails.
func (p *Publisher) leads(b book) bool {
	if b.mod != p.ckpt {
		p.ckpt, p.since = b.mod, time.Now()
		p.current() // the log moves, and our copy is complete
	}
	return b.checkpoint.By == p.replica || len(b.others) == 0 || time.Since(p.since) >= takeover
}

// current notes that the log now has all leaves of the store.
func (p *Publisher) current() {
	state := p.State()
	state.At = time.Now()
	p.shown.Store(&state)
}

// move appends segments to our copy, and records that in the store.
func (p *Publisher) move(ctx context.Context, b book, segments []segment, behind, more bool) (bool, error) {
	own := store.Copy{Lanes: maps.Clone(b.own.Lanes)}
	leaves, err := p.read(ctx, segments, own.Lanes)
	if err != nil {
		return false, err
	}
	tree, err := p.dir.Append(p.tree, leaves)
	if err != nil {
		return false, err
	}
	own.Size, own.Root = tree.Size, tree.Root
	writes := append(remove(segments, b.others), store.SetCopy(p.replica, own))
	signed := []byte(b.checkpoint.Signed)
	switch {
	case !behind:
		if signed, err = tlogdir.Sign(tree, p.store.Keys().Log); err != nil {
			return false, err
		}
		writes = append(writes, store.SetCheckpoint(store.Checkpoint{Signed: string(signed), Lanes: own.Lanes, By: p.replica}))
	case tree.Size == b.tree.Size && tree != b.tree:
		return false, fmt.Errorf("%w: %d leaves of the book make root %s, and the log's is %s", ErrLog, tree.Size, tree.Root, b.tree.Root)
	}
	revision, err := p.store.Engine.Commit(ctx, b.conditions, writes)
	if err != nil {
		return false, err // if the transaction happened, the next round finds it
	}
	if revision == 0 {
		return true, nil
	}
	old := p.tree
	p.tree = tree
	if behind && tree.Size < b.tree.Size {
		return true, nil // no checkpoint has this tree
	}
	if err := p.dir.WriteCheckpoint(signed); err != nil {
		return false, err
	}
	p.shown.Store(&State{Tree: tree, Checkpoint: signed, At: p.State().At})
	return more || behind, p.dir.Tidy(old, tree)
}

// read decodes segments and verifies that they follow the ends of their lanes, which it moves
// on. It also copies the contents that the leaves name into the directory.
func (p *Publisher) read(ctx context.Context, segments []segment, lanes audit.Lanes) (leaves [][]byte, err error) {
	for _, s := range segments {
		all, err := store.SegmentOf(s.Item)
		if err != nil {
			return nil, err
		}
		for _, data := range all {
			leaf, err := lanes.Next(data)
			if err != nil {
				return nil, fmt.Errorf("%w: %v", ErrLog, err)
			}
			if err := p.bring(ctx, leaf); err != nil {
				return nil, err
			}
			leaves = append(leaves, data)
		}
	}
	return leaves, nil
}

// bring copies the contents that a leaf names, if the directory lacks them. The contents that a
// list of collateral names come before the list.
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
