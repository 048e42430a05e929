package boltkv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/kms/kv"
)

// contents is all that a store has.
func (s *Store) contents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := kv.Each(t.Context(), s, "", func(item kv.Item) error {
		all[item.Key] = fmt.Sprintf("%d %s", item.Mod, item.Value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for key := range all { // a search, not a walk
		if s.mustGet(t, key).Mod == 0 {
			t.Errorf("item %q is not found", key)
		}
	}
	return all
}

// churn changes a store at random: values of up to five pages, and a third deletions.
func (s *Store) churn(t *testing.T, r *rand.Rand, rounds int) {
	t.Helper()
	s.db.NoSync = true
	for range rounds {
		writes := map[string]kv.Write{}
		for range 1 + r.IntN(40) {
			key := fmt.Sprintf("key/%03d", r.IntN(400))
			size := r.IntN(200)
			if r.IntN(30) == 0 {
				size = r.IntN(5 * pageSize)
			}
			writes[key] = kv.Write{Key: key, Value: bytes.Repeat([]byte("v"), size), Delete: r.IntN(3) == 0}
		}
		if revision, err := s.Commit(t.Context(), nil, slices.Collect(maps.Values(writes))); err != nil || revision == 0 {
			t.Fatalf("got %d, %v", revision, err)
		}
	}
}

// damaged is a good file, and a copy of it that is changed.
type damaged struct {
	path string
	meta meta
	good []byte
	want map[string]string
}

// closed is what a store comes to.
func closed(t *testing.T, s *Store) damaged {
	t.Helper()
	d := damaged{path: s.path, want: s.contents(t)}
	var err error
	if d.meta, _, err = metas(s.file); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if d.good, err = os.ReadFile(s.path); err != nil {
		t.Fatal(err)
	}
	return d
}

// harmless opens a file that verify did not refuse: all is as it was, and stays so.
func (d damaged) harmless(t *testing.T, data []byte, what string) {
	t.Helper()
	if err := os.WriteFile(d.path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, err := Open(d.path)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := s.contents(t); !maps.Equal(got, d.want) {
			t.Errorf("%s: %d items differ from the %d of the good file", what, len(got), len(d.want))
		}
		for i := range 20 { // which takes free pages
			s.mustPut(t, "other", strings.Repeat("x", i*500))
		}
		if revision, err := s.Commit(t.Context(), nil, []kv.Write{{Key: "other", Delete: true}}); revision == 0 || err != nil {
			t.Fatalf("%s: got %d, %v", what, revision, err)
		}
		s.Close()
	}
}

// TestVerifyAfterChanges: a file is good after any change.
func TestVerifyAfterChanges(t *testing.T) {
	s := newStore(t)
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		s.churn(t, r, 5)
		if err := verify(s.file); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEveryByteFlipped flips a bit of each byte: Open refuses the file, or nothing differs.
func TestEveryByteFlipped(t *testing.T) {
	s := newStore(t)
	s.churn(t, rand.New(rand.NewPCG(3, 4)), 6)
	d := closed(t, s)
	data := bytes.Clone(d.good[:d.meta.pages*pageSize])
	together := bytes.Clone(d.good) // with all flips that are not refused
	list := d.meta.freelist * pageSize
	ids := uint64(binary.LittleEndian.Uint16(data[list+10:]))
	refused := 0
	for at := 2 * pageSize; at < len(data); at++ {
		bit := byte(1) << (at % 8)
		data[at] ^= bit
		switch err := guarded(func() error { return d.meta.verify(data) }); {
		case err != nil:
			refused++
		case uint64(at) >= list && uint64(at) < list+headerSize+8*ids: // two flips there may add up
			one := bytes.Clone(d.good)
			one[at] ^= bit
			d.harmless(t, one, fmt.Sprintf("byte %d of the list of free pages", uint64(at)-list))
		default:
			together[at] ^= bit
		}
		data[at] ^= bit
	}
	t.Logf("%d of %d flips are refused", refused, len(data)-2*pageSize)
	if refused < len(data)/10 {
		t.Errorf("%d flips are refused, want more", refused)
	}
	d.harmless(t, together, "all flips that are not refused")
}

// TestEachPageOlder puts back what a page was: a write that the disk lost.
func TestEachPageOlder(t *testing.T) {
	s := newStore(t)
	r := rand.New(rand.NewPCG(5, 6))
	s.churn(t, r, 30)
	older, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.churn(t, r, 10)
	d := closed(t, s)
	together := bytes.Clone(d.good)
	refused := 0
	for page := uint64(2); page < min(d.meta.pages, uint64(len(older)/pageSize)); page++ {
		of := func(file []byte) []byte { return file[page*pageSize : (page+1)*pageSize] }
		data := bytes.Clone(d.good)
		copy(of(data), of(older))
		if err := guarded(func() error { return d.meta.verify(data) }); err != nil {
			refused++
		} else {
			copy(of(together), of(older))
		}
	}
	if refused < 5 {
		t.Errorf("%d pages are refused, want more", refused)
	}
	d.harmless(t, together, "all pages that are not refused")
}

// TestLostItems hides changes that a checksum of each item does not: the number and the sum
// of all items show them.
func TestLostItems(t *testing.T) {
	for name, change := range map[string]func(*state){
		"an item fewer":     func(s *state) { s.count++ },
		"an older item":     func(s *state) { s.sum++ },
		"a newer item":      func(s *state) { s.rev-- },
		"one that is wrong": func(s *state) { s.count, s.sum = s.count-1, s.sum-7 },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.mustPut(t, "a", "one")
			data, err := os.ReadFile(s.path)
			if err != nil {
				t.Fatal(err)
			}
			newest, _, err := metas(s.file)
			if err != nil {
				t.Fatal(err)
			}
			if err := newest.verify(data); err != nil {
				t.Fatal(err)
			}
			now := state{rev: 1, count: 1, sum: sumOf(pack([]byte("a"), 1, []byte("one")))}
			old := now.encode()
			change(&now)
			if err := newest.verify(bytes.ReplaceAll(data, old, now.encode())); err == nil {
				t.Error("it is not refused")
			}
		})
	}
}

// TestNoState takes the state away, under which an empty store would have nothing to compare.
func TestNoState(t *testing.T) {
	s := newStore(t)
	d := closed(t, s)
	if err := d.meta.verify(d.good); err != nil {
		t.Fatal(err)
	}
	if err := d.meta.verify(bytes.ReplaceAll(d.good, metaState, []byte("statf"))); err == nil {
		t.Error("a store without its state is not refused")
	}
	if _, err := decodeState(nil); err == nil {
		t.Error("a state that is absent is not refused")
	}
}

// TestUsedPageIsFree lists a page as free that is in use: a transaction would overwrite it.
func TestUsedPageIsFree(t *testing.T) {
	s := newStore(t)
	s.churn(t, rand.New(rand.NewPCG(7, 8)), 12)
	d := closed(t, s)
	list := d.meta.freelist*pageSize + headerSize
	refused := 0
	for page := uint64(0); page < d.meta.pages+2; page++ {
		data := bytes.Clone(d.good)
		if binary.LittleEndian.Uint64(data[list:]) == page {
			continue
		}
		binary.LittleEndian.PutUint64(data[list:], page)
		if err := d.meta.verify(data); err != nil {
			refused++
		}
	}
	if want := int(d.meta.pages) + 1; refused != want {
		t.Errorf("%d lists are refused, want %d: all but the good one", refused, want)
	}
}
