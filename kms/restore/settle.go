package restore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// settle gives a disk the records that the log shows, as far as the backup has their keys. It
// keeps the disk's other records, so that they can be restored.
func (r *restorer) settle(disk pins.UUID, f *fate) error {
	if f.last.IsZero() {
		return nil // the log shows only releases
	}
	r.result.Changed++
	have, writes, err := r.all(disk)
	if err != nil {
		return err
	}
	var named []store.Record
	for _, x := range []struct {
		about *audit.AboutChange
		at    string
	}{{f.Current, store.KeyRecord(disk)}, {f.Staged, store.KeyStaged(disk)}} {
		if x.about == nil {
			continue
		}
		old, there := have[x.about.Generation]
		if !there {
			r.result.Lost = append(r.result.Lost, Lost{disk, x.about.Generation})
			continue
		}
		if x.at == store.KeyStaged(disk) && len(named) == 0 {
			continue // no record to stand beside
		}
		fresh := old
		if x.about.Disk == disk { // otherwise the log does not mention it, and it stays as it was
			if fresh, err = r.follow(old, *x.about); err != nil {
				return err
			}
			fresh.Changed = f.last
		}
		key, err := r.s.Key(old)
		if err != nil {
			return err
		}
		item, err := r.s.Seal(x.at, fresh, key)
		clear(key)
		if err != nil {
			return err
		}
		writes = append(writes, item, kv.Write{Key: store.KeyCaller(fresh.SPIFFEID, disk)})
		named = append(named, fresh)
		delete(have, x.about.Generation)
	}
	for generation, old := range have {
		if f.purged[generation] {
			continue
		}
		kept := store.Kept{Why: store.Replaced, At: f.last, Until: f.last.Add(r.retention)}
		if old.Kept() != nil {
			kept = *old.Kept()
		} else if f.Current == nil {
			kept.Why = store.Deleted
		}
		writes = append(writes, store.Keep(old, kept))
	}
	writes = append(writes, store.SetGeneration(disk, max(f.generation, newest(have))))
	for _, some := range slices.Collect(slices.Chunk(last(writes), kv.MaxOps/2)) {
		if err := r.commit(some...); err != nil {
			return err
		}
	}
	return nil
}

// all reads all records of a disk by their generation, and returns the writes that remove them.
func (r *restorer) all(disk pins.UUID) (map[uint64]store.Record, []kv.Write, error) {
	found := map[uint64]store.Record{}
	var writes []kv.Write
	current, staged, err := r.s.Both(r.ctx, disk)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, nil, err
	}
	all, err := r.s.KeptOf(r.ctx, disk)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range []*store.Record{current, staged} {
		if r != nil {
			all = append(all, *r)
			writes = append(writes, kv.Write{Key: store.KeyCaller(r.SPIFFEID, disk), Delete: true})
		}
	}
	for _, r := range all {
		found[r.Generation] = r
		writes = append(writes, kv.Write{Key: r.Item(), Delete: true})
	}
	return found, writes, nil
}

// last keeps the last write of each key.
func last(writes []kv.Write) []kv.Write {
	at := map[string]int{}
	var kept []kv.Write
	for _, w := range writes {
		if i, again := at[w.Key]; again {
			kept[i] = w
			continue
		}
		at[w.Key] = len(kept)
		kept = append(kept, w)
	}
	return kept
}

func newest(have map[uint64]store.Record) (n uint64) {
	for generation := range have {
		n = max(n, generation)
	}
	return n
}

// follow returns the record in the state that the log shows.
func (r *restorer) follow(old store.Record, about audit.AboutChange) (store.Record, error) {
	id, err := spiffeid.FromString(about.SPIFFEID)
	if err != nil {
		return store.Record{}, err
	}
	fresh := old
	fresh.SPIFFEID, fresh.Evidence, fresh.SameVM, fresh.MaxReleases = id, store.EvidenceRule(about.Evidence), about.SameVM, about.MaxReleases
	fresh.State, fresh.ReferenceValues, fresh.Before = store.State(about.State), about.ReferenceValues, nil
	if about.Writers != "" {
		fresh.Volume = &store.VolumePolicy{Writers: store.Writers(about.Writers), Unclean: store.Unclean(about.Unclean)}
	}
	if old.HeaderSHA256 != about.Header {
		return store.Record{}, fmt.Errorf("generation %d has header pin %s in the backup and %s in the log", old.Generation, old.HeaderSHA256, about.Header)
	}
	for _, b := range about.Before {
		fresh.Before = append(fresh.Before, store.Expiring(b))
	}
	for _, digest := range about.Contents() {
		data, err := r.dir.Blob(digest)
		if err != nil {
			return store.Record{}, err
		}
		if _, err := r.s.PutBlob(r.ctx, data); err != nil {
			return store.Record{}, err
		}
	}
	return fresh, nil
}
