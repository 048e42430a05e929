package etcdkv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// statusLimit bounds the time for a member's status.
const statusLimit = 2 * time.Second

// fullAt is the share of its quota, in percent, above which State reports a member as nearly
// full.
const fullAt = 60

// State is the health of a cluster's members.
type State struct {
	Size int64 // of the largest member's database, bytes
	// Full is an error if a member has used much of its quota.
	Full error
	// Silent is an error if a member does not answer. The others may do without it.
	Silent error
	// Alarm is an error if a member raised an alarm. The cluster then writes nothing.
	Alarm error
}

// State asks all members for their status.
func (s *Store) State(ctx context.Context) State {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	var mu sync.Mutex // guards all
	var all State
	var wg sync.WaitGroup
	for _, endpoint := range s.client.Endpoints() {
		wg.Go(func() {
			status, err := s.client.Status(ctx, endpoint)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				all.Silent = errors.Join(all.Silent, fmt.Errorf("etcd %s: %v", endpoint, err))
				return
			}
			all.Size = max(all.Size, status.DbSize)
			if status.DbSizeQuota > 0 && status.DbSize*100 >= status.DbSizeQuota*fullAt {
				all.Full = errors.Join(all.Full, fmt.Errorf("etcd %s has %d MiB of at most %d: compact and defragment it, or raise its quota",
					endpoint, status.DbSize>>20, status.DbSizeQuota>>20))
			}
			for _, e := range status.Errors {
				all.Alarm = errors.Join(all.Alarm, fmt.Errorf("etcd %s: %s", endpoint, e))
			}
		})
	}
	wg.Wait()
	return all
}

// Reachable reports whether a majority answers.
func (s *Store) Reachable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	_, err := s.Revision(ctx)
	return err
}
