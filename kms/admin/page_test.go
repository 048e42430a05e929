package admin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv/boltkv"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/publish"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/childtest"
)

// busyAdmin is an Admin with something to show.
func busyAdmin(t *testing.T) (*rig, *Admin) {
	t.Helper()
	r, ctx := newRig(t), t.Context()
	must(t, second(r.client.Put(ctx, put(t), key)))
	two := put(t)
	two.DiskUUID, two.SPIFFEID = pins.UUID{2}, "spiffe://example.org/vm/db"
	must(t, second(r.client.Put(ctx, two, key)))
	must(t, second(r.client.Disable(ctx, pins.UUID{2})))
	record, err := r.book.Records.Get(ctx, header.DiskUUID)
	must(t, err)
	must(t, r.book.Release(ctx, ledger.Claim{Record: record, Launch: store.Launch{ReportID: snp.ReportID{0xab}}, Fresh: true}))
	must(t, r.book.Note(ctx, audit.Entry{Event: audit.Refusal, About: audit.AboutRefusal{
		Request: audit.Request{SPIFFEID: "spiffe://example.org/vm", Remote: "192.0.2.7:4711", Disk: header.DiskUUID},
		Code:    "denied", Checks: []string{"measurement"}, Reason: `lock 2: measurement is <b>another</b>`}}))
	r.books.Publish(t)
	a := New(kmsID, r.book, func() publish.State {
		state := r.books.State()
		state.At = noon.Add(-2 * time.Second)
		return state
	}, slog.New(slog.DiscardHandler))
	dir, _ := r.books.Log(t)
	a.Watch = Watch{Log: dir, Ill: func() error { return errors.Join(errors.New("crl: it is stale"), errors.New("log: it lags")) },
		CRLs: func() ([]CRL, error) {
			return []CRL{{"CN=ARK-Genoa", noon.Add(-time.Hour), noon.Add(48 * time.Hour)}, {"CN=ARK-Turin", noon.Add(-90 * 24 * time.Hour), noon.Add(-time.Hour)}}, nil
		}}
	return r, a
}

// pageServer serves the page to a browser as somebody with the least role would get it.
func pageServer(t *testing.T, a *Admin) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = adminapi.PathPage
		a.handler().ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, peer{nil, Read, "uid=7"})))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

var pageWants = []string{
	"spiffe://example.org/kms", "ill: crl: it is stale", "ill: log: it lags", "Disks: 2",
	"01000000-0000-0000-0000-000000000000", "enabled, generation 1", "disabled, generation 1", "REPORT_ID", "ab00000000000000", "never",
	"192.0.2.7:4711", "measurement is <b>another</b>", "Log: 6 leaves", "example.org/kms", "CN=ARK-Genoa", "CN=ARK-Turin", "2 days from now",
}

// TestPage: the page says what there is to say, escapes it, and loads nothing.
func TestPage(t *testing.T) {
	_, a := busyAdmin(t)
	response, err := http.Get(pageServer(t, a))
	must(t, err)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	must(t, err)
	text := string(data)
	for _, want := range pageWants {
		if want := strings.NewReplacer("<", "&lt;", ">", "&gt;").Replace(want); !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, never := range []string{"<script", "src=", "url(", "http://", "https://", "@import", "style=", string(key)} {
		if strings.Contains(text, never) {
			t.Errorf("the page has %q", never)
		}
	}
	policy := response.Header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy is %q", policy)
	}
	if t.Failed() {
		t.Log(text)
	}
	response, err = http.Get(pageServer(t, a) + "?after=x")
	must(t, err)
	response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("a bad cursor: status %d", response.StatusCode)
	}
}

// TestPageInBrowser shows the page in a browser, which obeys its policy. With
// ROOTVOUCH_SCREENSHOT it leaves a picture there.
func TestPageInBrowser(t *testing.T) {
	browser := needs.Tool(t, "chromium")
	_, a := busyAdmin(t)
	url := pageServer(t, a)
	dir := t.TempDir()
	run := func(args ...string) (stdout, stderr string) {
		t.Helper()
		args = append([]string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
			"--user-data-dir=" + filepath.Join(dir, "profile"), "--enable-logging=stderr", "--v=0"}, args...)
		cmd := childtest.Tied(exec.CommandContext(t.Context(), browser, append(args, url)...))
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("chromium: %v\n%s", err, &errs)
		}
		return out.String(), errs.String()
	}
	dom, said := run("--dump-dom")
	for _, want := range pageWants {
		if want := strings.NewReplacer("<", "&lt;", ">", "&gt;").Replace(want); !strings.Contains(dom, want) {
			t.Errorf("the page in the browser lacks %q", want)
		}
	}
	if strings.Contains(said, "Content Security Policy") {
		t.Errorf("the page breaks its own policy:\n%s", said)
	}
	picture := filepath.Join(dir, "page.png")
	if to := os.Getenv("ROOTVOUCH_SCREENSHOT"); to != "" {
		picture = to
	}
	run("--screenshot="+picture, "--window-size=1280,900", "--hide-scrollbars")
	data, err := os.ReadFile(picture)
	must(t, err)
	if !bytes.HasPrefix(data, []byte("\x89PNG")) || len(data) < 20_000 {
		t.Errorf("picture has %d bytes: is the page empty?", len(data))
	}
}

// TestExport: a key leaves for the recipients of the configuration alone.
func TestExport(t *testing.T) {
	r, a := busyAdmin(t)
	identity, err := age.GenerateX25519Identity()
	must(t, err)
	client := serveAdmin(t, r, a)
	_, err = client.Export(t.Context(), header.DiskUUID, 0)
	wantStatus(t, "without recipients", http.StatusForbidden, err)
	if a.Recipients, err = ParseRecipients([]string{identity.Recipient().String()}); err != nil {
		t.Fatal(err)
	}
	client.Ticket = "INC-17"
	exported, err := client.Export(t.Context(), header.DiskUUID, 0)
	must(t, err)
	plain, err := age.Decrypt(armor.NewReader(strings.NewReader(exported.Sealed)), identity)
	must(t, err)
	if got, err := io.ReadAll(plain); err != nil || !bytes.Equal(got, key) || exported.Generation != 1 {
		t.Errorf("got %x, generation %d, %v", got, exported.Generation, err)
	}
	_, err = client.Export(t.Context(), pins.UUID{9}, 0)
	wantStatus(t, "no such disk", http.StatusNotFound, err)
	if text := r.books.Text(t); !strings.Contains(text, `"event":"export"`) || !strings.Contains(text, identity.Recipient().String()) || !strings.Contains(text, "INC-17") {
		t.Error("the log lacks the export")
	}
	for _, bad := range []string{"", "age1x", "AGE-SECRET-KEY-1", "ssh-ed25519 AAAA"} {
		if _, err := ParseRecipients([]string{bad}); err == nil {
			t.Errorf("took %q as a recipient", bad)
		}
	}
}

// TestMadeKey: a key that is made here is in the book before anybody has it, serves one disk, and
// waits for it for a while.
func TestMadeKey(t *testing.T) {
	r, ctx := newRig(t), t.Context()
	made, got, err := r.client.MakeKey(ctx)
	must(t, err)
	_, other, err := r.client.MakeKey(ctx)
	must(t, err)
	if len(got) != len(key) || bytes.Equal(got, other) || !made.Until.Equal(noon.Add(store.MadeLife)) {
		t.Errorf("got a key of %d bytes until %s", len(got), made.Until)
	}
	p := put(t)
	p.MadeKey = made.ID
	if _, err := r.client.Put(ctx, p, got); err == nil {
		t.Error("sent a key that the server has")
	}
	shown, err := r.client.Put(ctx, p, nil)
	must(t, err)
	record, err := r.book.Records.Get(ctx, header.DiskUUID)
	must(t, err)
	if k, err := r.book.Records.Key(record); err != nil || !bytes.Equal(k, got) || shown.Generation != 1 {
		t.Errorf("the record has another key: %v", err)
	}
	p.DiskUUID, p.SameVM = pins.UUID{2}, true
	wantStatus(t, "a second disk", http.StatusNotFound, second(r.client.Put(ctx, p, nil)))
	p.MadeKey = "x"
	wantStatus(t, "no name", http.StatusBadRequest, second(r.client.Put(ctx, p, nil)))
	if text := r.books.Text(t); !strings.Contains(text, `"event":"make key"`) || !strings.Contains(text, made.ID) {
		t.Error("the log lacks it")
	}
}

// TestBackup copies the store while it is used.
func TestBackup(t *testing.T) {
	r, a := busyAdmin(t)
	client := serveAdmin(t, r, a)
	path := filepath.Join(t.TempDir(), "copy.db")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	must(t, err)
	n, err := client.Backup(t.Context(), f)
	must(t, err)
	must(t, f.Close())
	must(t, second(client.Enable(t.Context(), pins.UUID{2})))
	engine, err := boltkv.Open(path)
	must(t, err)
	defer engine.Close()
	was, err := r.books.Store.On(engine).Get(t.Context(), pins.UUID{2})
	if err != nil || was.State != store.Disabled || n == 0 {
		t.Errorf("the copy of %d bytes has it %s, %v, want disabled as it was then", n, was.State, err)
	}
	if text := r.books.Text(t); !strings.Contains(text, `"event":"backup"`) {
		t.Error("the log lacks the backup")
	}
}

// serveAdmin serves another Admin of the same book.
func serveAdmin(t *testing.T, r *rig, a *Admin) *adminapi.Client {
	t.Helper()
	path := r.socket + "2"
	var l net.Listener
	l, err := Listen(path, Roles{})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return adminapi.NewClient(path)
}
