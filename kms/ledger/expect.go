package ledger

import (
	"errors"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
)

// A release proposes first what it expects, without a read: that nobody changed a record since
// our newest transaction, and that the launch has no lease. All of this is a condition of the
// proposal. So if one expectation is wrong, the proposal does not happen, and the next one is
// built from what the engine says. Nothing is ever refused on an expectation. With a cluster this
// halves the round trips of a release.

// errExpected says that a proposal cannot be built from what is expected.
var errExpected = errors.New("items have to be read first")

// expect returns the items that a batch most likely finds, or nil if the batch has to read them.
// The items of records have no value.
func (l *Ledger) expect(batch []*claim) map[string]kv.Item {
	read := map[string]kv.Item{}
	for _, key := range []string{store.KeyLane(l.lane), store.KeyEpoch} {
		item, ok := l.known[key]
		if !ok {
			return nil
		}
		read[key] = item
	}
	for _, c := range batch {
		if c.Record.MaxReleases > 0 || c.Record.Volume != nil {
			return nil // the count of releases, and the state of a volume, are known from reads alone
		}
		record := c.Record.Item()
		if other, ok := read[record]; ok && other.Mod != c.Record.Mod() {
			return nil // the record was changed between two of these claims
		}
		read[record] = kv.Item{Key: record, Mod: c.Record.Mod()}
		lease := store.KeyLease(c.Record.DiskUUID, c.Launch)
		read[lease] = kv.Item{Key: lease}
	}
	if len(read) > kv.MaxOps {
		return nil // each is a condition
	}
	return read
}

// learn keeps the end of the lane and the epoch as a transaction of ours left them.
func (l *Ledger) learn(m *moment, revision int64) {
	if l.known == nil {
		l.known = map[string]kv.Item{}
	}
	ours := func(key string) bool { return key == store.KeyLane(l.lane) || key == store.KeyEpoch }
	for _, c := range m.conditions {
		if item, ok := m.read[c.Key]; ok && ours(c.Key) {
			l.known[c.Key] = item
		}
	}
	for _, w := range m.writes {
		if ours(w.Key) {
			l.known[w.Key] = kv.Item{Key: w.Key, Value: w.Value, Mod: revision}
		}
	}
}

// expectRecords makes the records of a batch conditions, unless they were read. Records that were
// read with the epoch need no condition of their own.
func (m *moment) expectRecords(batch []*claim) {
	seen := map[string]bool{}
	for _, c := range batch {
		if key := c.Record.Item(); m.expects && !seen[key] {
			seen[key] = true
			m.conditions = append(m.conditions, kv.Cond{Key: key, Mod: m.read[key].Mod})
		}
	}
}
