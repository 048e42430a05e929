package store

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.etcd.io/bbolt"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

var (
	noon   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	caller = spiffeid.RequireFromString("spiffe://example.org/vm")
	key    = bytes.Repeat([]byte{0x5e}, keyapi.KeySize)
	values = []byte(`{"a":1}`)
	head   = audit.Head{Sequence: 7, Digest: pins.Digest{7}}
)

var sameID = cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b })

func newKEK(t testing.TB, fill byte) *kek.KEK {
	t.Helper()
	k, err := kek.New(bytes.Repeat([]byte{fill}, kek.Size))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newStore(t testing.TB) (*Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kms.db")
	if err := Create(path, newKEK(t, 1), rand.Reader); err != nil {
		t.Fatal(err)
	}
	return mustOpen(t, path), path
}

func mustOpen(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path, newKEK(t, 1), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func record(disk byte, generation uint64) Record {
	return Record{
		Header:     pins.Header{DiskUUID: pins.UUID{disk}, HeaderSHA256: pins.Digest{0xbb}},
		SPIFFEID:   caller,
		Evidence:   EvidenceRequired,
		State:      Enabled,
		Generation: generation,
		Created:    noon,
		Changed:    noon,
	}
}

func mustPut(t testing.TB, s *Store, r Record) Record {
	t.Helper()
	if err := s.Put(r, values, key, head); err != nil {
		t.Fatal(err)
	}
	r, err := s.Get(r.DiskUUID)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPutGet(t *testing.T) {
	s, path := newStore(t)
	r := mustPut(t, s, record(1, 1))
	mustPut(t, s, record(2, 1))
	s.Close()
	s = mustOpen(t, path)

	got, err := s.Get(pins.UUID{1})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got, sameID); diff != "" {
		t.Error(diff)
	}
	gotKey, err := s.Key(got)
	if err != nil || !bytes.Equal(gotKey, key) {
		t.Errorf("got key %x, %v", gotKey, err)
	}
	if v, err := s.Values(got); err != nil || !bytes.Equal(v, values) {
		t.Errorf("got values %s, %v", v, err)
	}
	if _, err := s.Get(pins.UUID{3}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got error %v, want ErrNotFound", err)
	}
	if all, err := s.List(); err != nil || len(all) != 2 {
		t.Errorf("got %d records, %v, want 2", len(all), err)
	}
	if h, err := s.Head(); err != nil || h != head {
		t.Errorf("got head %v, %v", h, err)
	}
	for _, c := range []struct {
		id   string
		want int
	}{{caller.String(), 2}, {caller.String() + "2", 0}, {"spiffe://example.org/v", 0}} {
		id := spiffeid.RequireFromString(c.id)
		known, err := s.KnowsCaller(id)
		if err != nil || known != (c.want > 0) {
			t.Errorf("%s: got %t, %v", id, known, err)
		}
		if found, err := s.ByCaller(id); err != nil || len(found) != c.want {
			t.Errorf("%s: got %d records, %v, want %d", id, len(found), err, c.want)
		}
	}

	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, key) {
		t.Error("the key is in the file in the clear")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info.Mode(), err)
	}
}

func TestGenerations(t *testing.T) {
	s, _ := newStore(t)
	r := mustPut(t, s, record(1, 1))
	if err := s.Put(record(1, 1), values, key, head); err == nil {
		t.Error("put generation 1 twice")
	}
	if err := s.Delete(r.DiskUUID, head); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(r.DiskUUID, head); !errors.Is(err, ErrNotFound) {
		t.Errorf("second Delete: got error %v, want ErrNotFound", err)
	}
	if known, err := s.KnowsCaller(caller); err != nil || known {
		t.Errorf("after Delete the caller is known: %t, %v", known, err)
	}
	if next, err := s.NextGeneration(r.DiskUUID); err != nil || next != 2 {
		t.Errorf("next generation after Delete is %d, %v, want 2", next, err)
	}
	other := record(1, 2)
	other.SPIFFEID = spiffeid.RequireFromString("spiffe://example.org/other")
	mustPut(t, s, other)
	mustPut(t, s, record(1, 3))
	if known, err := s.KnowsCaller(other.SPIFFEID); err != nil || known {
		t.Errorf("the caller of a replaced record is known: %t, %v", known, err)
	}
}

func TestSetState(t *testing.T) {
	s, _ := newStore(t)
	r := mustPut(t, s, record(1, 1))
	if err := s.SetState(r.DiskUUID, Disabled, noon.Add(time.Hour), head); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(r.DiskUUID)
	if err != nil || got.State != Disabled || !got.Changed.Equal(noon.Add(time.Hour)) {
		t.Errorf("got %+v, %v", got, err)
	}
	if current, err := s.Current(r); err != nil || current {
		t.Errorf("the old record is current: %t, %v", current, err)
	}
	if current, err := s.Current(got); err != nil || !current {
		t.Errorf("the record is not current: %t, %v", current, err)
	}
	if _, err := s.Key(r); !errors.Is(err, kek.ErrWrongKey) {
		t.Errorf("key of the old record: got error %v, want ErrWrongKey", err)
	}
	if k, err := s.Key(got); err != nil || !bytes.Equal(k, key) {
		t.Errorf("key of the disabled record: got %x, %v", k, err)
	}
	if err := s.SetState(pins.UUID{9}, Enabled, noon, head); !errors.Is(err, ErrNotFound) {
		t.Errorf("got error %v, want ErrNotFound", err)
	}
}

// TestChangedFile is someone who can write the file, but has no key-encryption
// key.
func TestChangedFile(t *testing.T) {
	s, _ := newStore(t)
	r := mustPut(t, s, record(1, 1))
	mustPut(t, s, record(2, 1))
	change := func(bucket string, f func(b *bbolt.Bucket) error) {
		t.Helper()
		if err := s.db.Update(func(tx *bbolt.Tx) error { return f(tx.Bucket([]byte(bucket))) }); err != nil {
			t.Fatal(err)
		}
	}
	one, two := pins.UUID{1}, pins.UUID{2}

	change(bucketRecords, func(b *bbolt.Bucket) error {
		return b.Put(one[:], bytes.Replace(r.encode(), []byte("example.org/vm"), []byte("example.org/me"), 1))
	})
	got, err := s.Get(one)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Key(got); !errors.Is(err, kek.ErrWrongKey) {
		t.Errorf("record with another caller: got error %v, want ErrWrongKey", err)
	}
	change(bucketRecords, func(b *bbolt.Bucket) error { return b.Put(one[:], b.Get(two[:])) })
	if _, err := s.Get(one); err == nil {
		t.Error("got the record of another disk")
	}
	change(bucketRecords, func(b *bbolt.Bucket) error { return b.Put(one[:], r.encode()) })
	change(bucketKeys, func(b *bbolt.Bucket) error { return b.Put(one[:], bytes.Clone(b.Get(two[:]))) })
	if _, err := s.Key(r); !errors.Is(err, kek.ErrWrongKey) {
		t.Errorf("key of another disk: got error %v, want ErrWrongKey", err)
	}
	change(bucketValues, func(b *bbolt.Bucket) error { return b.Put(one[:], []byte(`{"a":2}`)) })
	if _, err := s.Values(r); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("other reference values: got error %v", err)
	}
	change(bucketRecords, func(b *bbolt.Bucket) error { return b.Put(one[:], []byte(`{}`)) })
	if _, err := s.List(); err == nil {
		t.Error("listed a broken record")
	}
}

func TestPutRefuses(t *testing.T) {
	s, _ := newStore(t)
	for _, c := range []struct {
		name   string
		change func(*Record)
		values []byte
		key    []byte
		want   string
	}{
		{"no caller", func(r *Record) { r.SPIFFEID = spiffeid.ID{} }, values, key, "spiffe_id is empty"},
		{"no pin", func(r *Record) { r.HeaderSHA256 = pins.Digest{} }, values, key, "luks2_header_sha256"},
		{"no state", func(r *Record) { r.State = "" }, values, key, `state is ""`},
		{"no rule", func(r *Record) { r.Evidence = "" }, values, key, `evidence is ""`},
		{"no values", func(r *Record) {}, nil, key, "reference_values_sha256 is absent"},
		{"short key", func(r *Record) {}, values, key[1:], "31 bytes"},
		{"generation", func(r *Record) { r.Generation = 2 }, values, key, "generation is 2, want 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := record(1, 1)
			c.change(&r)
			if err := s.Put(r, c.values, c.key, head); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
	r := record(1, 1)
	r.Evidence = EvidenceNotRequired
	if err := s.Put(r, nil, key, head); err != nil {
		t.Error(err)
	}
}

func TestReleases(t *testing.T) {
	s, path := newStore(t)
	r := mustPut(t, s, record(1, 1))
	release := func(disk, launch byte) Release {
		return Release{Disk: pins.UUID{disk}, ReportID: snp.ReportID{launch}, SPIFFEID: caller, Generation: 1,
			RequestSHA256: pins.Digest{9}, Time: noon, AuditSequence: 3}
	}
	if err := s.AddReleases([]Release{release(1, 1), release(1, 2), release(2, 1)}, head); err != nil {
		t.Fatal(err)
	}
	if err := s.AddReleases([]Release{release(1, 3), release(1, 1)}, head); err == nil {
		t.Error("added a release twice")
	}
	if err := s.Delete(r.DiskUUID, head); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = mustOpen(t, path)
	got, found, err := s.FindRelease(pins.UUID{1}, snp.ReportID{1})
	if err != nil || !found {
		t.Fatalf("got %t, %v after the record's deletion and a restart", found, err)
	}
	if diff := cmp.Diff(release(1, 1), got, sameID); diff != "" {
		t.Error(diff)
	}
	if _, found, err := s.FindRelease(pins.UUID{1}, snp.ReportID{3}); found || err != nil {
		t.Errorf("a failed AddReleases left one behind: %t, %v", found, err)
	}
	if all, err := s.Releases(pins.UUID{1}); err != nil || len(all) != 2 {
		t.Errorf("got %d releases, %v, want 2", len(all), err)
	}
}

func TestOpenRefuses(t *testing.T) {
	s, path := newStore(t)
	s.Close()
	absent := path + "x"
	if _, err := Open(absent, newKEK(t, 1), rand.Reader); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: got error %v, want os.ErrNotExist", err)
	}
	if _, err := os.Stat(absent); !errors.Is(err, os.ErrNotExist) {
		t.Error("Open made a store")
	}
	if _, err := Open(path, newKEK(t, 2), rand.Reader); !errors.Is(err, ErrWrongKEK) {
		t.Errorf("other key-encryption key: got error %v, want ErrWrongKEK", err)
	}
	if err := Create(path, newKEK(t, 1), rand.Reader); !errors.Is(err, os.ErrExist) {
		t.Errorf("Create over a store: got error %v, want os.ErrExist", err)
	}
}
