package faults

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/etcdtest"
)

// engines runs a test in a rig of each engine.
func engines(t *testing.T, do func(*testing.T, *rig)) {
	t.Run("file", func(t *testing.T) { do(t, newRig(t, nil)) })
	t.Run("etcd", func(t *testing.T) { do(t, newRig(t, etcdtest.Start(t, 3))) })
}

// rolled is a disk whose record is replaced again and again, beside the disk that
// boots.
var rolled = pins.UUID{0xd2}

// TestKill ends servers with SIGKILL at random moments of their work: while they
// release, register, replace and confirm records, publish the log, seal keys under
// another key-encryption key, and get another CA. All of this work goes on
// meanwhile.
func TestKill(t *testing.T) {
	engines(t, func(t *testing.T, w *rig) {
		must(t, w.put(w.servers[0], rolled, rolledID))
		l := w.load(6)
		seals := kek.DefaultName
		aims := w.aims(t)
		for i := range rounds(2*len(aims), 204) {
			s := w.servers[i/len(aims)%len(w.servers)]
			l.more(t, 1+rand.Int64N(4))
			waited := aims[i%len(aims)](s)
			s.kill()
			waited.Wait()
			if i%len(aims) == 0 { // the other key-encryption key seals from now on
				seals = other(seals)
			}
			s.configure(seals, other(seals))
			s.start()
		}
		l.more(t, 5)
		w.judge(l)
		w.retire(t, other(seals), seals)
	})
}

func other(name string) string {
	if name == secondKEK {
		return kek.DefaultName
	}
	return secondKEK
}

// aim brings a server to the middle of some work, and returns when the server is to
// be killed. The returned group waits for the requests that started the work.
type aim func(*server) *sync.WaitGroup

// aims returns the kinds of work at which servers are killed. Each runs in the
// background, except the load itself.
func (w *rig) aims(t *testing.T) []aim {
	begin := func(most time.Duration, act func(*server)) aim {
		return func(s *server) *sync.WaitGroup {
			var wg sync.WaitGroup
			wg.Go(func() { act(s) })
			time.Sleep(rand.N(most)) // where in its work it is hit
			return &wg
		}
	}
	return []aim{
		begin(20*time.Millisecond, func(*server) {}),                          // releases and puts of the load
		begin(15*time.Millisecond, func(s *server) { w.roll(s) }),             // a key is replaced
		begin(40*time.Millisecond, func(s *server) { rewrap(s) }),             // secrets are sealed again
		begin(30*time.Millisecond, func(*server) { w.rotate() }),              // the CA changes
		func(s *server) *sync.WaitGroup { return w.publishing(t, s) },         // the log is written
		begin(100*time.Millisecond, func(s *server) { w.roll(s); rewrap(s) }), // one after the other
	}
}

// roll registers a new key of a disk, instead of the old one, or beside it until it
// is confirmed. The server may be killed at any moment. Every change that it
// acknowledged must be in the log.
func (w *rig) roll(s *server) {
	if rand.IntN(2) == 0 {
		w.put(s, rolled, rolledID, func(p *adminapi.Put) { p.Replace = true })
		return
	}
	beside := valuesFor(w.t, w.chip, byte(2+rand.IntN(200)))
	err := w.put(s, rolled, rolledID, func(p *adminapi.Put) {
		p.Beside, p.ReferenceValues, p.HeaderSHA256 = true, beside, pins.Digest{3, byte(rand.IntN(256))}
	})
	if err == nil {
		adminapi.NewClient(s.admin).Confirm(context.Background(), rolled, 0)
	}
}

// rewrap seals all secrets again, unless the server is killed first.
func rewrap(s *server) (inUse []string, err error) {
	for next := ""; ; {
		step, err := adminapi.NewClient(s.admin).Rewrap(context.Background(), next)
		if err != nil || step.Next == "" {
			return step.InUse, err
		}
		next = step.Next
	}
}

// publishing waits until a server writes tiles, or a checkpoint.
func (w *rig) publishing(t *testing.T, s *server) *sync.WaitGroup {
	before := newest(s.logDir())
	w.eventually(t, "a log that is written", func() error {
		if newest(s.logDir()).After(before) {
			return nil
		}
		return os.ErrNotExist
	})
	time.Sleep(rand.N(5 * time.Millisecond)) // where in its work it is hit
	return new(sync.WaitGroup)
}

// newest returns the time of the last change of a file or directory below a
// directory.
func newest(dir string) (at time.Time) {
	filepath.WalkDir(dir, func(_ string, entry os.DirEntry, err error) error {
		if err != nil {
			return nil // the file is gone meanwhile
		}
		if info, err := entry.Info(); err == nil && info.ModTime().After(at) {
			at = info.ModTime()
		}
		return nil
	})
	return at
}

// retire seals all secrets under one key-encryption key, and takes the other key
// away. The servers start and release, so no secret was left under the removed key.
func (w *rig) retire(t *testing.T, gone, stays string) {
	for _, s := range w.servers {
		s.configure(stays, gone)
		s.start()
	}
	w.eventually(t, "a rewrap that ends", func() error {
		inUse, err := rewrap(w.servers[0])
		if err == nil && len(inUse) != 1 {
			t.Fatalf("in use are %q, want %q alone", inUse, stays)
		}
		return err
	})
	for _, s := range w.servers {
		s.stop()
	}
	must(t, os.Remove(w.kek(gone)["file"]))
	for _, s := range w.servers {
		s.configure(stays)
		s.start()
		if got := w.launch(newReportID(t), []string{s.address}); got != gotKey {
			t.Errorf("%s without the old key-encryption key: a launch got %s", s.name, got)
		}
		record, err := adminapi.NewClient(s.admin).Get(t.Context(), rolled)
		if err != nil || record.State != "enabled" {
			t.Errorf("%s: record of the disk that was rolled: %+v, %v", s.name, record, err)
		}
	}
}

// TestRotate: the trust domain's CA changes twice while releases run, and the old
// CA leaves the bundle. A caller with an SVID of the old CA then gets nothing.
func TestRotate(t *testing.T) {
	w := newRig(t, nil)
	l := w.load(4)
	for range rounds(3, 20) {
		l.more(t, 3)
		w.rotate()
	}
	l.more(t, 3)
	l.stop()
	stale := w.client(w.servers[0].address) // its SVID will be of a CA that is gone
	fresh := func() error { return w.client(w.servers[0].address).boot(newReportID(t)) }
	must(t, stale.boot(newReportID(t)))
	w.rotate()
	w.eventually(t, "a server that knows the new CA", fresh)
	must(t, stale.boot(newReportID(t))) // both CAs count
	w.drop()
	w.eventually(t, "a server that has forgotten the old CA", func() error {
		if stale.boot(newReportID(t)) == nil {
			return os.ErrExist
		}
		return nil
	})
	must(t, fresh())
}

// TestKillRestore ends a restore with SIGKILL at any moment. It leaves no store or
// a whole one, and the next restore makes the store.
func TestKillRestore(t *testing.T) {
	w := newRig(t, nil)
	s := w.servers[0]
	l := w.load(6)
	l.more(t, 5)
	backup := w.path("backup.db")
	file, err := os.Create(backup)
	must(t, err)
	_, err = adminapi.NewClient(s.admin).Backup(t.Context(), file)
	must(t, err)
	must(t, file.Close())
	l.more(t, int64(rounds(20, 500)))
	l.stop()
	s.stop()
	must(t, os.Remove(s.store()))
	start := time.Now()
	w.run("restore", "--config", s.config, "--backup", backup)
	whole := time.Since(start)
	killed := 0
	for range rounds(5, 60) {
		must(t, os.Remove(s.store()))
		cmd := w.command("restore", "--config", s.config, "--backup", backup)
		must(t, cmd.Start())
		time.Sleep(rand.N(whole)) // where in its work it is hit
		cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed++
		}
		if _, err := os.Stat(s.store()); err != nil {
			w.run("restore", "--config", s.config, "--backup", backup)
		}
		w.run("check", "--config", s.config)
	}
	t.Logf("%d restores were killed", killed)
	entries, err := os.ReadDir(filepath.Dir(s.store()))
	must(t, err)
	for _, entry := range entries {
		if name := entry.Name(); name != filepath.Base(s.store()) && name != filepath.Base(s.logDir()) {
			t.Errorf("%s is left", name)
		}
	}
	s.start()
	l = w.load(4)
	l.more(t, 5)
	w.judge(l)
}

// TestRace asks two servers at once for one launch's key. Both callers have
// evidence of the launch, and only one gets the key.
func TestRace(t *testing.T) {
	w := newRig(t, etcdtest.Start(t, 3))
	w.race(t, rounds(10, 200))
	w.judge(w.load(0))
}

// race runs the race for a number of launches.
func (w *rig) race(t *testing.T, launches int) {
	for range launches {
		report := newReportID(t)
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() { w.contend(report, w.addresses(i)[:1]) })
		}
		wg.Wait()
	}
}
