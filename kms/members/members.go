// Package members shows which servers share a book, and how far their clocks are apart.
//
// Each writes a sign of life now and then. Nothing is decided by it: a server that is
// silent may still serve.
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
	// silence is how long a server may be silent before it counts no more.
	silence = 15 * time.Second
	// maxSkew bounds how far a clock may be from the others'. The measured difference includes
	// the time until a sign is seen, Interval and more.
	maxSkew = 10 * time.Second
)

// ErrTaken says that another process writes our sign of life: it has the same name.
var ErrTaken = errors.New("another server has this replica's name")

// Members watches the servers of one book.
type Members struct {
	engine  kv.Engine
	name    string
	process store.Token
	version string
	keks    []string
	clock   func() time.Time
	log     *slog.Logger

	mu      sync.Mutex // guards what follows
	started bool       // our first sign was given
	peers   map[string]peer
}

// peer is another server, as it was seen last.
type peer struct {
	mod   int64
	first bool          // that was when we first looked: it may be old
	seen  time.Time     // when a new sign was seen
	ahead time.Duration // its clock then, against ours
	keks  []string      // that it can open with
}

// New watches the book of an engine, for the replica of a name, which has these key-encryption
// keys. token is this process' own.
func New(e kv.Engine, name, version string, keks []string, token store.Token, clock func() time.Time, log *slog.Logger) *Members {
	return &Members{engine: e, name: name, process: token, version: version, keks: keks, clock: clock, log: log, peers: map[string]peer{}}
}

// Run gives signs of life until ctx is done. The error matches ErrTaken.
func (m *Members) Run(ctx context.Context) error {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	for {
		switch err := m.Beat(ctx); {
		case errors.Is(err, ErrTaken) || errors.Is(err, kv.ErrBroken):
			return err
		case err != nil && ctx.Err() == nil:
			m.log.Warn("giving a sign of life", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Beat gives one sign of life, and looks for those of the others.
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

// sign writes our own sign. If another process wrote it since we did, that process has our
// name.
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
	// An outcome that is unknown needs no care: the next sign reads what there is.
	happened, err := m.engine.Commit(ctx, []kv.Cond{{Key: items[0].Key, Mod: items[0].Mod}}, []kv.Write{write})
	if happened {
		m.mu.Lock()
		m.started = true
		m.mu.Unlock()
	}
	return err
}

// Alive are the names of all that gave a sign lately, ours with them.
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

// Lack are the names of the other servers that live, and cannot open what is sealed under a
// key-encryption key. A server whose first sign is recent counts as one that lives.
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

// Clock says how far our clock is from the middle one of all that live, if that is too far.
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
		return fmt.Errorf("the clocks of most servers are %s from this one's: set it right", middle.Round(time.Second))
	}
	return nil
}
