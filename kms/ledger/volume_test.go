package ledger_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/replay"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

// volumes is a book with one volume.
type volumes struct {
	*kmstest.Book
	t      *testing.T
	record store.Record
}

func newVolumes(t *testing.T, writers store.Writers) volumes {
	v := volumes{Book: newBook(t), t: t}
	v.put(writers, pins.Digest{2})
	t.Cleanup(v.judge)
	return v
}

// judge holds the log against itself, as an auditor does.
func (v volumes) judge() {
	judge := replay.NewJudge("", kmstest.RetryWindow)
	for _, leaf := range v.Leaves(v.t) {
		if err := judge.Next(leaf); err != nil {
			v.t.Errorf("leaf %s (%s): %v", leaf.Place, leaf.Event, err)
		}
	}
}

// An auditor finds what the log says wrongly of volumes.
func TestVolumeJudge(t *testing.T) {
	v := newVolumes(t, store.Exclusive)
	first := v.mustOpen(1, keyapi.FoundNew)
	v.mustClose(first, 1, 0xd1)
	v.mustClose(v.mustOpen(2, keyapi.FoundClosed), 2, 0xd2)
	for name, change := range map[string]func(*audit.Leaf){
		"new twice": func(l *audit.Leaf) {
			if r, ok := l.About.(audit.AboutRelease); ok && r.Volume.Generation == 1 {
				told := *r.Volume
				told.Found = keyapi.FoundNew
				r.Volume = &told
				l.About = r
			}
		},
		"rolled back": func(l *audit.Leaf) {
			if r, ok := l.About.(audit.AboutRelease); ok && r.Volume.Generation == 1 {
				told := *r.Volume
				told.Digest = pins.Digest{0xd0}
				r.Volume = &told
				l.About = r
			}
		},
		"released as a disk": func(l *audit.Leaf) {
			if r, ok := l.About.(audit.AboutRelease); ok {
				r.Volume = nil
				l.About = r
			}
		},
		"closed by another": func(l *audit.Leaf) {
			if r, ok := l.About.(audit.AboutVolume); ok {
				r.Holder = keyapi.Holder{9}
				l.About = r
			}
		},
		"not closed": func(l *audit.Leaf) {
			if l.Event == audit.VolumeClose {
				l.Event = audit.VolumeFork
			}
		},
	} {
		judge, found := replay.NewJudge("", kmstest.RetryWindow), false
		for _, leaf := range v.Leaves(t) {
			change(&leaf)
			found = found || judge.Next(leaf) != nil
		}
		if !found {
			t.Errorf("%s: the judge finds nothing", name)
		}
	}
}

func (v *volumes) put(writers store.Writers, header pins.Digest) {
	v.t.Helper()
	var err error
	v.record, err = v.Ledger.Put(v.t.Context(), audit.Actor{Name: "test"}, store.Record{
		Header: pins.Header{DiskUUID: pins.UUID{1}, HeaderSHA256: header}, SPIFFEID: vmID, Evidence: store.EvidenceNotRequired, SameVM: true,
		Volume: &store.VolumePolicy{Writers: writers, Unclean: store.UncleanRefuse},
	}, nil, key, ledger.Replace{Record: true})
	if err != nil {
		v.t.Fatal(err)
	}
}

// open asks for the volume in the name of a launch.
func (v volumes) open(launch, request byte) (store.Volume, error) {
	c := claim(v.record, launch, request, true)
	c.Volume = new(store.Volume)
	err := v.Ledger.Release(v.t.Context(), c)
	return *c.Volume, err
}

func (v volumes) mustOpen(launch byte, want keyapi.Found) store.Volume {
	v.t.Helper()
	got, err := v.open(launch, launch)
	if err != nil || got.Found != want {
		v.t.Fatalf("launch %d: got %+v, %v, want found %v", launch, got, err, want)
	}
	return got
}

// close commits generation and digest for who opened.
func (v volumes) close(opened store.Volume, generation uint64, digest byte) error {
	r := keyapi.NewCommit(v.Store.CommitKey(opened.DiskUUID, opened.Holder), opened.DiskUUID, opened.Holder, generation, pins.Digest{digest})
	return v.Ledger.CloseVolume(v.t.Context(), "127.0.0.1:1", opened.DiskUUID, r)
}

func (v volumes) mustClose(opened store.Volume, generation uint64, digest byte) {
	v.t.Helper()
	if err := v.close(opened, generation, digest); err != nil {
		v.t.Fatal(err)
	}
}

func (v volumes) say(event audit.Event, say func(store.Volume, time.Time) (store.Volume, error)) error {
	_, err := v.Ledger.SayOfVolume(v.t.Context(), audit.Actor{Name: "operator"}, v.record.DiskUUID, ledger.Word{Event: event, Say: say})
	return err
}

func (v volumes) mustSay(event audit.Event, say func(store.Volume, time.Time) (store.Volume, error)) {
	v.t.Helper()
	if err := v.say(event, say); err != nil {
		v.t.Fatal(err)
	}
}

// A volume is new once, whatever becomes of the launch that was told so, and each close is
// one generation.
func TestVolumeGenerations(t *testing.T) {
	v := newVolumes(t, store.Exclusive)
	first := v.mustOpen(1, keyapi.FoundNew)
	v.mustClose(first, 1, 0xd1)
	v.mustClose(first, 1, 0xd1) // the reply was lost
	second := v.mustOpen(2, keyapi.FoundClosed)
	if second.Generation != 1 || second.Digest != (pins.Digest{0xd1}) {
		t.Errorf("second launch is told generation %d, digest %s", second.Generation, second.Digest)
	}
	if err := v.close(first, 1, 0xd1); !errors.Is(err, store.ErrFork) {
		t.Errorf("first launch closes again: got %v, want ErrFork", err)
	}
	for _, generation := range []uint64{1, 3} {
		if err := v.close(second, generation, 0xd2); !errors.Is(err, store.ErrFork) {
			t.Errorf("generation %d: got %v, want ErrFork", generation, err)
		}
	}
	v.mustClose(second, 2, 0xd2)
	if third := v.mustOpen(3, keyapi.FoundClosed); third.Generation != 2 || third.Digest != (pins.Digest{0xd2}) {
		t.Errorf("third launch is told generation %d, digest %s", third.Generation, third.Digest)
	}
	leaves := v.Leaves(t)
	if closes, forks := events(leaves, audit.VolumeClose), events(leaves, audit.VolumeFork); closes != 2 || forks != 3 {
		t.Errorf("log has %d closes and %d forks, want 2 and 3", closes, forks)
	}
}

// The very same request is told the very same, while that is true.
func TestVolumeLostReply(t *testing.T) {
	v := newVolumes(t, store.Takeover)
	first := v.mustOpen(1, keyapi.FoundNew)
	if again := v.mustOpen(1, keyapi.FoundNew); again.Holder != first.Holder {
		t.Errorf("holder is %s, then %s", first.Holder, again.Holder)
	}
	v.mustOpen(2, keyapi.FoundUnclean)
	if _, err := v.open(1, 1); !errors.Is(err, ledger.ErrReleased) {
		t.Errorf("after a takeover: got %v, want ErrReleased", err)
	}
	if _, err := v.open(2, 9); !errors.Is(err, ledger.ErrReleased) {
		t.Errorf("another request of the same launch: got %v, want ErrReleased", err)
	}
}

// With exclusive writers a second launch waits until the first launch closes the volume, or
// the operator frees it. After that the first launch can no longer close the volume.
func TestVolumeExclusive(t *testing.T) {
	v := newVolumes(t, store.Exclusive)
	first := v.mustOpen(1, keyapi.FoundNew)
	if _, err := v.open(2, 2); !errors.Is(err, store.ErrHeld) {
		t.Fatalf("second launch: got %v, want ErrHeld", err)
	}
	v.mustSay(audit.VolumeFree, store.Volume.Free)
	if err := v.close(first, 1, 1); !errors.Is(err, store.ErrFork) {
		t.Errorf("close after the operator's word: got %v, want ErrFork", err)
	}
	second := v.mustOpen(2, keyapi.FoundUnclean)
	v.mustClose(second, 1, 5)
	v.mustOpen(3, keyapi.FoundClosed)
}

// With takeover the newest launch counts.
func TestVolumeTakeover(t *testing.T) {
	v := newVolumes(t, store.Takeover)
	first := v.mustOpen(1, keyapi.FoundNew)
	second := v.mustOpen(2, keyapi.FoundUnclean)
	if err := v.close(first, 1, 1); !errors.Is(err, store.ErrFork) {
		t.Errorf("close by the first: got %v, want ErrFork", err)
	}
	v.mustClose(second, 1, 2)
	for _, leaf := range v.Leaves(t) {
		if r, ok := leaf.About.(audit.AboutRelease); ok && r.Volume.Found == keyapi.FoundUnclean && r.Volume.Before != (store.Launch{Nonce: [32]byte{1}}).String() {
			t.Errorf("the log does not say who had it: %+v", r.Volume)
		}
	}
}

// Launches that race for a volume: one has it, or each takes it from another, and never is
// it new to two.
func TestVolumeRace(t *testing.T) {
	for _, writers := range []store.Writers{store.Exclusive, store.Takeover} {
		t.Run(string(writers), func(t *testing.T) {
			v := newVolumes(t, writers)
			const launches = 20
			var mu sync.Mutex
			found := map[keyapi.Found]int{}
			var all sync.WaitGroup
			for i := range byte(launches) {
				all.Go(func() {
					opened, err := v.open(i+1, i+1)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						found[opened.Found]++
					} else if !errors.Is(err, store.ErrHeld) {
						t.Error(err)
					}
				})
			}
			all.Wait()
			want := 0
			if writers == store.Takeover {
				want = launches - 1
			}
			if found[keyapi.FoundNew] != 1 || found[keyapi.FoundUnclean] != want {
				t.Errorf("found %v, want one new and %d unclean", found, want)
			}
		})
	}
}

// Each word of the operator fits some states, is on the log, and has its effect.
func TestVolumeWords(t *testing.T) {
	v := newVolumes(t, store.Exclusive)
	refused := func(name string, say func(store.Volume, time.Time) (store.Volume, error)) {
		t.Helper()
		if err := v.say(audit.VolumeFree, say); !errors.Is(err, store.ErrVolumeState) {
			t.Errorf("%s: got %v, want ErrVolumeState", name, err)
		}
	}
	restore := func(v store.Volume, now time.Time) (store.Volume, error) { return v.Restore(pins.Digest{0xbb}, now) }
	refused("free a new one", store.Volume.Free)
	refused("accept a new one", store.Volume.Accept)
	refused("reset a new one", store.Volume.Reset)
	first := v.mustOpen(1, keyapi.FoundNew)
	refused("accept an open one", store.Volume.Accept)
	refused("reset an open one", store.Volume.Reset)
	refused("restore an open one", restore)
	v.mustClose(first, 1, 0xaa)
	refused("free a closed one", store.Volume.Free)

	v.mustSay(audit.VolumeAccept, store.Volume.Accept)
	second := v.mustOpen(2, keyapi.FoundAccepted)
	v.mustClose(second, 2, 0xab)
	third := v.mustOpen(3, keyapi.FoundClosed) // the word counts once
	v.mustClose(third, 3, 0xac)

	v.mustSay(audit.VolumeRestore, restore)
	fourth := v.mustOpen(4, keyapi.FoundClosed)
	if fourth.Generation != 4 || fourth.Digest != (pins.Digest{0xbb}) {
		t.Errorf("after restore: told generation %d, digest %s", fourth.Generation, fourth.Digest)
	}
	v.mustSay(audit.VolumeFree, store.Volume.Free)
	v.mustSay(audit.VolumeReset, store.Volume.Reset)
	fifth := v.mustOpen(5, keyapi.FoundNew)
	v.mustSay(audit.VolumeRetire, store.Volume.Retire)
	if err := v.close(fifth, 1, 1); !errors.Is(err, store.ErrFork) {
		t.Errorf("close of a retired one: got %v, want ErrFork", err)
	}
	if _, err := v.open(6, 6); !errors.Is(err, store.ErrRetired) {
		t.Errorf("open a retired one: got %v, want ErrRetired", err)
	}
	refused("retire it again", store.Volume.Retire)
	leaves := v.Leaves(t)
	for _, event := range []audit.Event{audit.VolumeAccept, audit.VolumeRestore, audit.VolumeFree, audit.VolumeReset, audit.VolumeRetire} {
		if n := events(leaves, event); n != 1 {
			t.Errorf("log has %d of %q, want 1", n, event)
		}
	}
}

// A volume that another server knew is registered here as what it is, and not as new.
func TestVolumeKnownElsewhere(t *testing.T) {
	v := newVolumes(t, store.Exclusive)
	v.mustSay(audit.VolumeRestore, func(v store.Volume, now time.Time) (store.Volume, error) { return v.Restore(pins.Digest{0xbb}, now) })
	if first := v.mustOpen(1, keyapi.FoundClosed); first.Digest != (pins.Digest{0xbb}) || first.Generation != 1 {
		t.Errorf("told generation %d, digest %s", first.Generation, first.Digest)
	}
}

// What is known of a volume outlives its record, as long as it is the same volume.
func TestVolumeReplaced(t *testing.T) {
	v := newVolumes(t, store.Exclusive)
	v.mustClose(v.mustOpen(1, keyapi.FoundNew), 1, 0xaa)
	v.put(store.Takeover, pins.Digest{2})
	v.mustClose(v.mustOpen(2, keyapi.FoundClosed), 2, 0xab)
	if err := v.Ledger.Delete(t.Context(), audit.Actor{Name: "test"}, v.record.DiskUUID); err != nil {
		t.Fatal(err)
	}
	v.put(store.Takeover, pins.Digest{2})
	v.mustOpen(3, keyapi.FoundClosed)
	v.put(store.Takeover, pins.Digest{3})
	v.mustOpen(4, keyapi.FoundNew)
}

// Who can write the store without its KEK cannot say what a volume holds.
func TestVolumeChangedInStore(t *testing.T) {
	v := newVolumes(t, store.Exclusive)
	at := store.KeyVolume(v.record.DiskUUID)
	items, err := v.Store.Engine.Get(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	items[0].Value = []byte(replaceOnce(t, string(items[0].Value), `"changed":"2026`, `"changed":"2025`))
	if _, err := v.Store.VolumeOf(items[0], v.record.DiskUUID); !errors.Is(err, store.ErrForged) {
		t.Errorf("got %v, want ErrForged", err)
	}
	if _, err := v.Store.VolumeOf(items[0], pins.UUID{9}); err == nil {
		t.Error("a state under another volume's key passes")
	}
}

func replaceOnce(t *testing.T, s, old, new string) string {
	t.Helper()
	if !strings.Contains(s, old) {
		t.Fatalf("%q is not in %s", old, s)
	}
	return strings.Replace(s, old, new, 1)
}
