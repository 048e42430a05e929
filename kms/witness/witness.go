// Package witness has witnesses cosign the key server's log.
//
// A witness (https://c2sp.org/tlog-witness) remembers the largest tree that it cosigned, and
// cosigns only trees that extend it. So it detects a store and a log that were both put back to
// an older state: the witness has seen more. A witness sees sizes and hashes but no leaf.
package witness

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/rootvouch/rootvouch/kms/tlogdir"
)

// ErrAhead says that a witness has cosigned more leaves of this log than the log has: store and
// log were put back.
var ErrAhead = errors.New("a witness has cosigned a larger log: store and log are an older copy")

// Source is a witness in a configuration.
type Source struct {
	// URL is the witness's submission prefix. add-checkpoint is below it.
	URL string `json:"url"`
	// Key verifies the witness's cosignatures: NAME+HASH+KEY.
	Key string `json:"key"`
}

const (
	// tryLimit bounds one request to a witness.
	tryLimit = 10 * time.Second
	// maxReply bounds an answer in bytes.
	maxReply = 16 << 10
)

// Witness is one witness.
type Witness struct {
	name     string
	endpoint string
	verifier note.Verifier
	http     *http.Client

	size int64 // leaves that it has cosigned, as far as we know
}

// New makes the witness of a source. It sends nothing yet.
func New(s Source) (*Witness, error) {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("url is %q, want http or https, a host and a path", s.URL)
	}
	verifier, err := tlogdir.NewWitness(s.Key)
	if err != nil {
		return nil, err
	}
	return &Witness{
		name: verifier.Name(), endpoint: strings.TrimSuffix(s.URL, "/") + "/add-checkpoint", verifier: verifier,
		http: &http.Client{Timeout: tryLimit, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

// Log is a server's copy of the log.
type Log struct {
	Dir tlogdir.Dir
	// Newest returns how many leaves the log has, as the store says. A copy may be behind.
	Newest func(context.Context) (int64, error)
}

// cosign asks the witness to cosign a tree of the log, whose signed checkpoint is given. It
// returns the lines to add to the checkpoint. The error matches ErrAhead.
func (w *Witness) cosign(ctx context.Context, l Log, t tlogdir.Tree, signed []byte) ([]byte, error) {
	// The first answer may give the size that the witness knows. The second request uses it.
	for range 2 {
		lines, known, err := w.add(ctx, l.Dir, t, signed)
		if err != nil {
			return nil, fmt.Errorf("witness %s: %w", w.name, err)
		}
		if lines != nil {
			w.size = t.Size
			return lines, nil
		}
		if known > t.Size {
			return nil, w.ahead(ctx, l, known)
		}
		w.size = known
	}
	return nil, fmt.Errorf("witness %s: it keeps answering that it knows another size", w.name)
}

// ahead tells whether the log was put back, or whether only this copy of it is behind the other
// servers.
func (w *Witness) ahead(ctx context.Context, l Log, known int64) error {
	newest, err := l.Newest(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("witness %s: it knows %d leaves, but the store's number cannot be read: %w", w.name, known, err)
	case newest < known:
		return fmt.Errorf("witness %s: %w: it knows %d leaves, but the log has %d", w.name, ErrAhead, known, newest)
	}
	return fmt.Errorf("witness %s: it knows %d leaves, and this copy of the log is behind", w.name, known)
}

// add sends one checkpoint. Without an error it returns the cosignature, or the size that the
// witness knows.
func (w *Witness) add(ctx context.Context, dir tlogdir.Dir, t tlogdir.Tree, signed []byte) (lines []byte, known int64, err error) {
	old := min(w.size, t.Size)
	proof, err := dir.Proof(old, t)
	if err != nil {
		return nil, 0, err
	}
	body := fmt.Appendf(nil, "old %d\n", old)
	for _, h := range proof {
		body = fmt.Appendf(body, "%s\n", base64.StdEncoding.EncodeToString(h[:]))
	}
	body = append(append(body, '\n'), signed...)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	response, err := w.http.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return nil, 0, err
	}
	switch response.StatusCode {
	case http.StatusOK:
		lines, err := w.verify(signed, answer)
		return lines, 0, err
	case http.StatusConflict:
		known, err := strconv.ParseInt(strings.TrimSuffix(string(answer), "\n"), 10, 64)
		if err != nil || known < 0 {
			return nil, 0, fmt.Errorf("known size is %.40q, want a number", answer)
		}
		return nil, known, nil
	}
	return nil, 0, fmt.Errorf("status is %s, want 200: %.200q", response.Status, answer)
}

// verify takes only the witness's own lines from an answer. It ignores any other line.
func (w *Witness) verify(signed, answer []byte) (lines []byte, err error) {
	text, _, found := bytes.Cut(signed, []byte("\n\n"))
	if !found {
		return nil, errors.New("the checkpoint has no signatures")
	}
	n, err := note.Open(append(append(append([]byte{}, text...), "\n\n"...), answer...), note.VerifierList(w.verifier))
	if err != nil {
		return nil, fmt.Errorf("verifying its cosignature: %w", err)
	}
	for _, s := range n.Sigs {
		lines = fmt.Appendf(lines, "— %s %s\n", s.Name, s.Base64)
	}
	return lines, nil
}

// Witnesses are all that cosign a log.
type Witnesses struct {
	all []*Witness

	mu   sync.Mutex // guards the fields below
	at   time.Time  // when all witnesses had last cosigned all leaves
	size int64      // leaves that all witnesses have cosigned
}

// Open makes the witnesses of a configuration.
func Open(sources []Source) (*Witnesses, error) {
	ws := &Witnesses{at: time.Now()}
	names := map[string]bool{}
	for i, s := range sources {
		w, err := New(s)
		if err == nil && names[w.name] {
			err = fmt.Errorf("there are two witnesses %s", w.name)
		}
		if err != nil {
			return nil, fmt.Errorf("witness %d: %w", i, err)
		}
		names[w.name] = true
		ws.all = append(ws.all, w)
	}
	return ws, nil
}

// Cosign has all witnesses cosign a tree, and writes the checkpoint with the cosignatures that
// it received into the log's directory. The error joins all failures, and matches ErrAhead.
func (ws *Witnesses) Cosign(ctx context.Context, l Log, t tlogdir.Tree, signed []byte) error {
	lines, errs := make([][]byte, len(ws.all)), make([]error, len(ws.all))
	var wg sync.WaitGroup
	for i, w := range ws.all {
		wg.Go(func() { lines[i], errs[i] = w.cosign(ctx, l, t, signed) })
	}
	wg.Wait()
	if cosigned := bytes.Join(lines, nil); len(cosigned) > 0 {
		errs = append(errs, l.Dir.WriteCosigned(append(bytes.Clone(signed), cosigned...)))
	}
	err := errors.Join(errs...)
	if err == nil {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		ws.at, ws.size = time.Now(), t.Size
	}
	return err
}

// State returns how many leaves all witnesses have cosigned, and when they had last cosigned
// all leaves.
func (ws *Witnesses) State() (size int64, at time.Time) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.size, ws.at
}
