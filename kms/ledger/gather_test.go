package ledger_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestGather: releases wait for each other if there are enough, and not longer than they must. The
// time in the bubble goes on only while all wait.
func TestGather(t *testing.T) {
	for name, c := range map[string]struct {
		others, callers int
		wait            time.Duration
		most            int // transactions
	}{
		"alone":                          {0, 1, 0, 1},
		"few, and nobody comes":          {3, 1, 0, 1},
		"several, and nobody comes":      {4, 1, 20 * time.Millisecond, 1},
		"several, and some come":         {9, 5, 20 * time.Millisecond, 1},
		"several, and all come":          {9, 10, 0, 1},
		"many, and those that come do":   {255, 16, 0, 1},
		"many, and all come":             {39, 40, 20 * time.Millisecond, 3}, // the last have nobody to wait for
		"a count of the server is wrong": {-1, 1, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBook(t)
				record := put(t, b.Ledger, 1, false)
				engine := &trips{Engine: b.Engine}
				l := b.Replica("other", engine)
				begin := time.Now()
				var wg sync.WaitGroup
				for i := range byte(c.callers) {
					wg.Go(func() {
						mine := claim(record, i, i, true)
						mine.Others = c.others
						if err := l.Release(t.Context(), mine); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if waited := time.Since(begin); waited > c.wait || waited < c.wait && c.most == 1 || engine.proposals > c.most {
					t.Errorf("%d releases took %v and %d transactions, want %v and at most %d", c.callers, waited, engine.proposals, c.wait, c.most)
				}
			})
		})
	}
}
