// Package members shows which servers share a store, and how far their clocks are apart.
//
// Each server writes a sign of life at an interval. No release depends on it: a silent server
// may still serve.
package members

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
)

const (
	// Interval is the time between two signs of life.
	Interval = 2 * time.Second
	// silence is how long a server may be silent before it no longer counts as alive.
	silence = 15 * time.Second
	// maxSkew bounds how far a clock may be from the others. The measured difference includes
	// the delay until a sign is seen, which is Interval and more.
	maxSkew = 10 * time.Second
)

// ErrTaken says that another process with the same name writes our sign of life.
var ErrTaken = errors.New("another server has this replica's name")

// Members watches the servers of one store.
type Members struct {
	engine  kv.Engine
	name    string
	process store.Token
	version string
	keks    []string
	clock   func() time.Time
	log     *slog.Logger

	mu      sync.Mutex // guards the fields below
	started bool       // our first sign was written
	peers   map[string]peer
}

// peer is the last known state of another server.
type peer struct {
	mod   int64
	first bool          // seen when we first looked, so it may be old
	seen  time.Time     // when we saw the sign
	ahead time.Duration // its clock minus ours, at that time
	keks  []string      // the key-encryption keys that it has
}

// New watches the store in an engine for the replica called name, which has these
// key-encryption keys. token belongs to this process alone.
func New(e kv.Engine, name, version string, keks []string, token store.Token, clock func() time.Time, log *slog.Logger) *Members {
	return &Members{engine: e, name: name, process: token, version: version, keks: keks, clock: clock, log: log, peers: map[string]peer{}}
}

// Run writes signs of life until ctx is done. The error matches ErrTaken.
func (m *Members) Run(ctx context.Context) error {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	for {
		switch err := m.Beat(ctx); {
		case errors.Is(err, ErrTaken) || errors.Is(err, kv.ErrBroken):
			return err
		case err != nil && ctx.Err() == nil:
			m.log.Warn("writing a sign of life", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Beat writes one sign of life, and reads the signs of the others.
func (m *Members) Beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	if err := m.sign(ctx); err != nil {
		return err
	}
	var all []kv.Item
	err := kv.Each(ctx, m.engine, store.PrefixReplica, func(item kv.Item) error {
		all = append(all, item)
		return nil
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock()
	for _, item := range all {
		name := strings.TrimPrefix(item.Key, store.PrefixReplica)
		known, old := m.peers[name]
		if name == m.name || old && known.mod == item.Mod {
			continue
		}
		sign, err := store.ReplicaOf(item)
		if err != nil {
			return err
		}
		m.peers[name] = peer{mod: item.Mod, first: !old, seen: now, ahead: sign.Time.Sub(now), keks: sign.KEKs}
	}
	return nil
}

// sign writes our own sign. If another process has overwritten our last sign, that process has
// our name.
func (m *Members) sign(ctx context.Context) error {
	items, err := m.engine.Get(ctx, store.KeyReplica(m.name))
	if err != nil {
		return err
	}
	there, err := store.ReplicaOf(items[0])
	if err != nil {
		return err
	}
	m.mu.Lock()
	started := m.started
	m.mu.Unlock()
	if started && there.Process != m.process {
		return fmt.Errorf("%w: %s", ErrTaken, m.name)
	}
	write := store.SetReplica(m.name, store.Replica{Process: m.process, Time: m.clock().UTC().Round(0), Version: m.version, KEKs: m.keks})
	// An unknown outcome does no harm: the next sign reads the current item.
	revision, err := m.engine.Commit(ctx, []kv.Cond{{Key: items[0].Key, Mod: items[0].Mod}}, []kv.Write{write})
	if revision != 0 {
		m.mu.Lock()
		m.started = true
		m.mu.Unlock()
	}
	return err
}

// Alive returns the names of all servers that are alive, ours included.
func (m *Members) Alive() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := []string{m.name}
	for name, p := range m.peers {
		if m.alive(p) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// Lack returns the names of the other live servers that cannot open secrets sealed under a
// key-encryption key. A server that we have seen only once counts as alive.
func (m *Members) Lack(kek string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for name, p := range m.peers {
		recent := p.first && m.clock().Sub(p.seen)-p.ahead < silence
		if (m.alive(p) || recent) && !slices.Contains(p.keks, kek) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

func (m *Members) alive(p peer) bool { return !p.first && m.clock().Sub(p.seen) < silence }

// Clock returns an error if our clock is too far from the median clock of all live servers.
func (m *Members) Clock() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	ahead := []time.Duration{0}
	for _, p := range m.peers {
		if m.alive(p) {
			ahead = append(ahead, p.ahead)
		}
	}
	slices.Sort(ahead)
	if middle := ahead[len(ahead)/2]; middle.Abs() > maxSkew {
		return fmt.Errorf("this server's clock is %s from the clocks of most servers: correct it", middle.Round(time.Second))
	}
	return nil
}
