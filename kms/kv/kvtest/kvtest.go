// Package kvtest is the test suite that each engine of the key server's store passes.
package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"

	"github.com/rootvouch/rootvouch/kms/kv"
)

// Run runs the suite. open makes an empty engine. reopen, unless nil, closes an engine and
// opens it again.
func Run(t *testing.T, open func(t *testing.T) kv.Engine, reopen func(t *testing.T, e kv.Engine) kv.Engine) {
	t.Run("Commit", func(t *testing.T) { testCommit(t, open(t)) })
	t.Run("List", func(t *testing.T) { testList(t, open(t)) })
	t.Run("Bounds", func(t *testing.T) { testBounds(t, open(t)) })
	t.Run("Model", func(t *testing.T) { testModel(t, open(t), reopen) })
	t.Run("Counters", func(t *testing.T) { testCounters(t, open(t)) })
	t.Run("WriteSkew", func(t *testing.T) { testWriteSkew(t, open(t)) })
}

func put(key, value string) kv.Write { return kv.Write{Key: key, Value: []byte(value)} }

func commit(t *testing.T, e kv.Engine, want bool, conditions []kv.Cond, writes ...kv.Write) {
	t.Helper()
	revision, err := e.Commit(t.Context(), conditions, writes)
	if err != nil || (revision != 0) != want {
		t.Fatalf("Commit: got revision %d, %v, want that it happens: %t", revision, err, want)
	}
	for _, w := range writes {
		if item := get(t, e, w.Key)[0]; want && !w.Delete && item.Mod != revision {
			t.Fatalf("Commit: got revision %d, and %q has %d", revision, w.Key, item.Mod)
		}
	}
}

func get(t *testing.T, e kv.Engine, keys ...string) []kv.Item {
	t.Helper()
	items, err := e.Get(t.Context(), keys...)
	if err != nil || len(items) != len(keys) {
		t.Fatalf("Get: got %d items, %v, want %d", len(items), err, len(keys))
	}
	for i, item := range items {
		if item.Key != keys[i] {
			t.Fatalf("Get: item %d is %q, want %q", i, item.Key, keys[i])
		}
	}
	return items
}

// testCommit tests every kind of condition.
func testCommit(t *testing.T, e kv.Engine) {
	absent := get(t, e, "a")[0]
	if absent.Mod != 0 || absent.Value != nil {
		t.Errorf("got %+v, want no item", absent)
	}
	commit(t, e, true, []kv.Cond{{Key: "a"}}, put("a", "one"), put("b", ""))
	items := get(t, e, "b", "a", "c", "a")
	first := items[1].Mod
	if string(items[1].Value) != "one" || first == 0 || items[0].Mod != first || len(items[0].Value) != 0 || items[2].Mod != 0 || items[3].Mod != first {
		t.Errorf("got %+v", items)
	}
	commit(t, e, false, []kv.Cond{{Key: "a"}}, put("a", "two"))
	commit(t, e, false, []kv.Cond{{Key: "a", Mod: first}, {Key: "c", Mod: 1}}, put("a", "two"))
	commit(t, e, false, []kv.Cond{{Key: "a", Mod: first}, {Key: "b"}}, put("c", "two"), kv.Write{Key: "a", Delete: true})
	if items := get(t, e, "a", "c"); string(items[0].Value) != "one" || items[0].Mod != first || items[1].Mod != 0 {
		t.Errorf("a transaction whose conditions fail changed something: %+v", items)
	}
	commit(t, e, true, []kv.Cond{{Key: "a", Mod: first}, {Key: "c"}}, put("a", "two"), kv.Write{Key: "b", Delete: true}, kv.Write{Key: "none", Delete: true})
	items = get(t, e, "a", "b")
	if string(items[0].Value) != "two" || items[0].Mod <= first || items[1].Mod != 0 {
		t.Errorf("got %+v", items)
	}
	// Writing the same bytes again makes a new revision, and a deleted item that returns is a
	// new item.
	commit(t, e, true, nil, put("a", "two"), put("b", "again"))
	again := get(t, e, "a", "b")
	if again[0].Mod <= items[0].Mod || again[1].Mod != again[0].Mod {
		t.Errorf("got %+v after %+v", again, items)
	}
	if rev, err := e.Revision(t.Context()); err != nil || rev < again[0].Mod {
		t.Errorf("revision is %d, %v, want at least %d", rev, err, again[0].Mod)
	}
	again[0].Value[0] = 'x' // the slice belongs to the caller
	if got := get(t, e, "a")[0]; string(got.Value) != "two" {
		t.Errorf("a caller's change of a value changed the item: %q", got.Value)
	}
}

func testList(t *testing.T, e kv.Engine) {
	var writes []kv.Write
	for i := range 100 {
		writes = append(writes, put(fmt.Sprintf("p/%03d", i), strconv.Itoa(i)))
	}
	commit(t, e, true, nil, append(writes, put("p", "x"), put("p0", "x"), put("q/1", "x"), put("p/\xff\x00", "last"))...)
	all, err := e.List(t.Context(), "p/", "", 1000)
	if err != nil || len(all) != 101 || all[0].Key != "p/000" || all[100].Key != "p/\xff\x00" || all[7].Mod == 0 {
		t.Fatalf("got %d items, %v", len(all), err)
	}
	page, err := e.List(t.Context(), "p/", "p/041", 3)
	if err != nil || len(page) != 3 || page[0].Key != "p/042" || string(page[2].Value) != "44" {
		t.Errorf("got %+v, %v", page, err)
	}
	if page, err = e.List(t.Context(), "p/", "p/\xff\x00", 3); err != nil || len(page) != 0 {
		t.Errorf("after the last: got %+v, %v", page, err)
	}
	if page, err = e.List(t.Context(), "none/", "", 3); err != nil || len(page) != 0 {
		t.Errorf("of no prefix: got %+v, %v", page, err)
	}
	n := 0
	if err := kv.Each(t.Context(), e, "", func(kv.Item) error { n++; return nil }); err != nil || n != 104 {
		t.Errorf("Each: got %d items, %v, want 104", n, err)
	}
}

func testBounds(t *testing.T, e kv.Engine) {
	var conditions []kv.Cond
	var writes []kv.Write
	for i := range kv.MaxOps {
		key := strconv.Itoa(i)
		conditions, writes = append(conditions, kv.Cond{Key: key}), append(writes, put(key, "x"))
	}
	commit(t, e, true, conditions, writes...)
	if _, err := e.Commit(t.Context(), nil, append(writes, put("more", "x"))); err == nil {
		t.Error("took too many writes")
	}
	if _, err := e.Commit(t.Context(), append(conditions, kv.Cond{Key: "more"}), nil); err == nil {
		t.Error("took too many conditions")
	}
	commit(t, e, true, nil, kv.Write{Key: "big", Value: make([]byte, kv.MaxBytes-3)})
	if _, err := e.Commit(t.Context(), nil, []kv.Write{{Key: "big", Value: make([]byte, kv.MaxBytes)}}); err == nil {
		t.Error("took too many bytes")
	}
	if items := get(t, e, "more", "big"); items[0].Mod != 0 || len(items[1].Value) != kv.MaxBytes-3 {
		t.Errorf("got %d bytes, and more: %+v", len(items[1].Value), items[0])
	}
	if _, err := e.Get(t.Context(), make([]string, kv.MaxOps+1)...); err == nil {
		t.Error("read too many keys at once")
	}
}

// testModel compares random transactions with a map.
func testModel(t *testing.T, e kv.Engine, reopen func(*testing.T, kv.Engine) kv.Engine) {
	random := rand.New(rand.NewPCG(1, 2))
	model := map[string]kv.Item{}
	key := func() string { return "k/" + strconv.Itoa(random.IntN(20)) }
	for i := range 300 {
		var conditions []kv.Cond
		holds := true
		for range random.IntN(4) {
			c := kv.Cond{Key: key()}
			if random.IntN(4) > 0 {
				c.Mod = model[c.Key].Mod
			}
			holds = holds && c.Mod == model[c.Key].Mod
			conditions = append(conditions, c)
		}
		writes := map[string]kv.Write{}
		for range 1 + random.IntN(4) {
			w := kv.Write{Key: key(), Delete: random.IntN(3) == 0}
			if !w.Delete {
				w.Value = bytes.Repeat([]byte{byte(i)}, random.IntN(3000))
			}
			writes[w.Key] = w
		}
		var list []kv.Write
		for _, w := range writes {
			list = append(list, w)
		}
		commit(t, e, holds, conditions, list...)
		if holds {
			for _, w := range list {
				delete(model, w.Key)
				if !w.Delete {
					model[w.Key] = get(t, e, w.Key)[0]
					if !bytes.Equal(model[w.Key].Value, w.Value) {
						t.Fatalf("round %d: %q reads back otherwise", i, w.Key)
					}
				}
			}
		}
		if i%100 == 99 && reopen != nil {
			e = reopen(t, e)
		}
		if i%10 != 9 {
			continue
		}
		n := 0
		err := kv.Each(t.Context(), e, "k/", func(item kv.Item) error {
			n++
			if want := model[item.Key]; want.Mod != item.Mod || !bytes.Equal(want.Value, item.Value) {
				return fmt.Errorf("item %q has revision %d, want %d", item.Key, item.Mod, want.Mod)
			}
			return nil
		})
		if err != nil || n != len(model) {
			t.Fatalf("round %d: %d items, %v, want %d", i, n, err, len(model))
		}
	}
}

// testCounters lets many callers add to one counter. Each success counts once.
func testCounters(t *testing.T, e kv.Engine) {
	const callers, times = 8, 10
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range times {
				if err := add(t.Context(), e, "counter"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := string(get(t, e, "counter")[0].Value); got != strconv.Itoa(callers*times) {
		t.Errorf("counter is %s, want %d", got, callers*times)
	}
}

func add(ctx context.Context, e kv.Engine, key string) error {
	for range 10000 {
		items, err := e.Get(ctx, key)
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi(string(items[0].Value))
		if revision, err := e.Commit(ctx, []kv.Cond{{Key: key, Mod: items[0].Mod}}, []kv.Write{put(key, strconv.Itoa(n+1))}); revision != 0 || err != nil {
			return err
		}
	}
	return errors.New("10000 transactions were lost")
}

// testWriteSkew runs two transactions, each of which reads what the other writes. One of them
// wins.
func testWriteSkew(t *testing.T, e kv.Engine) {
	for i := range 20 {
		a, b := fmt.Sprintf("a/%d", i), fmt.Sprintf("b/%d", i)
		conditions := []kv.Cond{{Key: a}, {Key: b}}
		var won [2]bool
		var wg sync.WaitGroup
		for j, key := range []string{a, b} {
			wg.Go(func() {
				revision, err := e.Commit(t.Context(), conditions, []kv.Write{put(key, "x")})
				if err != nil {
					t.Error(err)
				}
				won[j] = revision != 0
			})
		}
		wg.Wait()
		if won[0] == won[1] {
			t.Errorf("won: %v, want exactly one", won)
		}
	}
}
