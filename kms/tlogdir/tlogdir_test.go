package tlogdir

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/rootvouch/rootvouch/pins"
)

type rig struct {
	dir      Dir
	tree     Tree
	signer   note.Signer
	verifier note.Verifier
}

func newRig(t *testing.T) *rig {
	t.Helper()
	private, public, err := NewKey(rand.Reader, "example.org/kms")
	must(t, err)
	r := &rig{tree: Tree{Origin: "example.org/kms"}}
	r.signer, err = note.NewSigner(private)
	must(t, err)
	r.verifier, err = note.NewVerifier(public)
	must(t, err)
	signed, err := Sign(r.tree, r.signer)
	must(t, err)
	r.dir, err = Create(filepath.Join(t.TempDir(), "log"), public, signed)
	must(t, err)
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func leaves(from, n int64) [][]byte {
	var all [][]byte
	for i := range n {
		all = append(all, fmt.Appendf(nil, "leaf %d", from+i))
	}
	return all
}

// grow appends n leaves, and writes the checkpoint.
func (r *rig) grow(t *testing.T, n int64) {
	t.Helper()
	old := r.tree
	tree, err := r.dir.Append(old, leaves(old.Size, n))
	must(t, err)
	signed, err := Sign(tree, r.signer)
	must(t, err)
	must(t, r.dir.WriteCheckpoint(signed))
	must(t, r.dir.Tidy(old, tree))
	r.tree = tree
}

func (r *rig) read(from int64) error {
	next := from
	err := r.dir.Read(r.tree, from, func(index int64, leaf []byte) error {
		if index != next || string(leaf) != fmt.Sprintf("leaf %d", index) {
			return fmt.Errorf("leaf %d is %q, want leaf %d", index, leaf, next)
		}
		next++
		return nil
	})
	if err == nil && next != r.tree.Size {
		return fmt.Errorf("read up to %d, want %d", next, r.tree.Size)
	}
	return err
}

// rootOf is RFC 6962's definition, as it stands there.
func rootOf(all [][]byte) tlog.Hash {
	if len(all) == 1 {
		return tlog.RecordHash(all[0])
	}
	k := 1
	for k*2 < len(all) {
		k *= 2
	}
	return tlog.NodeHash(rootOf(all[:k]), rootOf(all[k:]))
}

func TestGrow(t *testing.T) {
	r := newRig(t)
	for _, n := range []int64{1, 1, 5, 248, 1, 1, 255, 256, 300, 1} {
		before := r.tree
		r.grow(t, n)
		if want := rootOf(leaves(0, r.tree.Size)); r.tree.Root != want {
			t.Fatalf("root of %d leaves is %s, want %s", r.tree.Size, r.tree.Root, want)
		}
		for _, from := range []int64{0, r.tree.Size / 2, r.tree.Size - 1} {
			must(t, r.read(from))
		}
		must(t, r.dir.CheckEdge(r.tree))
		must(t, r.dir.CheckExtends(before, r.tree))
		signed, err := r.dir.Checkpoint()
		must(t, err)
		if got, err := OpenCheckpoint(signed, r.verifier); err != nil || got != r.tree {
			t.Errorf("checkpoint is of %+v, %v, want %+v", got, err, r.tree)
		}
	}
	// Of each tile that is not full the newest alone is there.
	for _, full := range []string{"tile/0/004", "tile/entries/004", "tile/1/000"} {
		if n := len(partials(r.dir.path(full))); n != 1 {
			t.Errorf("%s has %d partial tiles, want 1", full, n)
		}
	}
}

// TestSameBytes: two writers of the same leaves make the same tiles, in one step or in many.
func TestSameBytes(t *testing.T) {
	one, many := newRig(t), newRig(t)
	one.grow(t, 600)
	for range 6 {
		many.grow(t, 100)
	}
	for _, name := range []string{"tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/001", "tile/entries/002.p/88"} {
		a, err := os.ReadFile(one.dir.path(name))
		must(t, err)
		b, err := os.ReadFile(many.dir.path(name))
		must(t, err)
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs", name)
		}
	}
	// A publisher that was ended before its checkpoint leaves what the next one writes again.
	_, err := many.dir.Append(many.tree, [][]byte{[]byte("never signed")})
	must(t, err)
	many.grow(t, 1)
	must(t, many.read(0))
}

func TestTilePath(t *testing.T) {
	for _, c := range []struct {
		n    int64
		w    int
		want string
	}{{0, 256, "tile/0/000"}, {999, 3, "tile/0/999.p/3"}, {1000, 256, "tile/0/x001/000"}, {1234067, 256, "tile/0/x001/x234/067"}} {
		if got := tilePath("0", c.n, c.w); got != c.want {
			t.Errorf("%d: got %s, want %s", c.n, got, c.want)
		}
	}
}

// TestChanged changes one file at a time.
func TestChanged(t *testing.T) {
	for _, c := range []struct {
		name string
		edge bool // found by CheckEdge too
	}{
		{"tile/0/000", false}, {"tile/0/002.p/88", true}, {"tile/1/000.p/2", true}, {"tile/entries/000", false}, {"tile/entries/002.p/88", false},
	} {
		for what, change := range map[string]func([]byte) []byte{
			"bit":   func(d []byte) []byte { d[len(d)/2] ^= 1; return d },
			"cut":   func(d []byte) []byte { return d[:len(d)-1] },
			"empty": func([]byte) []byte { return nil },
		} {
			r := newRig(t)
			r.grow(t, 600)
			path := r.dir.path(c.name)
			data, err := os.ReadFile(path)
			must(t, err)
			must(t, os.WriteFile(path, change(data), 0o600))
			if err := r.read(0); err == nil {
				t.Errorf("%s, %s: it was read", c.name, what)
			}
			if err := r.dir.CheckEdge(r.tree); err == nil && c.edge {
				t.Errorf("%s, %s: the right edge passes", c.name, what)
			}
			must(t, os.Remove(path))
			if err := r.read(0); err == nil {
				t.Errorf("%s, removed: it was read", c.name)
			}
		}
	}
}

func TestCheckExtendsRefuses(t *testing.T) {
	r := newRig(t)
	r.grow(t, 300)
	before := r.tree
	r.grow(t, 300)
	other := before
	other.Root[0] ^= 1
	renamed := before
	renamed.Origin = "example.org/other"
	for name, c := range map[string][2]Tree{
		"cut": {r.tree, before}, "another past": {other, r.tree}, "another at its size": {other, before}, "renamed": {renamed, r.tree},
	} {
		if err := r.dir.CheckExtends(c[0], c[1]); err == nil {
			t.Errorf("%s: it passes", name)
		}
	}
}

func TestCheckpointRefuses(t *testing.T) {
	r := newRig(t)
	r.grow(t, 3)
	good, err := r.dir.Checkpoint()
	must(t, err)
	resigned := func(text string) []byte {
		signed, err := note.Sign(&note.Note{Text: text}, r.signer)
		must(t, err)
		return signed
	}
	root := r.tree.text()[len("example.org/kms\n3\n"):]
	for name, bad := range map[string][]byte{
		"size changed": bytes.Replace(good, []byte("\n3\n"), []byte("\n2\n"), 1),
		"no signature": good[:bytes.Index(good, []byte("\n\n"))+2],
		"origin":       resigned("example.com/kms\n3\n" + root),
		"plus":         resigned("example.org/kms\n+3\n" + root),
		"extension":    resigned("example.org/kms\n3\n" + root + "more\n"),
		"short":        resigned("example.org/kms\n3\n"),
		"root":         resigned("example.org/kms\n3\nAAAA\n"),
		"root of none": resigned("example.org/kms\n0\n" + root),
	} {
		if tree, err := OpenCheckpoint(bad, r.verifier); err == nil {
			t.Errorf("%s: got %+v", name, tree)
		}
	}
}

// cosign adds a witness's signature to a checkpoint.
func cosign(signed []byte, name string, key ed25519.PrivateKey, seconds uint64) []byte {
	text := signed[:bytes.Index(signed, []byte("\n\n"))+1]
	public := append([]byte{algCosignature}, key.Public().(ed25519.PublicKey)...)
	sig := binary.BigEndian.AppendUint32(nil, keyHash(name, public))
	sig = binary.BigEndian.AppendUint64(sig, seconds)
	sig = append(sig, ed25519.Sign(key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", seconds, text))...)
	return fmt.Appendf(bytes.Clone(signed), "— %s %s\n", name, base64.StdEncoding.EncodeToString(sig))
}

func TestWitness(t *testing.T) {
	r := newRig(t)
	r.grow(t, 3)
	signed, err := r.dir.Checkpoint()
	must(t, err)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	w, err := NewWitness(WitnessKey("witness.example", public))
	must(t, err)
	cosigned := cosign(signed, "witness.example", private, 1700000000)
	if got, err := OpenCheckpoint(cosigned, r.verifier, w); err != nil || got != r.tree {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := OpenCheckpoint(cosigned, r.verifier); err != nil {
		t.Errorf("a witness that nobody asked for: %v", err)
	}
	_, strange, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for name, bad := range map[string][]byte{
		"none":          signed,
		"another key":   cosign(signed, "witness.example", strange, 1700000000),
		"changed later": bytes.Replace(cosigned, []byte("\n3\n"), []byte("\n4\n"), 1),
	} {
		if _, err := OpenCheckpoint(bad, r.verifier, w); err == nil {
			t.Errorf("%s: it passes", name)
		}
	}
	for _, bad := range []string{"", "a+b", "a+00000000+AAAA", strings.Replace(WitnessKey("w", public), "w+", "v+", 1), WitnessKey("a b", public)} {
		if _, err := NewWitness(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestBlobs(t *testing.T) {
	r := newRig(t)
	must(t, r.dir.PutBlob([]byte("contents")))
	must(t, r.dir.PutBlob([]byte("contents")))
	digest := pins.Digest(sha256.Sum256([]byte("contents")))
	if data, err := r.dir.Blob(digest); err != nil || string(data) != "contents" {
		t.Errorf("got %q, %v", data, err)
	}
	must(t, os.WriteFile(r.dir.path(blobPath(digest)), []byte("other"), 0o600))
	if _, err := r.dir.Blob(digest); err == nil {
		t.Error("changed contents are read")
	}
}

func TestCreateRefuses(t *testing.T) {
	r := newRig(t)
	if _, err := Create(string(r.dir), "", nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("got error %v, want os.ErrExist", err)
	}
}
