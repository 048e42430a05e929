package publish

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
)

// book is what the store says about the log.
type book struct {
	checkpoint store.Checkpoint
	tree       tlogdir.Tree // the checkpoint's tree
	mod        int64        // revision of the checkpoint's item
	own        store.Copy
	others     []store.Copy
	conditions []kv.Cond // hold while all of this is unchanged
}

// look reads the book.
func (p *Publisher) look(ctx context.Context) (book, error) {
	items, err := p.store.Engine.Get(ctx, store.KeyCopies, store.KeyCheckpoint)
	if err != nil {
		return book{}, err
	}
	b := book{mod: items[1].Mod}
	if b.checkpoint, err = store.CheckpointOf(items[1]); err != nil {
		return book{}, err
	}
	if b.tree, err = p.verify([]byte(b.checkpoint.Signed)); err != nil {
		return book{}, fmt.Errorf("the store's checkpoint: %w", err)
	}
	found := false
	err = kv.Each(ctx, p.store.Engine, store.PrefixCopy, func(item kv.Item) error {
		items = append(items, item)
		c, err := store.CopyOf(item)
		if item.Key == store.KeyCopy(p.replica) {
			b.own, found = c, true
		} else {
			b.others = append(b.others, c)
		}
		return err
	})
	if err == nil && !found {
		err = fmt.Errorf("replica %s has no copy of the log: rootvouch-kms join registers one", p.replica)
	}
	for _, item := range items {
		b.conditions = append(b.conditions, kv.Cond{Key: item.Key, Mod: item.Mod})
	}
	return b, err
}

// segment is a segment in the store.
type segment struct {
	kv.Item
	lane string
	last uint64 // sequence of its last leaf
}

func segmentOf(lane string, item kv.Item) (segment, error) {
	first, err := strconv.ParseUint(strings.TrimPrefix(item.Key, store.PrefixSegments(lane)), 10, 64)
	if err != nil {
		return segment{}, fmt.Errorf("key %q: %w", item.Key, err)
	}
	leaves, err := store.SegmentOf(item)
	if err == nil && len(leaves) == 0 {
		err = fmt.Errorf("key %q: segment is empty", item.Key)
	}
	return segment{item, lane, first + uint64(len(leaves)) - 1}, err
}

// covers reports whether a copy with these heads has the segment.
func covers(lanes audit.Lanes, s segment) bool { return s.last <= lanes[s.lane].Sequence }

// remove makes the writes that remove the segments which all other copies have.
func remove(segments []segment, others []store.Copy) (writes []kv.Write) {
	for _, s := range segments {
		if !slices.ContainsFunc(others, func(c store.Copy) bool { return !covers(c.Lanes, s) }) {
			writes = append(writes, kv.Write{Key: s.Key, Delete: true})
		}
	}
	return writes
}

// sweepInterval is the time between two searches for segments that all copies have. Usually the
// last replica that copies a segment removes it, unless a replica has left.
const sweepInterval = 30 * time.Second

// sweep removes segments that all copies have.
func (p *Publisher) sweep(ctx context.Context, b book) error {
	if len(b.others) == 0 || time.Since(p.swept) < sweepInterval {
		return nil
	}
	p.swept = time.Now()
	for {
		segments, _, err := p.pending(ctx, nil)
		if err != nil {
			return err
		}
		writes := remove(segments, append(b.others, b.own))
		if len(writes) == 0 {
			return nil
		}
		revision, err := p.store.Engine.Commit(ctx, b.conditions, writes)
		if err != nil || revision == 0 {
			return err
		}
	}
}

// pending returns the oldest segments of all lanes after these heads, ordered by the revision
// that wrote them.
func (p *Publisher) pending(ctx context.Context, after audit.Lanes) (segments []segment, more bool, err error) {
	// A segment written during this read may be older than one of a lane that was already read.
	// Segments after this revision therefore wait.
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
		items, err := p.store.Engine.List(ctx, store.PrefixSegments(lane), store.KeySegment(lane, after[lane].Sequence), page)
		if err != nil {
			return nil, false, err
		}
		if len(items) == page { // the segments after them are not known yet
			until, more = min(until, items[page-1].Mod), true
		}
		for _, item := range items {
			s, err := segmentOf(lane, item)
			if err != nil {
				return nil, false, err
			}
			segments = append(segments, s)
		}
	}
	segments = slices.DeleteFunc(segments, func(s segment) bool { return s.Mod > until })
	slices.SortFunc(segments, func(a, b segment) int { return cmp.Compare(a.Mod, b.Mod) })
	if len(segments) > page {
		segments, more = segments[:page], true
	}
	return segments, more, nil
}
