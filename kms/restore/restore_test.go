package restore_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/restore"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

var (
	noon  = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	owner = audit.Actor{Name: "owner"}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func uuid(disk byte) pins.UUID { return pins.UUID{disk} }

func key(disk, generation byte) []byte {
	return bytes.Repeat([]byte{disk*16 + generation}, keyapi.KeySize)
}

func values(t testing.TB, m ...byte) []byte {
	t.Helper()
	var all []refval.Measurement
	for _, m := range m {
		all = append(all, refval.Measurement{Digest: snp.Measurement{m}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured,
			Provenance: refval.Provenance{KernelSHA256: pins.Digest{1}}, Gate: refval.GateNone, VCPUs: 1, CPUType: "EPYC-v4"})
	}
	data, err := refval.New(refval.EmulatedARK(pins.Digest{1}), all).Encode()
	must(t, err)
	return data
}

func put(t testing.TB, l *ledger.Ledger, disk, generation byte, how ledger.Replace) {
	t.Helper()
	_, err := l.Put(t.Context(), owner, store.Record{
		Header:   pins.Header{DiskUUID: uuid(disk), HeaderSHA256: pins.Digest{generation}},
		SPIFFEID: spiffeid.RequireFromPathf(spiffeid.RequireTrustDomainFromString("example.org"), "/vm/%d", disk),
		Evidence: store.EvidenceRequired,
	}, values(t, disk*16+generation), key(disk, generation), how)
	must(t, err)
}

func release(t testing.TB, l *ledger.Ledger, disk, launch byte, staged bool) error {
	t.Helper()
	return l.Release(t.Context(), claim(t, l, disk, launch, staged))
}

func claim(t testing.TB, l *ledger.Ledger, disk, launch byte, staged bool) ledger.Claim {
	t.Helper()
	current, beside, err := l.Records.Both(t.Context(), uuid(disk))
	must(t, err)
	r := current
	if staged {
		r = beside
	}
	proof := &audit.Proof{Time: noon, SPKI: []byte("spki"), Report: []byte("report"), Certificates: []pins.Digest{}, ReferenceValues: r.ReferenceValues,
		Collateral: collateral(t, l)}
	return ledger.Claim{Record: *r, Launch: store.Launch{ReportID: snp.ReportID{launch}}, Fresh: true,
		About: audit.AboutRelease{Request: audit.Request{SPIFFEID: r.SPIFFEID.String(), Disk: uuid(disk), SHA256: pins.Digest{launch}, ReportID: snp.ReportID{launch}},
			Generation: r.Generation, Proof: proof}}
}

func collateral(t testing.TB, l *ledger.Ledger) pins.Digest {
	t.Helper()
	digest, err := l.Records.PutBlob(t.Context(), audit.CollateralList{Certificates: []pins.Digest{}, CRLs: []pins.Digest{}}.Encode())
	must(t, err)
	return digest
}

// TestRestore loses a machine: what was released since the backup is not released again, and
// what was changed since is as it was changed.
func TestRestore(t *testing.T) {
	now := noon
	b := kmstest.New(t, t.TempDir(), func() time.Time { return now })
	l, ctx := b.Ledger, t.Context()
	for disk := byte(1); disk <= 8; disk++ {
		put(t, l, disk, 1, ledger.Replace{})
	}
	put(t, l, 6, 2, ledger.Replace{Beside: true})
	put(t, l, 7, 2, ledger.Replace{Record: true})
	must(t, release(t, l, 1, 1, false))
	copied := filepath.Join(b.Dir, "backup.db")
	b.Publish(t)
	must(t, l.SetState(ctx, owner, uuid(8), store.Disabled)) // in the backup, and not in the log yet
	b.Backup(t, copied)

	now = now.Add(time.Minute)
	must(t, release(t, l, 1, 2, false))
	must(t, release(t, l, 6, 3, true))
	must(t, l.SetState(ctx, owner, uuid(2), store.Disabled))
	must(t, l.Delete(ctx, owner, uuid(3)))
	must(t, l.Update(ctx, owner, uuid(4), ledger.Update{Values: values(t, 0x4a), KeepBefore: time.Hour}))
	put(t, l, 5, 2, ledger.Replace{Record: true}) // its key is in no backup
	must(t, l.Confirm(ctx, owner, uuid(6), 0))
	must(t, l.Restore(ctx, owner, uuid(7), 1))
	put(t, l, 9, 1, ledger.Replace{}) // nor is this one
	if _, err := l.Purge(ctx, owner, uuid(6), 1, true); err != nil {
		t.Fatal(err)
	}
	b.Publish(t)

	result, err := b.Restore(t, copied)
	must(t, err)
	if result.Releases != 2 || len(result.Lost) != 2 || result.Lost[0].Disk != uuid(5) || result.Lost[1].Disk != uuid(9) {
		t.Errorf("got %+v, want 2 releases, and the keys of disks 5 and 9 lost", result)
	}
	l = b.Ledger
	now = now.Add(kmstest.RetryWindow + time.Second)
	for _, x := range []struct{ disk, launch byte }{{1, 1}, {1, 2}, {6, 3}} {
		if err := release(t, l, x.disk, x.launch, false); !errors.Is(err, ledger.ErrReleased) {
			t.Errorf("disk %d, launch %d: got error %v, want ErrReleased", x.disk, x.launch, err)
		}
	}
	must(t, release(t, l, 1, 9, false))

	type want struct {
		generation uint64
		state      store.State
	}
	for disk, want := range map[byte]want{1: {1, "enabled"}, 2: {1, "disabled"}, 3: {}, 4: {1, "enabled"}, 5: {}, 6: {2, "enabled"}, 7: {1, "enabled"}, 8: {1, "disabled"}, 9: {}} {
		r, err := l.Records.Get(ctx, uuid(disk))
		if want.generation == 0 {
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("disk %d: got %+v, %v, want no record", disk, r, err)
			}
			continue
		}
		if err != nil || r.Generation != want.generation || r.State != want.state {
			t.Errorf("disk %d: got generation %d, %s, %v, want %+v", disk, r.Generation, r.State, err, want)
			continue
		}
		if k, err := l.Records.Key(r); err != nil || !bytes.Equal(k, key(disk, byte(want.generation))) {
			t.Errorf("disk %d: got another key: %v", disk, err)
		}
	}
	four, err := l.Records.Get(ctx, uuid(4))
	must(t, err)
	if len(four.Accepts(now)) != 2 || len(four.Accepts(now.Add(2*time.Hour))) != 1 {
		t.Errorf("disk 4 accepts %v", four.Accepts(now))
	}
	for disk, n := range map[byte]int{3: 1, 5: 1, 6: 0, 7: 1} {
		if kept, err := l.Records.KeptOf(ctx, uuid(disk)); err != nil || len(kept) != n {
			t.Errorf("disk %d: %d records are kept, %v, want %d", disk, len(kept), err, n)
		}
	}
	if n, err := l.Records.Count(ctx); n != 6 || err != nil {
		t.Errorf("there are %d records, %v, want 6", n, err)
	}
	put(t, l, 5, 3, ledger.Replace{})
	if r, err := l.Records.Get(ctx, uuid(5)); err != nil || r.Generation != 3 {
		t.Errorf("disk 5 anew: got generation %d, %v, want 3", r.Generation, err)
	}
	b.Leaves(t) // the log goes on, and is whole
}

// TestRestoreOfNow changes nothing where nothing came after the backup.
func TestRestoreOfNow(t *testing.T) {
	b := kmstest.New(t, t.TempDir(), func() time.Time { return noon })
	put(t, b.Ledger, 1, 1, ledger.Replace{})
	copied := filepath.Join(b.Dir, "backup.db")
	b.Backup(t, copied)
	result, err := b.Restore(t, copied)
	must(t, err)
	if result.Leaves != 0 || result.Changed != 0 {
		t.Errorf("got %+v, want nothing", result)
	}
	must(t, release(t, b.Ledger, 1, 1, false))
	b.Leaves(t)
}

// TestOldLog: with an older log than the backup's nothing is restored.
func TestOldLog(t *testing.T) {
	b := kmstest.New(t, t.TempDir(), func() time.Time { return noon })
	old := filepath.Join(b.Dir, "old-log")
	must(t, os.CopyFS(old, os.DirFS(filepath.Join(b.Dir, "log"))))
	put(t, b.Ledger, 1, 1, ledger.Replace{})
	b.Publish(t)
	copied := filepath.Join(b.Dir, "backup.db")
	b.Backup(t, copied)
	must(t, os.RemoveAll(filepath.Join(b.Dir, "log")))
	must(t, os.Rename(old, filepath.Join(b.Dir, "log")))
	if _, err := b.Restore(t, copied); !errors.Is(err, restore.ErrOldLog) {
		t.Errorf("got error %v, want ErrOldLog", err)
	}
}
