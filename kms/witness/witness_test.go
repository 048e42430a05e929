package witness_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/publish"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
	"github.com/rootvouch/rootvouch/kms/witness"
	"github.com/rootvouch/rootvouch/test/kmstest"
	"github.com/rootvouch/rootvouch/test/witnesstest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is a log that grows.
type rig struct {
	*kmstest.Book
	log      witness.Log
	verifier note.Verifier
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{Book: kmstest.New(t, t.TempDir(), time.Now)}
	r.Publish(t)
	r.log.Dir, _ = r.Log(t)
	r.log.Newest = func(context.Context) (int64, error) { return r.State().Tree.Size, nil }
	var err error
	r.verifier, err = note.NewVerifier(r.Store.LogPublic())
	must(t, err)
	return r
}

func (r *rig) grow(t *testing.T, leaves int) publish.State {
	t.Helper()
	for range leaves {
		must(t, r.Ledger.Note(t.Context(), audit.Entry{Event: audit.Start, About: audit.AboutStart{SPIFFEID: "spiffe://example.org/kms"}}))
	}
	r.Publish(t)
	return r.State()
}

func open(t *testing.T, all ...*witnesstest.Witness) *witness.Witnesses {
	t.Helper()
	var sources []witness.Source
	for _, w := range all {
		sources = append(sources, witness.Source{URL: w.URL, Key: w.Key})
	}
	ws, err := witness.Open(sources)
	must(t, err)
	return ws
}

// cosigned is the tree of the newest checkpoint that has the cosignatures of all.
func (r *rig) cosigned(t *testing.T, all ...*witnesstest.Witness) (tlogdir.Tree, error) {
	t.Helper()
	signed, err := r.log.Dir.Cosigned()
	if err != nil {
		return tlogdir.Tree{}, err
	}
	var verifiers []note.Verifier
	for _, w := range all {
		v, err := tlogdir.NewWitness(w.Key)
		must(t, err)
		verifiers = append(verifiers, v)
	}
	return tlogdir.OpenCheckpoint(signed, r.verifier, verifiers...)
}

// TestCosign: witnesses cosign a log that grows, also when the server has forgotten what they know.
func TestCosign(t *testing.T) {
	r := newRig(t)
	one, two := witnesstest.New(t, "one.example", r.Store.LogPublic()), witnesstest.New(t, "two.example/w", r.Store.LogPublic())
	ws := open(t, one, two)
	for _, leaves := range []int{0, 1, 5, 300} {
		now := r.grow(t, leaves)
		must(t, ws.Cosign(t.Context(), r.log, now.Tree, now.Checkpoint))
		if got, err := r.cosigned(t, one, two); err != nil || got != now.Tree {
			t.Errorf("after %d leaves more %+v is cosigned, %v, want %+v", leaves, got, err, now.Tree)
		}
		if size, _ := ws.State(); size != now.Tree.Size || one.Seen() != now.Tree || two.Seen() != now.Tree {
			t.Errorf("cosigned are %d leaves, %d, %d, want %d", size, one.Seen().Size, two.Seen().Size, now.Tree.Size)
		}
	}
	now := r.grow(t, 3)
	before := one.Asks()
	must(t, open(t, one, two).Cosign(t.Context(), r.log, now.Tree, now.Checkpoint))
	if asked := one.Asks() - before; asked != 2 {
		t.Errorf("asked %d times, want twice: the first answer says what the witness knows", asked)
	}
}

// TestAhead: a log that was put back shows, and a copy that is behind is not one.
func TestAhead(t *testing.T) {
	r := newRig(t)
	w := witnesstest.New(t, "one.example", r.Store.LogPublic())
	old := r.grow(t, 2)
	now := r.grow(t, 2)
	must(t, open(t, w).Cosign(t.Context(), r.log, now.Tree, now.Checkpoint))
	ws := open(t, w)
	if err := ws.Cosign(t.Context(), r.log, old.Tree, old.Checkpoint); err == nil || errors.Is(err, witness.ErrAhead) {
		t.Errorf("a copy that is behind: got error %v", err)
	}
	putBack := r.log
	putBack.Newest = func(context.Context) (int64, error) { return old.Tree.Size, nil }
	if err := ws.Cosign(t.Context(), putBack, old.Tree, old.Checkpoint); !errors.Is(err, witness.ErrAhead) {
		t.Errorf("a log that was put back: got error %v, want ErrAhead", err)
	}
	putBack.Newest = func(context.Context) (int64, error) { return 0, errors.New("no answer") }
	if err := ws.Cosign(t.Context(), putBack, old.Tree, old.Checkpoint); err == nil || errors.Is(err, witness.ErrAhead) {
		t.Errorf("a store that does not answer: got error %v", err)
	}
	err := ws.Run(t.Context(), witness.Log{Dir: r.log.Dir, Newest: func(context.Context) (int64, error) { return old.Tree.Size, nil }},
		func() publish.State { return old }, slog.New(slog.DiscardHandler))
	if !errors.Is(err, witness.ErrAhead) {
		t.Errorf("running: got error %v, want ErrAhead", err)
	}
}

// TestBadWitnesses: what is no cosignature of this witness is not added to a checkpoint.
func TestBadWitnesses(t *testing.T) {
	r := newRig(t)
	good := witnesstest.New(t, "good.example", r.Store.LogPublic())
	other := witnesstest.New(t, "other.example", r.Store.LogPublic())
	now := r.grow(t, 3)
	must(t, open(t, other).Cosign(t.Context(), r.log, now.Tree, now.Checkpoint))
	foreign, err := r.log.Dir.Cosigned()
	must(t, err)
	foreign = foreign[bytes.LastIndex(foreign[:len(foreign)-1], []byte("\n"))+1:]
	for name, answer := range map[string]func(http.ResponseWriter){
		"another's cosignature": func(w http.ResponseWriter) { w.Write(foreign) },
		"no cosignature":        func(w http.ResponseWriter) {},
		"no line":               func(w http.ResponseWriter) { w.Write([]byte("yes")) },
		"too much":              func(w http.ResponseWriter) { w.Write(bytes.Repeat([]byte("— a b\n"), 10_000)) },
		"a failure":             func(w http.ResponseWriter) { w.WriteHeader(500) },
		"no size":               func(w http.ResponseWriter) { w.WriteHeader(409); w.Write([]byte("many\n")) },
		"another size again":    func(w http.ResponseWriter) { w.WriteHeader(409); w.Write([]byte("1\n")) },
		"elsewhere":             func(w http.ResponseWriter) { w.Header().Set("Location", good.URL+"add-checkpoint"); w.WriteHeader(307) },
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
			defer s.Close()
			bad := *witnesstest.New(t, "bad.example", r.Store.LogPublic())
			bad.URL = s.URL
			now := r.grow(t, 1)
			if err := open(t, &bad, good).Cosign(t.Context(), r.log, now.Tree, now.Checkpoint); err == nil || errors.Is(err, witness.ErrAhead) {
				t.Errorf("got error %v", err)
			}
			if got, err := r.cosigned(t, good); err != nil || got != now.Tree {
				t.Errorf("the good one's is %+v, %v, want %+v", got, err, now.Tree)
			}
			if _, err := r.cosigned(t, &bad); err == nil {
				t.Error("the bad one cosigned")
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	r := newRig(t)
	w := witnesstest.New(t, "one.example", r.Store.LogPublic())
	for _, bad := range [][]witness.Source{
		{{URL: "ftp://one.example/", Key: w.Key}}, {{URL: "https://", Key: w.Key}}, {{URL: "https://a@one.example/", Key: w.Key}},
		{{URL: "https://one.example/?x", Key: w.Key}}, {{URL: w.URL, Key: r.Store.LogPublic()}}, {{URL: w.URL}},
		{{URL: w.URL, Key: w.Key}, {URL: "https://two.example/", Key: w.Key}},
	} {
		if _, err := witness.Open(bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	if _, err := newRig(t).log.Dir.Cosigned(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v, want ErrNotExist", err)
	}
	ws := open(t)
	must(t, ws.Run(t.Context(), r.log, r.State, slog.New(slog.DiscardHandler)))
	if !strings.HasPrefix(w.URL, "http://") {
		t.Error("the test's witness has another scheme")
	}
}
