package ledger_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

// gathering is a ledger in a bubble, where time goes on only while all wait.
type gathering struct {
	t *testing.T
	*ledger.Ledger
	record store.Record
	engine *trips
	begin  time.Time
	wg     sync.WaitGroup
}

func newGathering(t *testing.T) *gathering {
	b := kmstest.New(t, t.TempDir(), time.Now)
	g := &gathering{t: t, record: put(t, b.Ledger, 1, false), engine: &trips{Engine: b.Engine}}
	g.Ledger, g.begin = b.Replica("other", g.engine), time.Now()
	return g
}

func peer(i byte) string { return fmt.Sprintf("192.0.2.1:%d", i) }

// release asks for a release to a peer.
func (g *gathering) release(launch, from byte) {
	g.wg.Go(func() {
		c := claim(g.record, launch, launch, true)
		c.About.Remote = peer(from)
		if err := g.Release(g.t.Context(), c); err != nil {
			g.t.Errorf("launch %d: %v", launch, err)
		}
	})
}

// took checks how long all releases took, and with how many transactions.
func (g *gathering) took(want time.Duration, transactions int) {
	g.t.Helper()
	g.wg.Wait()
	if took := time.Since(g.begin); took != want || g.engine.proposals != transactions {
		g.t.Errorf("it took %v and %d transactions, want %v and %d", took, g.engine.proposals, want, transactions)
	}
}

// TestGather: releases wait for each other if there are enough, and not longer than they must.
func TestGather(t *testing.T) {
	for name, c := range map[string]struct {
		announced, come byte
		wait            time.Duration
		transactions    int
	}{
		"alone":                     {1, 1, 0, 1},
		"nothing announced":         {0, 1, 0, 1},
		"few, and nobody comes":     {4, 1, 0, 1},
		"several, and nobody comes": {5, 1, 20 * time.Millisecond, 1},
		"several, and some come":    {10, 5, 20 * time.Millisecond, 1},
		"several, and all come":     {10, 10, 0, 1},
		"plenty come":               {200, 16, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGathering(t)
				for i := range c.announced {
					g.Announce(peer(i))
				}
				for i := range c.come {
					g.release(i, i)
				}
				g.took(c.wait, c.transactions)
			})
		})
	}
}

// TestGatherEnds: the wait ends when the last one that was announced comes or is refused.
func TestGatherEnds(t *testing.T) {
	for name, c := range map[string]struct {
		late func(*gathering) // 7 ms after the others
		wait time.Duration
	}{
		"it comes":           {func(g *gathering) { g.release(9, 9) }, 7 * time.Millisecond},
		"it is refused":      {func(g *gathering) { g.Retract(peer(9)) }, 7 * time.Millisecond},
		"nothing comes":      {func(*gathering) {}, 20 * time.Millisecond},
		"another is refused": {func(g *gathering) { g.Retract(peer(8)) }, 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGathering(t)
				for _, i := range []byte{0, 1, 2, 3, 4, 5, 9} {
					g.Announce(peer(i))
				}
				for i := range byte(6) {
					g.release(i, i)
				}
				time.Sleep(7 * time.Millisecond)
				c.late(g)
				g.took(c.wait, 1)
			})
		})
	}
}

// TestAnnounced: an announcement counts once for each peer, for 50 ms, and there are not too many.
func TestAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGathering(t)
		coming := func(want int, when string) {
			t.Helper()
			if got := g.Coming(); got != want {
				t.Errorf("%s: %d are coming, want %d", when, got, want)
			}
		}
		g.Announce(peer(1))
		g.Announce(peer(1))
		g.Announce(peer(2))
		coming(2, "at once")
		time.Sleep(30 * time.Millisecond)
		g.Announce(peer(2))
		time.Sleep(30 * time.Millisecond)
		coming(1, "one again, and the other too old")
		g.release(2, 2)
		g.took(60*time.Millisecond, 1)
		coming(0, "after the release")
		for i := range 5000 {
			g.Announce(fmt.Sprint(i))
		}
		coming(1024, "a flood")
		time.Sleep(51 * time.Millisecond)
		g.Announce(peer(3))
		coming(1, "after the flood")
	})
}

// TestGatherOnce: copies of a request have a transaction each (and all but the first expect wrongly
// that it is the first), and only the first one waits.
func TestGatherOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGathering(t)
		for i := range byte(12) {
			g.Announce(peer(i))
		}
		for i := range byte(6) {
			g.release(1, i)
		}
		g.took(20*time.Millisecond, 1+5*2)
	})
}

// TestGatherLeavesGate: refused requests are not waited for. Their notes wait for the release.
func TestGatherLeavesGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGathering(t)
		for i := range byte(8) {
			g.Announce(peer(i))
		}
		g.release(0, 0)
		synctest.Wait()
		for i := range byte(8) { // they are refused
			g.Retract(peer(i))
			g.wg.Go(func() {
				if err := g.Note(t.Context(), audit.Entry{Event: audit.Start, About: audit.AboutStart{}}); err != nil {
					t.Error(err)
				}
			})
		}
		g.took(0, 9)
	})
}
