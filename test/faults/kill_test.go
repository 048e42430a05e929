package faults

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/test/etcdtest"
)

// engines are the worlds that each fault of a server happens in.
func engines(t *testing.T, do func(*testing.T, *world)) {
	t.Run("file", func(t *testing.T) { do(t, newWorld(t, nil)) })
	t.Run("etcd", func(t *testing.T) { do(t, newWorld(t, etcdtest.Start(t, 3))) })
}

// TestKill ends servers with SIGKILL at moments of their work that nobody chose: while they
// take puts, release and publish.
func TestKill(t *testing.T) {
	engines(t, func(t *testing.T, w *world) {
		l := w.load(6)
		for i := range rounds(10, 200) {
			l.more(t, 1+rand.Int64N(4))
			time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond) // where in its work it is hit
			s := w.servers[i%len(w.servers)]
			s.kill()
			s.start()
		}
		l.more(t, 5)
		w.judge(l)
	})
}

// TestRace has two servers asked for one launch's key at once, by two that each have
// evidence of it: one gets it.
func TestRace(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t, 3))
	w.race(t, rounds(10, 200))
	w.judge(w.load(0))
}

// race has so many launches raced for.
func (w *world) race(t *testing.T, launches int) {
	for range launches {
		report := newReportID(t)
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() { w.contend(report, w.addresses(i)[:1]) })
		}
		wg.Wait()
	}
}
