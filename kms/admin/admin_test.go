package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

var (
	noon   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	kmsID  = spiffeid.RequireFromString("spiffe://example.org/kms")
	header = pins.Header{DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{0xb1}}
	key    = bytes.Repeat([]byte{0x5e}, keyapi.KeySize)
)

func clock() time.Time { return noon }

type rig struct {
	client *adminapi.Client
	socket string
	books  *kmstest.Book
	book   *ledger.Ledger
	out    *bytes.Buffer
	lack   []string // servers that lack the current key-encryption key
}

func newRig(t testing.TB) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{socket: filepath.Join(dir, "admin.sock"), books: kmstest.New(t, dir, clock), out: new(bytes.Buffer)}
	r.book = r.books.Ledger
	l, err := Listen(r.socket, Roles{})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	a := New(kmsID, r.book, r.books.State, slog.New(slog.NewTextHandler(r.out, nil)))
	a.Lack = func(string) []string { return r.lack }
	go func() { done <- a.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.client = adminapi.NewClient(r.socket)
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func values(t testing.TB, change func(*refval.Values)) json.RawMessage {
	t.Helper()
	v := refval.New(refval.EmulatedARK(pins.Digest{1}), []refval.Measurement{{Digest: snp.Measurement{1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC-v4"}})
	if change != nil {
		change(&v)
	}
	data, err := v.Encode()
	must(t, err)
	return data
}

func put(t *testing.T) adminapi.Put {
	return adminapi.Put{Header: header, SPIFFEID: "spiffe://example.org/vm", Evidence: "required", ReferenceValues: values(t, nil)}
}

func TestLifeOfARecord(t *testing.T) {
	r, ctx := newRig(t), t.Context()
	got, err := r.client.Put(ctx, put(t), key)
	must(t, err)
	if got.State != "enabled" || got.Generation != 1 || got.Header != header || got.ReferenceValuesSHA256 == (pins.Digest{}) {
		t.Errorf("got %+v", got)
	}
	shown, err := r.client.Get(ctx, header.DiskUUID)
	must(t, err)
	if _, err := refval.Decode(shown.ReferenceValues); err != nil {
		t.Error(err)
	}
	all, err := r.client.List(ctx)
	must(t, err)
	if len(all) != 1 || all[0].ReferenceValues != nil {
		t.Errorf("got %+v", all)
	}
	got, err = r.client.Disable(ctx, header.DiskUUID)
	must(t, err)
	if got.State != "disabled" {
		t.Errorf("got %+v, want it disabled", got)
	}
	got, err = r.client.Enable(ctx, header.DiskUUID)
	must(t, err)
	if got.State != "enabled" {
		t.Errorf("got %+v, want it enabled", got)
	}
	again := put(t)
	again.Replace = true
	got, err = r.client.Put(ctx, again, key)
	must(t, err)
	if got.Generation != 2 {
		t.Errorf("got generation %d, want 2", got.Generation)
	}
	record, err := r.book.Records.Get(ctx, header.DiskUUID)
	must(t, err)
	must(t, r.book.Release(ctx, ledger.Claim{Record: record, Launch: store.Launch{ReportID: snp.ReportID{7}}, Fresh: true}))
	releases, err := r.client.Releases(ctx, header.DiskUUID)
	must(t, err)
	if len(releases) != 1 || releases[0].ReportID != (snp.ReportID{7}) || releases[0].Generation != 2 {
		t.Errorf("got %+v", releases)
	}
	status, err := r.client.Status(ctx)
	must(t, err)
	if status.SPIFFEID != kmsID.String() || status.LogKey != r.book.Records.LogPublic() || !strings.HasPrefix(status.Checkpoint, "example.org/kms\n0\n") {
		t.Errorf("got %+v", status)
	}
	must(t, r.client.Delete(ctx, header.DiskUUID))
	if releases, err = r.client.Releases(ctx, header.DiskUUID); err != nil || len(releases) != 1 {
		t.Errorf("after Delete: got releases %+v, %v", releases, err)
	}
	if shown, err = r.client.Get(ctx, header.DiskUUID); err != nil || shown.Kept == nil || shown.Kept.Why != "deleted" || len(shown.Before) != 1 {
		t.Errorf("after Delete: got %+v, %v, want the record that is kept", shown, err)
	}
	wantStatus(t, "show", http.StatusNotFound, second(r.client.Get(ctx, pins.UUID{9})))
	wantStatus(t, "disable", http.StatusNotFound, second(r.client.Disable(ctx, header.DiskUUID)))
	wantStatus(t, "delete", http.StatusNotFound, r.client.Delete(ctx, header.DiskUUID))

	var events []audit.Event
	for _, leaf := range r.books.Leaves(t) {
		events = append(events, leaf.Event)
		if about, ok := leaf.About.(audit.AboutChange); ok && !strings.HasPrefix(about.Actor, "uid=") {
			t.Errorf("actor is %q", about.Actor)
		}
	}
	if got, want := join(events), "init put disable enable put release delete"; got != want {
		t.Errorf("audit log has %q, want %q", got, want)
	}
	if strings.Contains(r.books.Text(t), string(key)) || bytes.Contains(r.out.Bytes(), key) {
		t.Error("a log shows the key")
	}
}

func second[T any](_ T, err error) error { return err }

func join(events []audit.Event) string {
	var words []string
	for _, e := range events {
		words = append(words, string(e))
	}
	return strings.Join(words, " ")
}

func wantStatus(t *testing.T, what string, want int, err error) {
	t.Helper()
	var failed *adminapi.Error
	if !errors.As(err, &failed) || failed.Status != want {
		t.Errorf("%s: got error %v, want HTTP status %d", what, err, want)
	}
}

func TestPutRefuses(t *testing.T) {
	otherPins := pins.New(pins.Verity{RootHash: pins.Digest{1}, DataBlocks: 1, HashOffset: 4096, PayloadOffset: 1 << 20, PayloadSize: 12288},
		pins.Header{DiskUUID: pins.UUID{9}, HeaderSHA256: pins.Digest{9}}, pins.EROFS, pins.InitOK)
	for _, c := range []struct {
		name   string
		change func(*adminapi.Put)
		key    []byte
		status int
		want   string
	}{
		{"SPIFFE ID", func(p *adminapi.Put) { p.SPIFFEID = "example.org/vm" }, key, 400, "spiffe_id"},
		{"trust domain", func(p *adminapi.Put) { p.SPIFFEID = "spiffe://example.com/vm" }, key, 400, "trust domain example.org"},
		{"trust domain's own ID", func(p *adminapi.Put) { p.SPIFFEID = "spiffe://example.org" }, key, 400, "want a workload"},
		{"no header pin", func(p *adminapi.Put) { p.HeaderSHA256 = pins.Digest{} }, key, 400, "luks2_header_sha256"},
		{"no rule", func(p *adminapi.Put) { p.Evidence = "" }, key, 400, `evidence is ""`},
		{"no reference values", func(p *adminapi.Put) { p.ReferenceValues = nil }, key, 400, "reference values"},
		{"broken reference values", func(p *adminapi.Put) { p.ReferenceValues = []byte(`{"version":1}`) }, key, 400, "reference values"},
		{"useless reference values", func(p *adminapi.Put) { p.Evidence = "not-required" }, key, 400, "be unused"},
		{"reference values of another disk", func(p *adminapi.Put) {
			p.ReferenceValues = values(t, func(v *refval.Values) { v.Pins = refval.Exactly(otherPins) })
		}, key, 400, "of disk 09000000"},
		{"key of zeros", func(*adminapi.Put) {}, make([]byte, keyapi.KeySize), 400, "key is all zero"},
		{"second time", func(p *adminapi.Put) { p.DiskUUID = pins.UUID{2} }, key, 409, "already has a record"},
		{"overlap", func(p *adminapi.Put) { p.DiskUUID = pins.UUID{3} }, key, 409, "one VM could have both keys"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			two := put(t)
			two.DiskUUID = pins.UUID{2}
			must(t, second(r.client.Put(t.Context(), two, key)))
			p := put(t)
			p.SameVM = c.name != "overlap"
			c.change(&p)
			_, err := r.client.Put(t.Context(), p, c.key)
			wantStatus(t, c.name, c.status, err)
			if err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
			if all, err := r.client.List(t.Context()); err != nil || len(all) != 1 {
				t.Errorf("there are %d records, %v, want 1", len(all), err)
			}
		})
	}
}

func TestNoStoreNoChange(t *testing.T) {
	r := newRig(t)
	must(t, second(r.client.Put(t.Context(), put(t), key)))
	db := filepath.Join(r.books.Dir, "kms.db")
	must(t, os.Rename(db, db+".away"))
	other := put(t)
	other.DiskUUID, other.SameVM = pins.UUID{2}, true
	wantStatus(t, "put", 503, second(r.client.Put(t.Context(), other, key)))
	wantStatus(t, "disable", 503, second(r.client.Disable(t.Context(), header.DiskUUID)))
	wantStatus(t, "delete", 503, r.client.Delete(t.Context(), header.DiskUUID))
	must(t, os.Rename(db+".away", db))
	r.books.Close()
	must(t, r.books.Open())
	all, err := r.books.Store.List(t.Context(), pins.UUID{}, 10)
	must(t, err)
	if len(all) != 1 || all[0].State != store.Enabled {
		t.Errorf("got %+v, want it unchanged", all)
	}
}

func TestReadPutRefuses(t *testing.T) {
	good, err := adminapi.EncodePut(put(t), key)
	must(t, err)
	for _, c := range []struct {
		name string
		body []byte
	}{
		{"empty", nil}, {"short key", good[:len(good)-1]}, {"trailing byte", append(bytes.Clone(good), 1)},
		{"short", good[:10]}, {"huge", append([]byte{0xff, 0xff, 0xff, 0xff}, good...)},
	} {
		if _, _, err := adminapi.ReadPut(bytes.NewReader(c.body)); err == nil {
			t.Errorf("%s: got no error", c.name)
		}
	}
	if _, got, err := adminapi.ReadPut(bytes.NewReader(good)); err != nil || !bytes.Equal(got, key) {
		t.Errorf("got %x, %v", got, err)
	}
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := Listen(path, Roles{})
	must(t, err)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info.Mode(), err)
	}
	if _, err := Listen(path, Roles{}); err == nil {
		t.Error("took over a socket that is served")
	}
	// A process that was killed leaves its socket.
	l.(*listener).Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen(path, Roles{}); err != nil {
		t.Fatal(err)
	}
	l.Close()
	must(t, os.WriteFile(path, nil, 0o600))
	if _, err := Listen(path, Roles{}); err == nil {
		t.Error("replaced a file that is no socket")
	}
}

// TestEvidenceWords: flag, API and store have one word for each rule.
func TestEvidenceWords(t *testing.T) {
	if adminapi.EvidenceRequired != string(store.EvidenceRequired) || adminapi.EvidenceNotRequired != string(store.EvidenceNotRequired) {
		t.Errorf("the API says %q and %q, the store %q and %q", adminapi.EvidenceRequired, adminapi.EvidenceNotRequired, store.EvidenceRequired, store.EvidenceNotRequired)
	}
}

// TestRootOfTrust: a record changes its root of trust only where the put says so. The
// list and the log show which one it has.
func TestRootOfTrust(t *testing.T) {
	r, ctx := newRig(t), t.Context()
	amd := values(t, func(v *refval.Values) {
		v.RootOfTrust = refval.AMD()
	})
	other := values(t, func(v *refval.Values) { v.RootOfTrust = refval.EmulatedARK(pins.Digest{2}) })
	must(t, second(r.client.Put(ctx, put(t), key)))
	root := refval.EmulatedARK(pins.Digest{1}).String()
	want := []string{root}
	for _, step := range []struct {
		values json.RawMessage
		root   string
	}{
		{amd, "AMD"}, {other, refval.EmulatedARK(pins.Digest{2}).String()}, {nil, "none"}, {values(t, nil), root},
	} {
		p := put(t)
		p.ReferenceValues, p.Replace = step.values, true
		if step.values == nil {
			p.Evidence = "not-required"
		}
		wantStatus(t, "another root: "+step.root, http.StatusConflict, second(r.client.Put(ctx, p, key)))
		all, err := r.client.List(ctx)
		must(t, err)
		if last := want[len(want)-1]; len(all) != 1 || all[0].RootOfTrust != last || all[0].Generation != uint64(len(want)) {
			t.Errorf("after a refusal: got %+v, want generation %d of root %s", all, len(want), last)
		}
		p.ChangeRootOfTrust = true
		got, err := r.client.Put(ctx, p, key)
		must(t, err)
		if got.RootOfTrust != step.root {
			t.Errorf("got root %q, want %q", got.RootOfTrust, step.root)
		}
		p.ChangeRootOfTrust = false
		must(t, second(r.client.Put(ctx, p, key)))
		want = append(want, step.root, step.root)
	}
	p := put(t)
	p.ChangeRootOfTrust = true
	wantStatus(t, "nothing to change", http.StatusBadRequest, second(r.client.Put(ctx, p, key)))
	var logged []string
	for _, leaf := range r.books.Leaves(t) {
		if about, ok := leaf.About.(audit.AboutChange); ok {
			logged = append(logged, about.RootOfTrust)
		}
	}
	if got := strings.Join(logged, "; "); got != strings.Join(want, "; ") {
		t.Errorf("log has %q, want %q", got, want)
	}
}

// TestRewrapWithOthers: a server that lives without the new key-encryption key keeps a rewrap
// from beginning.
func TestRewrapWithOthers(t *testing.T) {
	r := newRig(t)
	r.lack = []string{"kms2"}
	_, err := r.client.Rewrap(t.Context(), "")
	if failure, ok := errors.AsType[*adminapi.Error](err); !ok || failure.Status != http.StatusConflict || !strings.Contains(failure.Message, `["kms2"]`) {
		t.Errorf("got error %v, want a conflict that names kms2", err)
	}
	r.lack = nil
	if _, err := r.client.Rewrap(t.Context(), ""); err != nil {
		t.Error(err)
	}
}
