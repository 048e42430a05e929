package restore_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

// fleet is a book with volumes.
type fleet struct {
	*kmstest.Book
	t testing.TB
}

func (f fleet) put(disk, header byte) {
	f.t.Helper()
	_, err := f.Ledger.Put(f.t.Context(), owner, store.Record{
		Header:   pins.Header{DiskUUID: uuid(disk), HeaderSHA256: pins.Digest{header}},
		SPIFFEID: spiffeid.RequireFromPathf(spiffeid.RequireTrustDomainFromString("example.org"), "/vm/%d", disk),
		Evidence: store.EvidenceRequired, Volume: &store.VolumePolicy{Writers: store.Exclusive, Unclean: store.UncleanRefuse},
	}, values(f.t, disk), key(disk, header), ledger.Replace{Record: true})
	must(f.t, err)
}

func (f fleet) open(disk, launch byte, want keyapi.Found) store.Volume {
	f.t.Helper()
	c := claim(f.t, f.Ledger, disk, launch, false)
	c.Volume = new(store.Volume)
	must(f.t, f.Ledger.Release(f.t.Context(), c))
	if c.Volume.Found != want {
		f.t.Fatalf("volume %d, launch %d: found is %v, want %v", disk, launch, c.Volume.Found, want)
	}
	return *c.Volume
}

func (f fleet) close(v store.Volume) {
	f.t.Helper()
	generation := v.Generation + 1
	commit := keyapi.NewCommit(f.Store.CommitKey(v.DiskUUID, v.Holder), v.DiskUUID, v.Holder, generation, pins.Digest{0xd0, byte(generation)})
	must(f.t, f.Ledger.CloseVolume(f.t.Context(), "127.0.0.1:1", v.DiskUUID, commit))
}

func (f fleet) say(disk byte, event audit.Event, say func(store.Volume, time.Time) (store.Volume, error)) {
	f.t.Helper()
	_, err := f.Ledger.SayOfVolume(f.t.Context(), owner, uuid(disk), ledger.Word{Event: event, Say: say})
	must(f.t, err)
}

// known is all that the book knows of its volumes.
func (f fleet) known(disks byte) map[byte]string {
	f.t.Helper()
	all := map[byte]string{}
	for disk := byte(1); disk <= disks; disk++ {
		v, err := f.Ledger.Records.Volume(f.t.Context(), uuid(disk))
		must(f.t, err)
		text, err := json.Marshal(v)
		must(f.t, err)
		all[disk] = string(text)
	}
	return all
}

// TestRestoreVolumes loses a machine: no volume that has been formatted since the backup is
// new again, and none that has been closed since has an older digest.
func TestRestoreVolumes(t *testing.T) {
	now := noon
	f := fleet{kmstest.New(t, t.TempDir(), func() time.Time { return now }), t}
	const disks = 12
	for disk := byte(1); disk < disks; disk++ {
		f.put(disk, 1)
		if disk > 2 {
			f.close(f.open(disk, 1, keyapi.FoundNew))
		}
	}
	held := f.open(8, 2, keyapi.FoundClosed)
	f.Publish(t)
	copied := filepath.Join(f.Dir, "backup.db")
	f.Backup(t, copied)

	now = now.Add(time.Minute)
	f.close(f.open(1, 3, keyapi.FoundNew))
	f.open(2, 3, keyapi.FoundNew)
	f.close(f.open(3, 3, keyapi.FoundClosed))
	f.open(4, 3, keyapi.FoundClosed)
	f.say(5, audit.VolumeAccept, store.Volume.Accept)
	f.say(6, audit.VolumeRetire, store.Volume.Retire)
	f.say(7, audit.VolumeRestore, func(v store.Volume, now time.Time) (store.Volume, error) { return v.Restore(pins.Digest{7}, now) })
	f.close(held)
	f.say(9, audit.VolumeReset, store.Volume.Reset)
	f.open(10, 3, keyapi.FoundClosed)
	f.say(10, audit.VolumeFree, store.Volume.Free)
	f.put(11, 2) // another volume
	f.put(12, 1) // the key of neither is in a backup
	f.close(f.open(12, 3, keyapi.FoundNew))
	f.Publish(t)

	before := f.known(disks)
	result, err := f.Restore(t, copied)
	must(t, err)
	if diff := cmp.Diff(before, f.known(disks)); diff != "" {
		t.Errorf("volumes before (-) and after (+) the restore:\n%s", diff)
	}
	if len(result.Lost) != 2 {
		t.Errorf("got %+v, want the keys of volumes 11 and 12 lost", result)
	}
	c := claim(t, f.Ledger, 4, 9, false)
	c.Volume = new(store.Volume)
	if err := f.Ledger.Release(t.Context(), c); !errors.Is(err, store.ErrHeld) {
		t.Errorf("a volume that was open: got error %v, want ErrHeld", err)
	}
	f.put(12, 1) // the owner has its key
	f.close(f.open(12, 9, keyapi.FoundClosed))
	f.Leaves(t) // the log goes on, and is whole
}
