package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
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
	"github.com/rootvouch/rootvouch/test/childtest"
	"github.com/rootvouch/rootvouch/test/snptest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
	"github.com/rootvouch/rootvouch/test/witnesstest"
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

func (a *agent) identity(id spiffeid.ID) fetchkey.Identity {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fetchkey.Identity{SVID: a.ca.Issue(a.t, id), Bundles: a.ca.Bundle()}
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	return spiffetest.Stream(stream, func() (*workload.X509SVIDResponse, <-chan struct{}) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.ca.Response(a.t, spiffeid.RequireFromString("spiffe://example.org/first"), kmsID), a.changed
	})
}

// rig is a configured server that runs on demand.
type rig struct {
	t      *testing.T
	dir    string
	config string
	health string // address of /live and /ready
	agent  *agent
	chip   *snptest.Signer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), chip: snptest.New(t, snp.Genoa)}
	r.agent = newAgent(t, r.path("agent.sock"))
	r.writeCRL(snptest.Now().Add(-time.Hour), time.Unix(1<<33, 0))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r.health = free.Addr().String()
	free.Close()
	config, err := json.Marshal(map[string]any{
		"health_listen": r.health,
		"version":       1, "listen": "127.0.0.1:0", "workload_api": "unix://" + r.path("agent.sock"), "spiffe_id": kmsID.String(),
		"admin_socket": r.path("admin.sock"), "store": r.path("kms.db"), "log_dir": r.path("log"),
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
			id := r.agent.identity(vmID)
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
	v := refval.New(refval.EmulatedARK(r.chip.Chain.ARKDigest()), []refval.Measurement{{Digest: snp.Measurement{0x4d, 1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC-v4"}})
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
	plain, err := do("audit", "verify", r.path("log"))
	must(t, err)
	kept, err := os.ReadFile(r.path("log/checkpoint"))
	must(t, err)
	must(t, os.WriteFile(r.path("kept"), kept, 0o600))

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

	// What was there when a checkpoint was kept must still be in the log.
	for _, want := range []string{"without --log-key this detects accidents", "without --checkpoint this cannot detect a log that the server itself signed"} {
		if !strings.Contains(plain, want) {
			t.Errorf("audit verify claims more than it knows: %s", plain)
		}
	}
	public, err := os.ReadFile(r.path("log/key"))
	must(t, err)
	logKey := "--log-key=" + strings.TrimSpace(string(public))
	said, err := do("audit", "verify", logKey, "--checkpoint", r.path("kept"), r.path("log"))
	if err != nil || !strings.Contains(said, "are unchanged since the checkpoint was kept") || strings.Contains(said, "note:") {
		t.Errorf("audit verify --checkpoint: %v, %s", err, said)
	}
	if said, err = do("audit", "replay", logKey, r.path("log")); err != nil || !strings.Contains(said, "5 releases were judged again, 5 of them by evidence: 0 should not have happened") {
		t.Errorf("audit replay: %v, %s", err, said)
	}
	r.auditReads(logKey)

	// Another log of the same key's: not this one.
	other := newRig(t)
	_, err = do("init", "--config", other.config)
	must(t, err)
	if _, err := do("audit", "verify", logKey, other.path("log")); err == nil {
		t.Error("audit verify took another server's log")
	}
	// An older copy of the log verifies, and is not what the checkpoint was of.
	now, err := os.ReadFile(r.path("log/checkpoint"))
	must(t, err)
	must(t, os.WriteFile(r.path("newest"), now, 0o600))
	must(t, os.WriteFile(r.path("log/checkpoint"), kept, 0o600))
	if _, err := do("audit", "verify", logKey, "--checkpoint", r.path("newest"), r.path("log")); err == nil || !strings.Contains(err.Error(), "it was cut") {
		t.Errorf("an older log: got error %v", err)
	}
	must(t, os.WriteFile(r.path("log/checkpoint"), now, 0o600))

	// Every file of the log counts.
	changed := 0
	must(t, filepath.WalkDir(r.path("log"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		must(t, err)
		bad := bytes.Clone(data)
		bad[len(bad)/2] ^= 1
		must(t, os.WriteFile(path, bad, 0o600))
		if _, err := do("audit", "verify", r.path("log")); err == nil {
			t.Errorf("audit verify took a changed %s", path)
		}
		must(t, os.WriteFile(path, data, 0o600))
		changed++
		return nil
	}))
	if changed < 8 {
		t.Errorf("the log has %d files, want more", changed)
	}
	must(t, os.RemoveAll(r.path("log/tile/0")))
	if _, err := do("serve", "--config", r.config); err == nil || !strings.Contains(err.Error(), "log was cut or changed") {
		t.Errorf("serve with a changed log: got error %v", err)
	}
}

// auditReads has the log read by the commands that show it.
func (r *rig) auditReads(logKey string) {
	r.t.Helper()
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"list"}, []string{"LEAF", "init", "put", "release", "refusal", "already released", disk.DiskUUID.String()}},
		{[]string{"list", "--event", "refusal", "--disk-uuid", disk.DiskUUID.String()}, []string{"refusal", "already released"}},
		{[]string{"list", "--caller", "spiffe://example.org/nobody"}, []string{"LEAF"}},
		{[]string{"export", "--jsonl", "--event", "put", "--since", "1h"}, []string{`{"leaf":2,"is":{"version":1,"lane":"main"`}},
	} {
		said, err := do(append(append([]string{"audit"}, c.args...), logKey, r.path("log"))...)
		if err != nil {
			r.t.Errorf("audit %v: %v", c.args, err)
		}
		for _, want := range c.want {
			if !strings.Contains(said, want) {
				r.t.Errorf("audit %v lacks %q: %s", c.args, want, said)
			}
		}
		if c.args[0] == "list" && len(c.args) > 1 && strings.Contains(said, "release ") {
			r.t.Errorf("audit %v has what was not asked for: %s", c.args, said)
		}
	}
	said, err := do("audit", "show", logKey, r.path("log"), "2")
	if err != nil || !strings.Contains(said, `"event": "put"`) || strings.Contains(said, `"event": "release"`) {
		r.t.Errorf("audit show: %v, %s", err, said)
	}
	if _, err := do("audit", "show", logKey, r.path("log"), "100000"); err == nil {
		r.t.Error("audit show shows a leaf that there is not")
	}
}

func (r *rig) get(path string) (int, string) {
	r.t.Helper()
	response, err := http.Get("http://" + r.health + path)
	must(r.t, err)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	must(r.t, err)
	return response.StatusCode, string(data)
}

// TestHealth is a server that systemd started, and that gets ill.
func TestHealth(t *testing.T) {
	r := newRig(t)
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: r.path("notify"), Net: "unixgram"})
	must(t, err)
	defer manager.Close()
	heard := make(chan string, 1000)
	go func() {
		b := make([]byte, 200)
		for {
			n, err := manager.Read(b)
			if err != nil {
				close(heard)
				return
			}
			heard <- string(b[:n])
		}
	}()
	hear := func(want string) {
		t.Helper()
		for {
			select {
			case got := <-heard:
				if strings.HasPrefix(got, want) {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("systemd did not hear %q", want)
			}
		}
	}
	t.Setenv("NOTIFY_SOCKET", r.path("notify"))
	t.Setenv("WATCHDOG_USEC", "20000")
	_, err = do("init", "--config", r.config)
	must(t, err)
	if said, err := do("check", "--config", r.config); err != nil || strings.Count(said, "ok ") != 3 {
		t.Errorf("check: %v, %s", err, said)
	}
	address, stop := r.serve()
	hear("READY=1")
	hear("WATCHDOG=1")
	r.put()
	must(t, r.fetch(address, 1))
	for _, path := range []string{"/live", "/ready"} {
		if status, said := r.get(path); status != 200 || said != "ok\n" {
			t.Errorf("%s: got %d, %s", path, status, said)
		}
	}
	_, metrics := r.get("/metrics")
	for _, want := range []string{`answer_seconds_count{code="ok",request="release"} 1`, `ill{check="crl expires"} 0`, "rootvouch_kms_crl_next_update_timestamp_seconds 8.58", "rootvouch_kms_store_bytes"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %q:\n%s", want, metrics)
		}
	}
	if said, err := do("check", "--config", r.config); err != nil || !strings.Contains(said, "a server has them open") {
		t.Errorf("check beside the server: %v, %s", err, said)
	}

	// The CRL runs out; SIGHUP has it seen at once, and ends nothing.
	r.writeCRL(snptest.Now().Add(-2*time.Hour), snptest.Now().Add(-time.Hour))
	must(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	hear("RELOADING=1")
	hear("READY=1")
	if status, said := r.get("/ready"); status != 503 || !strings.Contains(said, "is fresh") {
		t.Errorf("/ready without a fresh CRL: got %d, %s", status, said)
	}
	if status, _ := r.get("/live"); status != 200 {
		t.Errorf("/live without a fresh CRL: got %d", status)
	}
	if _, err := do("check", "--config", r.config); err == nil || !strings.Contains(err.Error(), "collateral: none of the CRLs of 1 issuers is fresh") {
		t.Errorf("check without a fresh CRL: got error %v", err)
	}
	log := stop()
	hear("STOPPING=1")
	if !strings.Contains(log, "read the collateral again") {
		t.Errorf("log is %s", log)
	}
}

// TestHangupWhileWaiting: SIGHUP does not end a server that waits for its SVID.
func TestHangupWhileWaiting(t *testing.T) {
	r := newRig(t)
	_, err := do("init", "--config", r.config)
	must(t, err)
	r.agent.stop()
	self, err := os.Executable()
	must(t, err)
	must(t, os.Symlink(self, r.path("rootvouch-kms")))
	cmd := childtest.Tied(exec.Command(r.path("rootvouch-kms"), "serve", "--config", r.config))
	log, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	defer cmd.Process.Kill()
	lines := bufio.NewReader(log)
	for said := ""; !strings.Contains(said, "waiting for the SVID"); {
		said, err = lines.ReadString('\n')
		must(t, err)
	}
	must(t, cmd.Process.Signal(syscall.SIGHUP))
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if _, err := io.Copy(io.Discard, lines); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("SIGHUP and SIGTERM: got %v, want exit status 0", err)
	}
}

// TestStoreTakenAway: a server whose store was moved away ends, and says so.
func TestStoreTakenAway(t *testing.T) {
	r := newRig(t)
	_, err := do("init", "--config", r.config)
	must(t, err)
	ended := make(chan error, 1)
	ready := make(chan string, 1)
	c, err := loadConfig(r.config)
	must(t, err)
	go func() {
		ended <- serve(t.Context(), c, slog.New(slog.DiscardHandler), nil, func(a string) { ready <- a })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	must(t, os.Rename(r.path("kms.db"), r.path("kms.db.1")))
	r.client().Disable(t.Context(), disk.DiskUUID)
	if _, err := r.client().Status(t.Context()); err == nil {
		_, err = r.client().Put(t.Context(), adminapi.Put{Header: disk, SPIFFEID: vmID.String(), Evidence: "not required"}, bytes.Repeat([]byte{7}, 32))
		if err == nil {
			t.Error("a key was registered in a file that is gone")
		}
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "the store failed") {
		t.Errorf("serve ended with %v", err)
	}
}

func (r *rig) client() *adminapi.Client { return adminapi.NewClient(r.path("admin.sock")) }

// TestOldStore puts back an older store with the log of today.
func TestOldStore(t *testing.T) {
	r := newRig(t)
	_, err := do("init", "--config", r.config)
	must(t, err)
	_, stop := r.serve()
	r.put()
	stop()
	old, err := os.ReadFile(r.path("kms.db"))
	must(t, err)
	putBack := func() { must(t, os.WriteFile(r.path("kms.db"), old, 0o600)) }

	address, stop := r.serve()
	must(t, r.fetch(address, 1))
	stop()
	putBack()
	if _, err := do("serve", "--config", r.config); err == nil || !strings.Contains(err.Error(), "store is older than the log") {
		t.Errorf("got error %v, want that the store is older", err)
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

	must(t, os.Rename(r.path("log"), r.path("away")))
	serve("no log", "opening log")
	must(t, os.Rename(r.path("away"), r.path("log")))
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
		`"admin_socket":"a","store":"b","log_dir":"c","collateral_dir":"d","kek":{"file":"e"}}`
	if _, err := decodeConfig([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"version":1`, `"version":2`, "version is 2"},
		{`"store":"b",`, ``, "store and etcd are absent"},
		{`"store":"b"`, `"store":""`, "store and etcd are absent"},
		{`"store":"b"`, `"store":"b","replica":"one"`, "replica goes only with etcd"},
		{`"store":"b"`, `"store":"b","etcd":{"endpoints":["http://127.0.0.1:1"],"prefix":"x/"}`, "want one of them"},
		{`"store":"b"`, `"etcd":{"endpoints":["http://127.0.0.1:1"],"prefix":"x/"}`, "replica"},
		{`"store":"b"`, `"replica":"One","etcd":{"endpoints":["http://127.0.0.1:1"],"prefix":"x/"}`, "replica"},
		{`"store":"b"`, `"replica":"one","etcd":{"endpoints":["http://10.0.0.1:1"],"prefix":"x/"}`, "http is allowed only on this machine"},
		{`"store"`, `"Store"`, "unknown"},
		{`127.0.0.1:8443`, `127.0.0.1`, "listen"},
		{`127.0.0.1:8443`, `127.0.0.1:99999`, "listen: port"},
		{`"store":"b"`, `"health_listen":"x","store":"b"`, "health_listen"},
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
	for _, args := range [][]string{{"verify", "--log-key", "", "x"}, {"verify", "--witness", "x", "x"}, {"list", "--disk-uuid", "1", "x"},
		{"list", "--event", "gone", "x"}, {"list", "--since", "-1h", "x"}, {"show", "x", "-1"}, {"export", "x"}} {
		if got := run(append([]string{"audit"}, args...), io.Discard, io.Discard); got != command.ExitUsage {
			t.Errorf("audit %v: exit status is %d, want %d", args, got, command.ExitUsage)
		}
	}
	if got := run([]string{"audit", "verify", "/nonexistent"}, io.Discard, io.Discard); got != command.ExitError {
		t.Errorf("exit status is %d, want %d", got, command.ExitError)
	}
}

// TestInitLeavesNothing: an init that fails leaves nothing that it made, and no key of another's
// is removed.
func TestInitLeavesNothing(t *testing.T) {
	for name, spoil := range map[string]func(*rig) error{
		"the log's place is taken":        func(r *rig) error { return os.Mkdir(r.path("log"), 0o700) },
		"the store's place is taken":      func(r *rig) error { return os.WriteFile(r.path("kms.db"), nil, 0o600) },
		"the log has no directory":        func(r *rig) error { return r.reconfigure("log_dir", r.path("none/log")) },
		"the store has no directory":      func(r *rig) error { return r.reconfigure("store", r.path("none/kms.db")) },
		"the log cannot stand in a store": func(r *rig) error { return r.reconfigure("log_dir", r.path("kms.db")) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			must(t, spoil(r))
			before := names(t, r.dir)
			if out, err := do("init", "--config", r.config); err == nil || strings.Contains(out, "made key") {
				t.Errorf("init says %q, %v", out, err)
			}
			if after := names(t, r.dir); !slices.Equal(after, before) {
				t.Errorf("there is %q, want %q", after, before)
			}
			key := bytes.Repeat([]byte{7}, 32)
			must(t, os.WriteFile(r.path("kek"), key, 0o600))
			if _, err := do("init", "--config", r.config); err == nil {
				t.Error("init took it")
			}
			if kept, err := os.ReadFile(r.path("kek")); err != nil || !bytes.Equal(kept, key) {
				t.Errorf("the key that was there is %x, %v", kept, err)
			}
		})
	}
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all
}

// reconfigure changes one member of the configuration.
func (r *rig) reconfigure(member string, value any) error {
	data, err := os.ReadFile(r.config)
	if err != nil {
		return err
	}
	config := map[string]any{}
	if err := json.Unmarshal(data, &config); err != nil {
		return err
	}
	config[member] = value
	if data, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(r.config, data, 0o600)
}

// TestWitness: a witness cosigns while the server serves; a store and a log that are put back
// together, which fit each other, keep the server from starting.
func TestWitness(t *testing.T) {
	r := newRig(t)
	_, err := do("init", "--config", r.config)
	must(t, err)
	public, err := os.ReadFile(r.path("log/key"))
	must(t, err)
	w := witnesstest.New(t, "witness.example", strings.TrimSpace(string(public)))
	must(t, r.reconfigure("witnesses", []map[string]string{{"url": w.URL, "key": w.Key}}))
	address, stop := r.serve()
	r.put()
	must(t, r.fetch(address, 1))
	stop()
	_, stop = r.serve() // which has it cosigned
	stop()
	if w.Seen().Size < 3 {
		t.Errorf("the witness has seen %d leaves", w.Seen().Size)
	}
	out, err := do("audit", "verify", "--witness", w.Key, r.path("log"))
	if err != nil || !strings.Contains(out, "witnesses cosigned leaves 0 to ") {
		t.Errorf("audit verify says %q, %v", out, err)
	}
	if _, err := do("audit", "verify", "--witness", witnesstest.New(t, "other.example", strings.TrimSpace(string(public))).Key, r.path("log")); err == nil {
		t.Error("the cosignature of another witness is there")
	}
	older := t.TempDir()
	copyTo := func(from, to string) {
		t.Helper()
		if out, err := exec.Command("cp", "-a", from+"/kms.db", from+"/log", to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	copyTo(r.dir, older)
	address, stop = r.serve()
	must(t, r.fetch(address, 2))
	stop()
	_, stop = r.serve()
	stop()
	must(t, os.RemoveAll(r.path("log")))
	copyTo(older, r.dir)
	if _, err := do("serve", "--config", r.config); err == nil || !strings.Contains(err.Error(), "a witness has cosigned a larger log") {
		t.Errorf("with an older store and log: got error %v", err)
	}
	must(t, r.reconfigure("witnesses", []map[string]string{{"url": "http://127.0.0.1:1/", "key": w.Key}}))
	_, stop = r.serve() // a witness that does not answer is no reason not to serve
	if log := stop(); !strings.Contains(log, "the log is not cosigned") {
		t.Errorf("nothing is said of a witness that does not answer: %s", log)
	}
}
