package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/kv/boltkv"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

var (
	noon   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	caller = spiffeid.RequireFromString("spiffe://example.org/vm")
	key    = bytes.Repeat([]byte{0x5e}, keyapi.KeySize)
	values = []byte(`{"a":1}`)
)

func newKEK(t testing.TB, fill byte) *kek.Ring {
	t.Helper()
	k, err := kek.New(bytes.Repeat([]byte{fill}, kek.Size))
	if err != nil {
		t.Fatal(err)
	}
	return kek.NewRing(kek.DefaultName, k)
}

func newStore(t testing.TB) (*Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kms.db")
	if err := boltkv.Create(path); err != nil {
		t.Fatal(err)
	}
	e, err := boltkv.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	if err := Create(context.Background(), e, newKEK(t, 1), rand.Reader, "example.org/kms", "main", noon); err != nil {
		t.Fatal(err)
	}
	s, err := Open(context.Background(), e, newKEK(t, 1), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return s, path
}

func (s *Store) commit(t testing.TB, writes ...kv.Write) {
	t.Helper()
	if revision, err := s.Engine.Commit(t.Context(), nil, writes); err != nil || revision == 0 {
		t.Fatalf("got %d, %v", revision, err)
	}
}

func record(disk byte) Record {
	return Record{
		Header:   pins.Header{DiskUUID: pins.UUID{disk}, HeaderSHA256: pins.Digest{0xbb}},
		SPIFFEID: caller, Evidence: EvidenceRequired, State: Enabled, Generation: 1, Created: noon, Changed: noon,
	}
}

func mustPut(t testing.TB, s *Store, r Record) Record {
	t.Helper()
	var err error
	if r.ReferenceValues, err = s.PutBlob(t.Context(), values); err != nil {
		t.Fatal(err)
	}
	item, err := s.Seal(KeyRecord(r.DiskUUID), r, key)
	if err != nil {
		t.Fatal(err)
	}
	s.commit(t, item, kv.Write{Key: KeyCaller(r.SPIFFEID, r.DiskUUID)})
	if r, err = s.Get(t.Context(), r.DiskUUID); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPutGet(t *testing.T) {
	s, path := newStore(t)
	r := mustPut(t, s, record(1))
	mustPut(t, s, record(2))
	gotKey, err := s.Key(r)
	if err != nil || !bytes.Equal(gotKey, key) {
		t.Errorf("got key %x, %v", gotKey, err)
	}
	if v, err := s.Values(t.Context(), r); err != nil || !bytes.Equal(v, values) {
		t.Errorf("got values %s, %v", v, err)
	}
	if _, err := s.Get(t.Context(), pins.UUID{3}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got error %v, want ErrNotFound", err)
	}
	if all, err := s.List(t.Context(), pins.UUID{}, 10); err != nil || len(all) != 2 || all[0].DiskUUID != r.DiskUUID {
		t.Errorf("got %d records, %v, want 2", len(all), err)
	}
	if all, err := s.List(t.Context(), r.DiskUUID, 10); err != nil || len(all) != 1 {
		t.Errorf("got %d records, %v, want the one after the first", len(all), err)
	}
	for _, c := range []struct {
		id   string
		want int
	}{{caller.String(), 2}, {caller.String() + "2", 0}, {"spiffe://example.org/v", 0}} {
		id := spiffeid.RequireFromString(c.id)
		known, err := s.KnowsCaller(t.Context(), id)
		if err != nil || known != (c.want > 0) {
			t.Errorf("%s: got %t, %v", id, known, err)
		}
		if found, err := s.ByCaller(t.Context(), id); err != nil || len(found) != c.want {
			t.Errorf("%s: got %d records, %v, want %d", id, len(found), err, c.want)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{key, s.Keys().Nonce, []byte("PRIVATE+KEY")} {
		if bytes.Contains(data, secret) {
			t.Error("a secret is in the file in the clear")
		}
	}
}

// TestChangedFile is someone who can write the file, but has no key-encryption key.
func TestChangedFile(t *testing.T) {
	s, _ := newStore(t)
	r, two := mustPut(t, s, record(1)), mustPut(t, s, record(2))
	put := func(key string, v any) { s.commit(t, kv.Write{Key: key, Value: encodeJSON(v)}) }
	get := func() (Record, error) { return s.Get(t.Context(), r.DiskUUID) }

	other := stored{Record: bytes.Replace(r.encode(), []byte("example.org/vm"), []byte("example.org/me"), 1), Sealed: r.sealed}
	put(KeyRecord(r.DiskUUID), other)
	got, err := get()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Key(got); !errors.Is(err, kek.ErrWrongKey) {
		t.Errorf("record with another caller: got error %v, want ErrWrongKey", err)
	}
	put(KeyRecord(r.DiskUUID), stored{Record: two.encode(), Sealed: two.sealed})
	if _, err := get(); err == nil {
		t.Error("got the record of another disk")
	}
	put(KeyRecord(r.DiskUUID), stored{Record: r.encode(), Sealed: two.sealed})
	if got, err = get(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Key(got); !errors.Is(err, kek.ErrWrongKey) {
		t.Errorf("key of another disk: got error %v, want ErrWrongKey", err)
	}
	s.commit(t, kv.Write{Key: keyChunk(r.ReferenceValues, 0), Value: []byte(`{"a":2}`)})
	if _, err := s.Values(t.Context(), r); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("other reference values: got error %v", err)
	}
	put(KeyRecord(r.DiskUUID), struct{}{})
	if _, err := s.List(t.Context(), pins.UUID{}, 10); err == nil {
		t.Error("listed a broken record")
	}
	// Another cluster's record, sealed under the same key.
	elsewhere, _ := newStore(t)
	theirs := mustPut(t, elsewhere, record(1))
	put(KeyRecord(r.DiskUUID), stored{Record: theirs.encode(), Sealed: theirs.sealed})
	if got, err = get(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Key(got); !errors.Is(err, kek.ErrWrongKey) {
		t.Errorf("record of another store: got error %v, want ErrWrongKey", err)
	}
}

func TestSealRefuses(t *testing.T) {
	s, _ := newStore(t)
	for _, c := range []struct {
		name   string
		change func(*Record)
		key    []byte
		want   string
	}{
		{"no caller", func(r *Record) { r.SPIFFEID = spiffeid.ID{} }, key, "spiffe_id is empty"},
		{"no pin", func(r *Record) { r.HeaderSHA256 = pins.Digest{} }, key, "luks2_header_sha256"},
		{"no state", func(r *Record) { r.State = "" }, key, `state is ""`},
		{"no rule", func(r *Record) { r.Evidence = "" }, key, `evidence is ""`},
		{"no values", func(r *Record) { r.ReferenceValues = pins.Digest{} }, key, "reference_values_sha256 is absent"},
		{"no generation", func(r *Record) { r.Generation = 0 }, key, "generation is 0"},
		{"short key", func(r *Record) {}, key[1:], "31 bytes"},
	} {
		r := record(1)
		r.ReferenceValues = pins.Digest{1}
		c.change(&r)
		if _, err := s.Seal(KeyRecord(r.DiskUUID), r, c.key); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func TestLeases(t *testing.T) {
	s, _ := newStore(t)
	disk, launch := pins.UUID{1}, Launch{ReportID: snp.ReportID{1}}
	want := Lease{Token: Token{3}, ReportID: snp.ReportID{1}, SPIFFEID: caller, Generation: 1, RequestSHA256: pins.Digest{9}, Time: noon,
		Leaf: audit.Place{Lane: "main", Sequence: 3}}
	s.commit(t, SetLease(disk, launch, want), SetLease(pins.UUID{2}, launch, want), SetLease(disk, Launch{ReportID: snp.ReportID{2}}, want))
	got, found, err := s.FindLease(t.Context(), disk, launch)
	if err != nil || !found {
		t.Fatalf("got %t, %v", found, err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if _, found, err := s.FindLease(t.Context(), disk, Launch{ReportID: snp.ReportID{3}}); found || err != nil {
		t.Errorf("another launch: %t, %v", found, err)
	}
	if all, err := s.Leases(t.Context(), disk); err != nil || len(all) != 2 {
		t.Errorf("got %d leases, %v, want 2", len(all), err)
	}
}

// TestBlobs keeps contents that no transaction can hold, each of them once.
func TestBlobs(t *testing.T) {
	s, _ := newStore(t)
	for _, size := range []int{0, 1, chunkSize, chunkSize + 1, 4<<20 + 3} {
		want := make([]byte, size)
		rand.Read(want)
		digest, err := s.PutBlob(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.On(s.Engine).Blob(t.Context(), digest)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
		before, _ := s.Engine.Revision(t.Context())
		if _, err := s.On(s.Engine).PutBlob(t.Context(), want); err != nil {
			t.Error(err)
		}
		if after, _ := s.Engine.Revision(t.Context()); after != before {
			t.Errorf("%d bytes: they were written again", size)
		}
	}
	if _, err := s.Blob(t.Context(), pins.Digest{1}); err == nil {
		t.Error("got what is not there")
	}
}

func TestOpenRefuses(t *testing.T) {
	s, _ := newStore(t)
	if _, err := Open(t.Context(), s.Engine, newKEK(t, 2), rand.Reader); !errors.Is(err, ErrWrongKEK) {
		t.Errorf("other key-encryption key: got error %v, want ErrWrongKEK", err)
	}
	if err := Create(t.Context(), s.Engine, newKEK(t, 1), rand.Reader, "example.org/kms", "main", noon); !errors.Is(err, os.ErrExist) {
		t.Errorf("Create over a store: got error %v, want os.ErrExist", err)
	}
	path := filepath.Join(t.TempDir(), "empty.db")
	if err := boltkv.Create(path); err != nil {
		t.Fatal(err)
	}
	e, err := boltkv.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := Open(t.Context(), e, newKEK(t, 1), rand.Reader); err == nil || !strings.Contains(err.Error(), "rootvouch-kms init") {
		t.Errorf("empty: got error %v", err)
	}
}

// TestDecoded: a record that is remembered is that of its bytes, and of no other item.
func TestDecoded(t *testing.T) {
	s, _ := newStore(t)
	one := Record{Header: pins.Header{DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{2}}, SPIFFEID: caller, Evidence: EvidenceNotRequired,
		State: Enabled, Generation: 1, Created: noon, Changed: noon}
	item := func(r Record) kv.Item {
		w, err := s.Seal(KeyRecord(pins.UUID{1}), r, key)
		if err != nil {
			t.Fatal(err)
		}
		return kv.Item{Key: w.Key, Value: w.Value, Mod: 5}
	}
	first := item(one)
	for _, mod := range []int64{5, 6} {
		first.Mod = mod
		if r, err := s.records.recordOf(first, pins.UUID{1}); err != nil || r.Mod() != mod || r.State != Enabled {
			t.Errorf("revision %d: got %+v, %v", mod, r, err)
		}
	}
	two := one
	two.State = Disabled
	changed := item(two)
	changed.Mod = 6 // a cluster that was put back may give a revision again
	if r, err := s.records.recordOf(changed, pins.UUID{1}); err != nil || r.State != Disabled {
		t.Errorf("other bytes under the same revision: got %+v, %v", r, err)
	}
	if _, err := s.records.recordOf(kv.Item{Key: changed.Key}, pins.UUID{1}); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted: got error %v, want ErrNotFound", err)
	}
	if _, err := s.records.recordOf(changed, pins.UUID{2}); err == nil {
		t.Error("a record is taken for another disk's")
	}
}
