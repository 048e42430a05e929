// Package witnesstest implements a witness of transparency logs
// (https://c2sp.org/tlog-witness).
package witnesstest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/rootvouch/rootvouch/kms/tlogdir"
)

// Witness cosigns the log of one key.
type Witness struct {
	// URL is the witness's address, and Key verifies its cosignatures.
	URL, Key string

	name string
	key  ed25519.PrivateKey
	log  note.Verifier

	mu   sync.Mutex // guards what follows
	seen tlogdir.Tree
	asks int
}

// New serves a witness until the test ends.
func New(t testing.TB, name, logKey string) *Witness {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &Witness{Key: tlogdir.WitnessKey(name, public), name: name, key: private}
	if w.log, err = note.NewVerifier(logKey); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /prefix/add-checkpoint", w.add)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	w.URL = server.URL + "/prefix/"
	return w
}

// Seen returns the tree that the witness cosigned last.
func (w *Witness) Seen() tlogdir.Tree {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// Asks returns the number of requests to the witness.
func (w *Witness) Asks() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asks
}

func (w *Witness) add(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asks++
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	head, signed, _ := bytes.Cut(body, []byte("\n\n"))
	old, proof, err := parse(string(head))
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	tree, err := tlogdir.OpenCheckpoint(signed, w.log)
	switch {
	case err != nil:
		http.Error(out, err.Error(), http.StatusForbidden)
	case old > tree.Size:
		http.Error(out, "old size is larger than the checkpoint's", http.StatusBadRequest)
	case old != w.seen.Size, tree.Size == w.seen.Size && w.seen.Size > 0 && tree.Root != w.seen.Root:
		out.Header().Set("Content-Type", "text/x.tlog.size")
		out.WriteHeader(http.StatusConflict)
		fmt.Fprintf(out, "%d\n", w.seen.Size)
	case old > 0 && tlog.CheckTree(proof, tree.Size, tree.Root, old, w.seen.Root) != nil, old == 0 && len(proof) > 0:
		http.Error(out, "the proof proves nothing", http.StatusUnprocessableEntity)
	default:
		w.seen = tree
		out.Write(w.cosign(signed))
	}
}

// parse reads the part of a request before the checkpoint.
func parse(head string) (old int64, proof tlog.TreeProof, err error) {
	lines := strings.Split(head, "\n")
	if _, err := fmt.Sscanf(lines[0], "old %d", &old); err != nil {
		return 0, nil, err
	}
	for _, line := range lines[1:] {
		data, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(data) != tlog.HashSize {
			return 0, nil, fmt.Errorf("proof line %q", line)
		}
		proof = append(proof, tlog.Hash(data))
	}
	return old, proof, nil
}

func (w *Witness) cosign(signed []byte) []byte {
	text := signed[:bytes.Index(signed, []byte("\n\n"))+1]
	seconds := uint64(time.Now().Unix())
	verifier, err := tlogdir.NewWitness(w.Key)
	if err != nil {
		panic(err)
	}
	sig := binary.BigEndian.AppendUint32(nil, verifier.KeyHash())
	sig = binary.BigEndian.AppendUint64(sig, seconds)
	sig = append(sig, ed25519.Sign(w.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", seconds, text))...)
	return fmt.Appendf(nil, "— %s %s\n", w.name, base64.StdEncoding.EncodeToString(sig))
}
