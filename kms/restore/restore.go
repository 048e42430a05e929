// Package restore brings a backup of the key server's store up to the log.
//
// The log goes on after a backup was made. Restore applies the newer leaves to the copy. No
// launch that has had a key gets it again. Records that were disabled or deleted stay so.
// Volumes get the state that the log shows. No leaf has a key, so keys that were registered
// since the backup have to be registered again.
package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/mod/sumdb/note"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/history"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
	"github.com/rootvouch/rootvouch/pins"
)

// Result says what a restore did.
type Result struct {
	Leaves   int64 // leaves of the log that the backup lacked
	Releases int   // releases among them
	Changed  int   // disks whose records were changed since the backup
	// Lost are the keys that were registered since the backup.
	Lost []Lost
}

// Lost is a key that no backup has.
type Lost struct {
	Disk       pins.UUID
	Generation uint64
}

func (l Lost) String() string { return fmt.Sprintf("disk %s, generation %d", l.Disk, l.Generation) }

// ErrOldLog says that the log lacks leaves that the backup says it has.
var ErrOldLog = errors.New("log is older than the backup: take the newest copy of the log")

// restorer is one restore. Nothing else has the store open.
type restorer struct {
	ctx       context.Context
	s         *store.Store
	dir       tlogdir.Dir
	rand      io.Reader
	retention time.Duration

	result Result
	lanes  audit.Lanes
	times  map[string]time.Time // :: lane -> the latest time of its leaves
	disks  map[pins.UUID]*fate
	uses   map[pins.UUID]store.Use

	volumes map[pins.UUID]*history.Volume // volumes that the log mentions
}

// fate is the history of a disk's records.
type fate struct {
	history.Records
	generation uint64 // the newest so far
	purged     map[uint64]bool
	last       time.Time // time of the newest change
}

// Restore brings a store up to its log. The store is a copy that nothing else uses meanwhile.
func Restore(ctx context.Context, s *store.Store, dir tlogdir.Dir, rand io.Reader, retention time.Duration) (Result, error) {
	r := &restorer{ctx: ctx, s: s, dir: dir, rand: rand, retention: retention, times: map[string]time.Time{},
		disks: map[pins.UUID]*fate{}, uses: map[pins.UUID]store.Use{}, volumes: map[pins.UUID]*history.Volume{}}
	if err := r.run(); err != nil {
		return Result{}, fmt.Errorf("restoring: %w", err)
	}
	return r.result, nil
}

func (r *restorer) run() error {
	before, err := r.s.Checkpoint(r.ctx)
	if err != nil {
		return err
	}
	old, now, signed, err := r.trees(before)
	if err != nil {
		return err
	}
	r.lanes = audit.Lanes{}
	for lane, head := range before.Lanes {
		r.lanes[lane] = head
	}
	err = r.dir.Read(now, old.Size, func(_ int64, data []byte) error {
		leaf, err := r.lanes.Next(data)
		if err != nil {
			return err
		}
		r.result.Leaves++
		r.times[leaf.Lane] = latest(r.times[leaf.Lane], leaf.Time)
		return r.take(leaf)
	})
	if err != nil {
		return err
	}
	for disk, f := range r.disks {
		if err := r.settle(disk, f); err != nil {
			return fmt.Errorf("disk %s: %w", disk, err)
		}
	}
	slices.SortFunc(r.result.Lost, func(a, b Lost) int { return slices.Compare(a.Disk[:], b.Disk[:]) })
	for disk, use := range r.uses {
		if err := r.commit(store.SetUse(disk, use)); err != nil {
			return err
		}
	}
	if err := r.settleVolumes(); err != nil {
		return err
	}
	if err := r.count(); err != nil {
		return err
	}
	return r.finish(now, signed)
}

// trees returns the log's tree as the backup knows it and as it is now. The second must extend
// the first.
func (r *restorer) trees(before store.Checkpoint) (old, now tlogdir.Tree, signed []byte, err error) {
	verifier, err := note.NewVerifier(r.s.LogPublic())
	if err != nil {
		return old, now, nil, err
	}
	if old, err = tlogdir.OpenCheckpoint([]byte(before.Signed), verifier); err != nil {
		return old, now, nil, fmt.Errorf("the backup's checkpoint: %w", err)
	}
	if signed, err = r.dir.Checkpoint(); err != nil {
		return old, now, nil, err
	}
	if now, err = tlogdir.OpenCheckpoint(signed, verifier); err != nil {
		return old, now, nil, err
	}
	if now.Size < old.Size {
		return old, now, nil, fmt.Errorf("%w: the log has %d leaves, want at least the %d of the backup", ErrOldLog, now.Size, old.Size)
	}
	return old, now, signed, r.dir.CheckExtends(old, now)
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// take applies one leaf, or keeps it for settle.
func (r *restorer) take(leaf audit.Leaf) error {
	switch about := leaf.About.(type) {
	case audit.AboutRelease:
		if leaf.Event != audit.Release {
			return nil
		}
		r.result.Releases++
		if err := r.opened(leaf, about); err != nil {
			return err
		}
		return r.release(leaf, about)
	case audit.AboutChange:
		if err := r.registered(leaf, about); err != nil {
			return err
		}
		return r.change(leaf, about)
	case audit.AboutVolume:
		return r.said(leaf, about)
	}
	return nil
}

// release gives a launch its lease. Without evidence no lease is needed: the nonce identified
// the request, and it is too old by now.
func (r *restorer) release(leaf audit.Leaf, about audit.AboutRelease) error {
	if about.Proof == nil {
		return nil
	}
	id, err := spiffeid.FromString(about.SPIFFEID)
	if err != nil {
		return fmt.Errorf("leaf %s: %w", leaf.Place, err)
	}
	lease := store.Lease{ReportID: about.ReportID, SPIFFEID: id, Generation: about.Generation,
		RequestSHA256: about.SHA256, Time: leaf.Time, Leaf: leaf.Place}
	if _, err := io.ReadFull(r.rand, lease.Token[:]); err != nil {
		return err
	}
	f, err := r.fateOf(about.Disk)
	if err != nil {
		return err
	}
	if f.Current != nil && f.Current.MaxReleases > 0 || f.Staged != nil && f.Staged.MaxReleases > 0 {
		r.uses[about.Disk] = r.uses[about.Disk].Add(leaf.Time)
	}
	return r.commit(store.SetLease(about.Disk, store.Launch{ReportID: about.ReportID}, lease))
}

// fateOf returns the history of a disk's records so far. It begins with the records in the
// backup.
func (r *restorer) fateOf(disk pins.UUID) (*fate, error) {
	if f := r.disks[disk]; f != nil {
		return f, nil
	}
	f := &fate{purged: map[uint64]bool{}}
	current, staged, err := r.s.Both(r.ctx, disk)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if current != nil {
		f.Current = &audit.AboutChange{Generation: current.Generation, MaxReleases: current.MaxReleases}
	}
	if staged != nil {
		f.Staged = &audit.AboutChange{Generation: staged.Generation, MaxReleases: staged.MaxReleases}
	}
	r.disks[disk] = f
	return f, nil
}

// change applies a change of a disk's records.
func (r *restorer) change(leaf audit.Leaf, about audit.AboutChange) error {
	f, err := r.fateOf(about.Disk)
	if err != nil {
		return err
	}
	f.last, f.generation = leaf.Time, max(f.generation, about.Generation)
	f.Change(leaf.Event, about)
	if leaf.Event == audit.Purge {
		f.purged[about.Generation] = true
	}
	return nil
}

func (r *restorer) commit(writes ...kv.Write) error {
	revision, err := r.s.Engine.Commit(r.ctx, nil, writes)
	if err == nil && revision == 0 {
		panic("restore: internal error: a transaction without conditions did not happen")
	}
	return err
}

// count writes the number of records.
func (r *restorer) count() error {
	var n uint64
	for after := (pins.UUID{}); ; {
		page, err := r.s.List(r.ctx, after, 500)
		if err != nil {
			return err
		}
		n += uint64(len(page))
		if len(page) < 500 {
			return r.commit(store.SetCount(n))
		}
		after = page[len(page)-1].DiskUUID
	}
}

// finish writes the end of the log into the store, and removes segments that the log has.
func (r *restorer) finish(now tlogdir.Tree, signed []byte) error {
	for lane, head := range r.lanes {
		items, err := r.s.Engine.Get(r.ctx, store.KeyLane(lane))
		if err != nil {
			return err
		}
		end, err := store.LaneOf(items[0])
		if err != nil {
			return err
		}
		if end.Sequence < head.Sequence {
			fresh := store.Lane{Head: head, Time: latest(end.Time, r.times[lane])}
			if _, err := io.ReadFull(r.rand, fresh.Token[:]); err != nil {
				return err
			}
			if err := r.commit(store.SetLane(lane, fresh)); err != nil {
				return err
			}
		}
		if err := r.dropSegments(lane, head.Sequence); err != nil {
			return err
		}
	}
	checkpoint, err := r.s.Checkpoint(r.ctx)
	if err != nil {
		return err
	}
	checkpoint.Signed, checkpoint.Lanes = string(signed), r.lanes
	writes := []kv.Write{store.SetCheckpoint(checkpoint), {Key: store.KeyEpoch}}
	err = kv.Each(r.ctx, r.s.Engine, store.PrefixCopy, func(item kv.Item) error {
		replica := strings.TrimPrefix(item.Key, store.PrefixCopy)
		writes = append(writes, store.SetCopy(replica, store.Copy{Size: now.Size, Root: now.Root, Lanes: r.lanes}))
		return nil
	})
	if err != nil {
		return err
	}
	return r.commit(writes...)
}

// dropSegments removes the leaves of a lane that the log has.
func (r *restorer) dropSegments(lane string, upTo uint64) error {
	prefix := store.PrefixSegments(lane)
	var segments []kv.Item
	err := kv.Each(r.ctx, r.s.Engine, prefix, func(item kv.Item) error {
		segments = append(segments, item)
		return nil
	})
	if err != nil {
		return err
	}
	for _, item := range segments {
		leaves, err := store.SegmentOf(item)
		if err != nil {
			return err
		}
		var rest [][]byte
		var first uint64
		for _, data := range leaves {
			leaf, err := audit.Decode(data)
			if err != nil {
				return err
			}
			if leaf.Sequence > upTo {
				if rest == nil {
					first = leaf.Sequence
				}
				rest = append(rest, data)
			}
		}
		if len(rest) == len(leaves) {
			continue
		}
		writes := []kv.Write{{Key: item.Key, Delete: true}}
		if len(rest) > 0 {
			writes = append(writes, store.SetSegment(lane, first, rest))
		}
		if err := r.commit(writes...); err != nil {
			return err
		}
	}
	return nil
}
