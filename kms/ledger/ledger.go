// Package ledger changes the key server's store, and writes a leaf for the log in the same
// transaction.
//
// No other package changes the items that package store reads. One transaction of the engine
// writes a change and its leaf, or a release with its lease and its leaf. So the store always has
// all parts of a transaction or none. Several servers may share one store. A server's transaction
// takes effect only if these items are as the server read them, or as it expects them (expect.go):
//
//   - The epoch. Every change of a record writes the epoch. So a release that was judged before
//     a change takes no effect after the change, and each change is decided on the newest
//     records.
//   - The lease of a launch. A lease is made once, so a launch gets a key once.
//   - The end of the server's own lane. Each leaf of the lane follows the leaf before it, and a
//     transaction that was proposed twice takes effect once.
//
// If the engine does not report whether a transaction took effect, the ledger proposes the same
// transaction, with the same token, until the outcome is known. At most one of these proposals
// finds the end of the lane unchanged, so the transaction takes effect at most once. If the end
// of the lane has the token, the transaction took effect.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
)

// Ledger changes the store on behalf of one server.
type Ledger struct {
	// Records reads the store.
	Records *store.Store
	// Retention is the least time that replaced and deleted records are kept.
	Retention time.Duration

	engine      kv.Engine
	lane        string
	clock       func() time.Time
	rand        io.Reader
	retryWindow time.Duration
	written     chan struct{} // of size 1: the log lacks some leaves

	gate chan struct{} // held during a transaction, so that transactions take turns
	// known holds the end of the lane and the epoch as our newest transaction left them: see
	// expect. The gate guards it.
	known map[string]kv.Item

	pendingMu sync.Mutex           // guards pending and coming
	pending   []*claim             // releases that wait for the next transaction
	coming    map[string]time.Time // :: peer -> when its release was announced
	changed   chan struct{}        // of size 1: pending or coming changed
}

// New makes the ledger of the server that writes a lane. For retryWindow after a release, the
// server answers an identical request again.
func New(s *store.Store, lane string, clock func() time.Time, rand io.Reader, retryWindow time.Duration) *Ledger {
	return &Ledger{
		Records: s, Retention: DefaultRetention, engine: s.Engine, lane: lane, clock: clock, rand: rand, retryWindow: retryWindow,
		written: make(chan struct{}, 1), gate: make(chan struct{}, 1),
		coming: map[string]time.Time{}, changed: make(chan struct{}, 1),
	}
}

// Written returns a channel that gets a value when the log lacks leaves.
func (l *Ledger) Written() <-chan struct{} { return l.written }

// Now returns the time of the ledger's clock.
func (l *Ledger) Now() time.Time { return l.clock() }

// Lane returns the name of the server's lane.
func (l *Ledger) Lane() string { return l.lane }

// lock takes the gate, unless ctx ends first.
func (l *Ledger) lock(ctx context.Context) error {
	select {
	case l.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *Ledger) unlock() { <-l.gate }

// Note records an event that changes no state, such as a refusal or a start.
func (l *Ledger) Note(ctx context.Context, e audit.Entry) error {
	if err := l.lock(ctx); err != nil {
		return err
	}
	defer l.unlock()
	return l.transact(ctx, nil, func(*moment) error { return nil }, e)
}

// errLost ends a transaction that lost against other transactions too often: this server is too
// slow.
var errLost = errors.New("other transactions came first, again and again")

// attempts bounds how often a transaction is proposed again because another one came first.
// Proposals with an unknown outcome do not count: transactLimit bounds them.
const attempts = 1000

// transactLimit bounds the time of one transaction with all its proposals, because its callers
// wait only so long.
const transactLimit = 20 * time.Second

// Bounds of the wait between two proposals with an unknown outcome. The wait grows.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// moment is one proposal in preparation.
type moment struct {
	ctx     context.Context
	ledger  *Ledger
	expects bool // read holds what we expect; nothing was read
	now     time.Time
	latest  time.Time   // latest time in the lane; a clock behind it was set back
	place   audit.Place // place of its first leaf

	read       map[string]kv.Item // :: key -> the item at the moment or later
	conditions []kv.Cond
	writes     []kv.Write
	entries    []audit.Entry
}

// peek reads items without making them conditions of the proposal. It asks the engine only for
// items that were not read before.
func (m *moment) peek(keys ...string) ([]kv.Item, error) {
	var missing []string
	for _, key := range keys {
		if _, ok := m.read[key]; !ok {
			missing = append(missing, key)
		}
	}
	for chunk := range slices.Chunk(missing, kv.MaxOps) {
		if err := m.fetch(chunk); err != nil {
			return nil, err
		}
	}
	var items []kv.Item
	for _, key := range keys {
		items = append(items, m.read[key])
	}
	return items, nil
}

// fetch reads items from the engine in one round trip.
func (m *moment) fetch(keys []string) error {
	items, err := m.ledger.engine.Get(m.ctx, keys...)
	for _, item := range items {
		m.read[item.Key] = item
	}
	return err
}

// get reads items and makes them conditions of the proposal: if another transaction writes one
// of them first, the proposal fails.
func (m *moment) get(keys ...string) ([]kv.Item, error) {
	items, err := m.peek(keys...)
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		m.conditions = append(m.conditions, kv.Cond{Key: item.Key, Mod: item.Mod})
	}
	return items, nil
}

func (m *moment) write(w ...kv.Write) { m.writes = append(m.writes, w...) }

// transact makes one transaction. It consists of what build adds to the moment, and a leaf for
// each entry. build may add entries too. transact builds and proposes again until the
// transaction has happened or build fails. The caller holds the gate. transact reads the end of
// the lane and the first items of ahead, at least one of them, in one round trip.
func (l *Ledger) transact(ctx context.Context, ahead []string, build func(*moment) error, entries ...audit.Entry) error {
	return l.transactFrom(ctx, nil, ahead, build, entries...)
}

// transactFrom is transact with a first moment that reads nothing and holds the expected items
// instead, if there are any.
func (l *Ledger) transactFrom(ctx context.Context, expected map[string]kv.Item, ahead []string, build func(*moment) error, entries ...audit.Entry) error {
	token, err := l.token()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, transactLimit)
	defer cancel()
	var unknown error // set while a proposal of ours may still happen
	pause := firstPause
	for lost := 0; lost < attempts; {
		m := &moment{ctx: ctx, ledger: l, entries: entries, read: map[string]kv.Item{}}
		if expected != nil {
			m.read, m.expects, expected = expected, true, nil
		}
		lane, item, err := m.begin(ahead)
		if err != nil {
			return errors.Join(err, unknown)
		}
		if lane.Token == token {
			l.wake()
			return nil // an earlier proposal of ours happened
		}
		if errors.Is(unknown, kv.ErrFull) {
			return unknown // a full engine has answered: the proposal did not happen and will not
		}
		m.now, m.latest = l.clock().UTC().Round(0), lane.Time
		m.place = audit.Place{Lane: l.lane, Sequence: lane.Sequence + 1}
		reason := build(m)
		switch {
		case reason != nil && m.expects:
			continue // only what was read can be a reason
		case reason == nil && len(m.entries) == 0:
			return nil // nothing is left to do
		case reason != nil && unknown == nil:
			return reason
		case reason != nil:
			// build may have failed because an earlier proposal of ours has just happened.
			err = l.fence(ctx, lane, item)
		default:
			if m.now.After(m.latest) {
				m.latest = m.now
			}
			err = l.propose(m, lane.Head, token)
		}
		switch {
		case err == nil && reason != nil:
			return reason
		case err == nil:
			l.wake()
			return nil
		case errors.Is(err, errLost):
			lost++
		case errors.Is(err, kv.ErrUnknown) && !errors.Is(err, kv.ErrBroken):
			unknown = err
			if !wait(ctx, pause) {
				return errors.Join(context.Cause(ctx), unknown)
			}
			pause = min(2*pause, lastPause)
		default:
			return errors.Join(err, unknown)
		}
	}
	return errors.Join(errLost, unknown)
}

// begin reads the end of the server's lane and makes it a condition. In the same round trip it
// reads as many of the items under ahead as fit.
func (m *moment) begin(ahead []string) (store.Lane, kv.Item, error) {
	end := store.KeyLane(m.ledger.lane)
	if !m.expects {
		if err := m.fetch(append([]string{end}, ahead[:min(len(ahead), kv.MaxOps-1)]...)); err != nil {
			return store.Lane{}, kv.Item{}, err
		}
	}
	items, err := m.get(end)
	if err != nil {
		return store.Lane{}, kv.Item{}, err
	}
	lane, err := store.LaneOf(items[0])
	return lane, items[0], err
}

// fence writes the end of the lane again, unchanged. No proposal made before it can happen
// after it.
func (l *Ledger) fence(ctx context.Context, lane store.Lane, item kv.Item) error {
	return l.once(&moment{ctx: ctx, conditions: []kv.Cond{{Key: item.Key, Mod: item.Mod}}, writes: []kv.Write{store.SetLane(l.lane, lane)}})
}

// once makes one proposal. The error is errLost if another transaction came first.
func (l *Ledger) once(m *moment) error {
	revision, err := l.engine.Commit(m.ctx, m.conditions, m.writes)
	if err == nil && revision == 0 {
		err = errLost
	}
	if err != nil {
		l.known = nil
		return err
	}
	l.learn(m, revision)
	return nil
}

// wait pauses, and reports whether the pause ended before ctx did.
func wait(ctx context.Context, pause time.Duration) bool {
	select {
	case <-time.After(pause):
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *Ledger) propose(m *moment, head audit.Head, token store.Token) error {
	var leaves [][]byte
	for _, e := range m.entries {
		var leaf []byte
		leaf, head = audit.Encode(l.lane, head, m.now, e)
		leaves = append(leaves, leaf)
	}
	m.write(store.SetSegment(l.lane, m.place.Sequence, leaves), store.SetLane(l.lane, store.Lane{Head: head, Token: token, Time: m.latest}))
	return l.once(m)
}

func (l *Ledger) token() (store.Token, error) {
	var t store.Token
	if _, err := io.ReadFull(l.rand, t[:]); err != nil {
		return t, fmt.Errorf("making a token: %w", err)
	}
	return t, nil
}

// wake tells the publisher that leaves wait.
func (l *Ledger) wake() {
	select {
	case l.written <- struct{}{}:
	default:
	}
}
