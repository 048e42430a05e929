package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/fetchkey"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

var (
	kmsID = spiffeid.RequireFromString("spiffe://example.org/kms")
	vmID  = spiffeid.RequireFromString("spiffe://example.org/vm")
	disk  = pins.Header{DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{2}}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// agent is a Workload API whose CA can be rotated.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	t    testing.TB
	stop func()

	mu      sync.Mutex // guards what follows
	ca      *spiffetest.Authority
	changed chan struct{} // closed at the next rotation
}

func newAgent(t testing.TB, socket string) *agent {
	a := &agent{t: t, changed: make(chan struct{})}
	a.rotate()
	l, err := net.Listen("unix", socket)
	must(t, err)
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, a)
	go server.Serve(l)
	a.stop = server.Stop
	t.Cleanup(a.stop)
	return a
}

// rotate replaces the CA, so that SVIDs of the old one are worth nothing.
func (a *agent) rotate() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ca = spiffetest.New(a.t)
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) identity(id spiffeid.ID) (fetchkey.Identity, chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fetchkey.Identity{SVID: a.ca.Issue(a.t, id), Bundles: a.ca.Bundle()}, a.changed
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	for {
		a.mu.Lock()
		ca, changed := a.ca, a.changed
		a.mu.Unlock()
		reply := ca.Response(a.t, spiffeid.RequireFromString("spiffe://example.org/first"), kmsID)
		if err := stream.Send(reply); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// rig is a configured server that runs on demand.
type rig struct {
	t      *testing.T
	dir    string
	config string
	agent  *agent
	chip   *snptest.Signer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), chip: snptest.New(t, snp.Genoa)}
	r.agent = newAgent(t, r.path("agent.sock"))
	r.writeCRL(snptest.Now().Add(-time.Hour), time.Unix(1<<33, 0))
	config, err := json.Marshal(map[string]any{
		"version": 1, "listen": "127.0.0.1:0", "workload_api": "unix://" + r.path("agent.sock"), "spiffe_id": kmsID.String(),
		"admin_socket": r.path("admin.sock"), "store": r.path("kms.db"), "audit_log": r.path("audit.jsonl"),
		"collateral_dir": r.path("collateral"), "kek": map[string]string{"file": r.path("kek")},
	})
	must(t, err)
	r.config = r.path("kms.json")
	must(t, os.WriteFile(r.config, config, 0o600))
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) writeCRL(from, until time.Time) {
	r.t.Helper()
	must(r.t, os.MkdirAll(r.path("collateral"), 0o700))
	crl := r.chip.CRLAt(r.t, from.Unix(), from, until)
	must(r.t, os.WriteFile(r.path("collateral/ark.crl"), crl.Raw, 0o600))
}

// do runs one command and returns its standard output.
func do(args ...string) (string, error) {
	var out bytes.Buffer
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(io.Discard)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // serve may take what it should refuse
	defer cancel()
	err := root.ExecuteContext(ctx)
	return out.String(), err
}

// serve starts the server and returns its address, and a function that stops it
// and gives its log.
func (r *rig) serve() (address string, stop func() string) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	var log bytes.Buffer
	root := newRootCommand()
	root.SetArgs([]string{"serve", "--config", r.config})
	root.SetOut(writer)
	root.SetErr(&log)
	done := make(chan error, 1)
	go func() {
		err := root.ExecuteContext(ctx)
		writer.CloseWithError(io.EOF)
		done <- err
	}()
	line := make([]byte, 200)
	n, err := reader.Read(line)
	if err != nil {
		r.t.Fatalf("the server did not get ready: %v", <-done)
	}
	address, ok := strings.CutPrefix(string(line[:n]), "rootvouch-kms: serving on ")
	address, ok2 := strings.CutSuffix(address, " as "+kmsID.String()+"\n")
	if !ok || !ok2 {
		r.t.Fatalf("ready line is %q", line[:n])
	}
	return address, func() string {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
		return log.String()
	}
}

// fetch gets the key as a launch.
func (r *rig) fetch(address string, launch byte) error {
	_, err := fetchkey.Fetch(r.t.Context(), fetchkey.Config{
		Disk: disk.DiskUUID, Addresses: []string{address}, ServerID: kmsID, Patience: 3 * time.Second,
		Identity: func(context.Context) (fetchkey.Identity, error) {
			id, _ := r.agent.identity(vmID)
			return id, nil
		},
		Evidence: func(data [64]byte) (evidence.Evidence, error) {
			report := r.chip.Unsigned(r.t, data)
			report.ReportID = snp.ReportID{launch}
			return r.chip.Sign(r.t, report), nil
		},
	})
	return err
}

func (r *rig) put() {
	r.t.Helper()
	v := refval.New(refval.EmulatedARK(r.chip.Chain.ARKDigest()), []refval.Measurement{{Digest: snp.Measurement{0x4d, 1}, HostCode: refval.HostCodeNone, VCPUs: 1, CPUType: "EPYC-v4"}})
	values, err := v.Encode()
	must(r.t, err)
	_, err = adminapi.NewClient(r.path("admin.sock")).Put(r.t.Context(), adminapi.Put{
		Header: disk, SPIFFEID: vmID.String(), Evidence: "required", ReferenceValues: values}, bytes.Repeat([]byte{7}, 32))
	must(r.t, err)
}

func TestServe(t *testing.T) {
	r := newRig(t)
	out, err := do("init", "--config", r.config)
	must(t, err)
	if !strings.Contains(out, "made key-encryption key") || !strings.Contains(out, "made store") {
		t.Errorf("init says %q", out)
	}
	if _, err := do("init", "--config", r.config); err == nil {
		t.Error("init took an existing log for a new one")
	}

	address, stop := r.serve()
	r.put()
	must(t, r.fetch(address, 1))
	r.agent.rotate()
	eventually(t, "a fetch after the CA was rotated", func() error { return r.fetch(address, 2) })
	if log := stop(); !strings.Contains(log, "msg=released") || !strings.Contains(log, "waiting for the SVID") {
		t.Errorf("log is %s", log)
	}
	head, err := do("audit", "verify", r.path("audit.jsonl"))
	must(t, err)

	address, stop = r.serve()
	if err := r.fetch(address, 1); err == nil {
		t.Error("a launch got the key again after a restart")
	}
	must(t, r.fetch(address, 3))
	// A CRL that has run out stops releases, a fresh one starts them again.
	r.writeCRL(snptest.Now().Add(-2*time.Hour), snptest.Now().Add(-time.Hour))
	eventually(t, "a refusal after the CRL ran out", func() error {
		if r.fetch(address, 4) == nil {
			return io.EOF
		}
		return nil
	})
	r.writeCRL(snptest.Now().Add(-time.Minute), time.Unix(1<<33, 0))
	eventually(t, "a fetch with a fresh CRL", func() error { return r.fetch(address, 5) })
	stop()

	// What was noted earlier must still be in the log.
	if !strings.Contains(head, "\nnote: without --head this rules out accidents, not a log that was made anew\n") {
		t.Errorf("audit verify claims more than it knows: %s", head)
	}
	_, noted, _ := strings.Cut(head, "head ")
	noted, _, _ = strings.Cut(noted, "\n")
	sequence, _, _ := strings.Cut(noted, ":")
	if said, err := do("audit", "verify", "--head", noted, r.path("audit.jsonl")); err != nil ||
		!strings.Contains(said, "\nlines 1 to "+sequence+" are as they were when the head was noted\n") {
		t.Errorf("audit verify --head: %v, %s", err, said)
	}
	data, err := os.ReadFile(r.path("audit.jsonl"))
	must(t, err)
	must(t, os.WriteFile(r.path("audit.jsonl"), bytes.Replace(data, []byte(`"release"`), []byte(`"refusal"`), 1), 0o600))
	if _, err := do("audit", "verify", r.path("audit.jsonl")); err == nil {
		t.Error("audit verify took a changed log")
	}
	if _, err := do("serve", "--config", r.config); err == nil || !strings.Contains(err.Error(), "was changed") {
		t.Errorf("serve with a changed log: got error %v", err)
	}
}

// TestOldStore puts back an older store with the log of today.
func TestOldStore(t *testing.T) {
	r := newRig(t)
	_, err := do("init", "--config", r.config)
	must(t, err)
	address, stop := r.serve()
	r.put()
	stop()
	old, err := os.ReadFile(r.path("kms.db"))
	must(t, err)
	putBack := func() { must(t, os.WriteFile(r.path("kms.db"), old, 0o600)) }

	address, stop = r.serve()
	must(t, r.fetch(address, 1))
	stop()
	putBack()
	address, stop = r.serve()
	if err := r.fetch(address, 1); err == nil {
		t.Error("a launch got the key again from an older store")
	}
	must(t, r.fetch(address, 2))
	_, err = adminapi.NewClient(r.path("admin.sock")).Disable(t.Context(), disk.DiskUUID)
	must(t, err)
	stop()

	putBack()
	want := "disable of disk " + disk.DiskUUID.String()
	if _, err := do("serve", "--config", r.config); err == nil ||
		!strings.Contains(err.Error(), "store is older than the audit log") || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want one with %q", err, want)
	}
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for range 100 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%s: %v", what, err)
}

func TestServeRefuses(t *testing.T) {
	r := newRig(t)
	serve := func(what, want string) {
		t.Helper()
		if _, err := do("serve", "--config", r.config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", what, err, want)
		}
	}
	serve("nothing there", "key-encryption key")
	_, err := do("init", "--config", r.config)
	must(t, err)

	kek, err := os.ReadFile(r.path("kek"))
	must(t, err)
	kek[0] ^= 1
	must(t, os.WriteFile(r.path("kek"), kek, 0o600))
	serve("other key-encryption key", "another key-encryption key")
	kek[0] ^= 1
	must(t, os.WriteFile(r.path("kek"), kek, 0o600))
	must(t, os.Chmod(r.path("kek"), 0o644))
	serve("key-encryption key for all to read", "mode 0644")
	must(t, os.Chmod(r.path("kek"), 0o600))

	must(t, os.Rename(r.path("audit.jsonl"), r.path("away")))
	serve("no audit log", "opening audit log")
	must(t, os.Rename(r.path("away"), r.path("audit.jsonl")))
	must(t, os.Rename(r.path("kms.db"), r.path("away")))
	serve("no store", "opening store")
	must(t, os.Rename(r.path("away"), r.path("kms.db")))
	must(t, os.Rename(r.path("collateral"), r.path("away")))
	serve("no collateral", "collateral")
}

// TestWaits is a server without an agent: it says so once, and stops when told.
func TestWaits(t *testing.T) {
	r := newRig(t)
	_, err := do("init", "--config", r.config)
	must(t, err)
	r.agent.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	stopping, stop := context.WithCancel(context.Background())
	context.AfterFunc(ctx, stop)
	var log bytes.Buffer
	root := newRootCommand()
	root.SetArgs([]string{"serve", "--config", r.config})
	root.SetErr(&log)
	if err := root.ExecuteContext(stopping); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "SPIRE agent"); n != 1 || !strings.Contains(log.String(), "agent.sock") {
		t.Errorf("log is %s, want one line about the agent", &log)
	}
}

func TestConfig(t *testing.T) {
	good := `{"version":1,"listen":"127.0.0.1:8443","workload_api":"unix:///run/agent.sock","spiffe_id":"spiffe://example.org/kms",` +
		`"admin_socket":"a","store":"b","audit_log":"c","collateral_dir":"d","kek":{"file":"e"}}`
	if _, err := decodeConfig([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"version":1`, `"version":2`, "version is 2"},
		{`"store":"b",`, ``, `"store": missing`},
		{`"store":"b"`, `"store":""`, "store is empty"},
		{`"store"`, `"Store"`, "unknown"},
		{`127.0.0.1:8443`, `127.0.0.1`, "listen"},
		{`unix:///run`, `tcp://run`, "workload_api"},
		{`spiffe://example.org/kms`, `spiffe://example.org`, "spiffe_id"},
		{`{"file":"e"}`, `{}`, "kek"},
		{`{"file":"e"}`, `{"file":"e","credential":"f"}`, "kek"},
	} {
		if _, err := decodeConfig([]byte(strings.Replace(good, c.old, c.new, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.new, err, c.want)
		}
	}
}

func TestUsage(t *testing.T) {
	if got := run([]string{"serve", "--nonsense"}, io.Discard, io.Discard); got != command.ExitUsage {
		t.Errorf("exit status is %d, want %d", got, command.ExitUsage)
	}
	for _, head := range []string{"", "0:" + strings.Repeat("0", 64), "0:" + strings.Repeat("1", 64)} {
		if got := run([]string{"audit", "verify", "--head", head, "/nonexistent"}, io.Discard, io.Discard); got != command.ExitUsage {
			t.Errorf("--head %q: exit status is %d, want %d", head, got, command.ExitUsage)
		}
	}
	if got := run([]string{"audit", "verify", "/nonexistent"}, io.Discard, io.Discard); got != command.ExitError {
		t.Errorf("exit status is %d, want %d", got, command.ExitError)
	}
}
