package faults

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/fetchkey"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/etcdtest"
	"github.com/rootvouch/rootvouch/test/snptest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

var (
	domain = spiffeid.RequireTrustDomainFromString("example.org")
	kmsID  = spiffeid.RequireFromPath(domain, "/kms")
	vmID   = spiffeid.RequireFromPath(domain, "/vm")
	// rolledID is another VM's.
	rolledID = spiffeid.RequireFromPath(domain, "/rolled")
	disk     = pins.UUID{0xd1}
	key      = bytes.Repeat([]byte{7}, 32)
)

// patience is a guest's bound (cmd/fetchkey). No fault lasts as long, so a guest
// that gives up counts as lost.
const patience = 3 * time.Minute

// retryWindow is the time in which the server answers a request again. It is longer
// than patience.
const retryWindow = 210 * time.Second

// all reports whether this is `make faults`, with all rounds.
func all() bool { return os.Getenv("ROOTVOUCH_FAULTS") == "all" }

// rounds returns the number of times that a fault is made.
func rounds(few, many int) int {
	if all() {
		return many
	}
	return few
}

// agent is a Workload API that gives the servers their SVID.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	rig *rig
}

func (a agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	return spiffetest.Stream(stream, func() (*workload.X509SVIDResponse, <-chan struct{}) {
		a.rig.mu.Lock()
		defer a.rig.mu.Unlock()
		answer := a.rig.ca.Response(a.rig.t, kmsID)
		answer.Svids[0].Bundle = a.rig.bundleLocked()
		return answer, a.rig.changed
	})
}

// rig is one key server with a file, or three with an etcd cluster, with their
// SPIRE agent, guests and owners.
type rig struct {
	t       *testing.T
	dir     string
	chip    *snptest.Signer
	values  []byte
	cluster *etcdtest.Cluster
	servers []*server
	results *results

	mu      sync.Mutex // guards what follows
	ca      *spiffetest.Authority
	next    []*spiffetest.Authority // in the bundle before they sign, as SPIRE prepares one
	old     []*spiffetest.Authority // still in the bundle
	vm      *x509svid.SVID
	changed chan struct{} // closed when the bundle or ca changes
}

// server is one process.
type server struct {
	rig                                  *rig
	name, config, address, admin, health string
	log                                  *os.File
	cmd                                  *exec.Cmd
}

// newRig makes the servers, and starts them. The cluster may be nil.
func newRig(t *testing.T, cluster *etcdtest.Cluster) *rig {
	t.Helper()
	return newRigAfter(t, cluster, func(*rig) {})
}

// newRigAfter is newRig with a function that runs between init and the start of the
// first server.
func newRigAfter(t *testing.T, cluster *etcdtest.Cluster, prepare func(*rig)) *rig {
	t.Helper()
	needs.Boot(t)
	dir, err := os.MkdirTemp("", "rv") // short: a socket's path has 107 bytes
	must(t, err)
	w := &rig{t: t, dir: dir, chip: snptest.New(t, snp.Genoa), cluster: cluster, changed: make(chan struct{})}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w.results = newResults(t, w.path("results"))
	w.rotate()
	listener, err := net.Listen("unix", w.path("agent"))
	must(t, err)
	api := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(api, agent{rig: w})
	go api.Serve(listener)
	t.Cleanup(api.Stop)
	must(t, os.Mkdir(w.path("collateral"), 0o700))
	crl := w.chip.CRLAt(t, 1, snptest.Now().Add(-time.Hour), time.Unix(1<<33, 0))
	must(t, os.WriteFile(w.path("collateral/ark.crl"), crl.Raw, 0o600))
	w.values = valuesFor(t, w.chip, 1)
	names := []string{"main"}
	if cluster != nil {
		names = []string{"one", "two", "three"}
	}
	for i, name := range names {
		s := w.server(name)
		w.servers = append(w.servers, s)
		if i == 0 {
			s.configure(secondKEK)
			w.run("kek", "create", "--config", s.config)
		}
		s.configure(kek.DefaultName)
		if i == 0 {
			w.run("init", "--config", s.config)
			prepare(w)
		} else {
			w.run("join", "--config", s.config)
			w.cp(w.servers[0].logDir(), s.logDir())
		}
		s.start()
	}
	t.Cleanup(func() {
		for _, s := range w.servers {
			s.kill()
			if t.Failed() {
				data, _ := os.ReadFile(s.log.Name())
				t.Logf("%s: %s", s.name, data[max(0, len(data)-4000):])
			}
		}
	})
	must(t, w.put(w.servers[0], disk, vmID))
	return w
}

// valuesFor returns a refval.json that accepts the guests of a chip with a launch
// digest. Digest 1 is that of the rig's guests.
func valuesFor(t testing.TB, chip *snptest.Signer, launch byte) []byte {
	t.Helper()
	data, err := refval.New(refval.EmulatedARK(chip.Chain.ARKDigest()), []refval.Measurement{{Digest: snp.Measurement{0x4d, launch},
		HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}},
		Gate: refval.Gate(strings.Repeat("9a", 32)), VCPUs: 1, CPUType: "EPYC-v4"}}).Encode()
	must(t, err)
	return data
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *rig) path(name string) string { return filepath.Join(w.dir, name) }

func (w *rig) command(arguments ...string) *exec.Cmd {
	return exec.Command(needs.Binary(w.t, "rootvouch-kms"), arguments...)
}

func (w *rig) run(arguments ...string) {
	w.t.Helper()
	if out, err := w.command(arguments...).CombinedOutput(); err != nil {
		w.t.Fatalf("rootvouch-kms %s: %v: %s", arguments[0], err, out)
	}
}

func (w *rig) cp(from, to string) {
	w.t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		w.t.Fatalf("copying: %v: %s", err, out)
	}
}

// prepared is the number of CAs that are in the bundle before they sign. A guest
// keeps the bundle of its start. SPIRE prepares one CA, because its CA lives longer
// than a boot takes.
const prepared = 10

// rotate makes the prepared CA sign from now on, and prepares another one. SVIDs of
// earlier CAs stay valid until drop.
func (w *rig) rotate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ca != nil {
		w.old = append(w.old, w.ca)
	}
	for len(w.next) <= prepared {
		w.next = append(w.next, spiffetest.New(w.t))
	}
	w.ca, w.next = w.next[0], w.next[1:]
	w.vm = w.ca.Issue(w.t, vmID)
	w.changedLocked()
}

// drop removes the CAs that no longer sign from the bundle.
func (w *rig) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.old = nil
	w.changedLocked()
}

func (w *rig) changedLocked() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *rig) authoritiesLocked() []*x509.Certificate {
	all := []*x509.Certificate{w.ca.Certificate}
	for _, ca := range slices.Concat(w.next, w.old) {
		all = append(all, ca.Certificate)
	}
	return all
}

// bundleLocked returns the bundle in the form of the Workload API: certificates in
// DER, one after the other.
func (w *rig) bundleLocked() (data []byte) {
	for _, cert := range w.authoritiesLocked() {
		data = append(data, cert.Raw...)
	}
	return data
}

func (w *rig) identity(context.Context) (fetchkey.Identity, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fetchkey.Identity{SVID: w.vm, Bundles: x509bundle.FromX509Authorities(domain, w.authoritiesLocked())}, nil
}

func free(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func (w *rig) server(name string) *server {
	w.t.Helper()
	s := &server{rig: w, name: name, config: w.path(name + ".json"), address: free(w.t), admin: w.path(name + ".sock"), health: free(w.t)}
	must(w.t, os.Mkdir(w.path(name), 0o700))
	var err error
	s.log, err = os.Create(w.path(name + ".log"))
	must(w.t, err)
	return s
}

// secondKEK is the name of the key-encryption key that replaces the first one.
const secondKEK = "second"

// configure writes the server's configuration. One key-encryption key seals, and
// the others only open.
func (s *server) configure(seals string, opens ...string) {
	w := s.rig
	old := []map[string]string{}
	for _, name := range opens {
		old = append(old, w.kek(name))
	}
	config := map[string]any{
		"version": 1, "listen": s.address, "health_listen": s.health, "workload_api": "unix://" + w.path("agent"), "spiffe_id": kmsID.String(),
		"admin_socket": s.admin, "log_dir": s.logDir(), "collateral_dir": w.path("collateral"), "kek": w.kek(seals), "old_keks": old,
	}
	if w.cluster == nil {
		config["store"] = s.store()
	} else {
		config["etcd"], config["replica"] = w.cluster.Source("rootvouch/"), s.name
	}
	data, err := json.Marshal(config)
	must(w.t, err)
	must(w.t, os.WriteFile(s.config, data, 0o600))
}

func (w *rig) kek(name string) map[string]string {
	return map[string]string{"name": name, "file": w.path("kek-" + name)}
}

func (s *server) store() string  { return s.rig.path(s.name + "/kms.db") }
func (s *server) logDir() string { return s.rig.path(s.name + "/log") }

// start starts the process, and waits until callers can reach it.
func (s *server) start() {
	s.rig.t.Helper()
	if err := s.tryStart(); err != nil {
		s.rig.t.Fatal(err)
	}
}

func (s *server) tryStart() error {
	s.cmd = exec.Command(needs.Binary(s.rig.t, "rootvouch-kms"), "serve", "--config", s.config)
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := startAsUnit(s.cmd, needs.Repository(s.rig.t)); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, "serving on") {
		s.kill()
		return fmt.Errorf("%s does not serve: %q, %v", s.name, line, err)
	}
	return nil
}

// startAsUnit starts a command with the timer slack of the server's unit.
func startAsUnit(cmd *exec.Cmd, repository string) (err error) {
	unit, err := os.ReadFile(filepath.Join(repository, "packaging/systemd/rootvouch-kms.service"))
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(unit), "\nTimerSlackNSec=")
	value, _, _ := strings.Cut(rest, "\n")
	slack, err := time.ParseDuration(value)
	if err != nil {
		return fmt.Errorf("unit has TimerSlackNSec=%q, want a time", value)
	}
	// A child has the slack of the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("reading the timer slack: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0); err != nil {
		return fmt.Errorf("setting the timer slack: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(before), 0, 0, 0)) }()
	return cmd.Start()
}

func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.cmd = nil
}

// stop ends the process as an operator does.
func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		s.rig.t.Errorf("%s: %v", s.name, err)
	}
	s.cmd = nil
}

func (w *rig) put(s *server, disk pins.UUID, id spiffeid.ID, changes ...func(*adminapi.Put)) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	p := adminapi.Put{Header: pins.Header{DiskUUID: disk, HeaderSHA256: pins.Digest{2}},
		SPIFFEID: id.String(), Evidence: adminapi.EvidenceRequired, ReferenceValues: w.values}
	for _, change := range changes {
		change(&p)
	}
	record, err := adminapi.NewClient(s.admin).Put(ctx, p, bytes.Clone(key))
	if err == nil {
		w.results.write(result{Put: p.DiskUUID, Generation: record.Generation, Outcome: gotKey})
	}
	return err
}

// launch plays a VM that boots. It asks until it has its key, and records the
// result.
func (w *rig) launch(report snp.ReportID, addresses []string) outcome {
	return w.fetch(report, addresses, gotRefusal)
}

func (w *rig) fetch(report snp.ReportID, addresses []string, refused outcome) outcome {
	return w.fetchAs(guest{report, disk, w.identity}, addresses, refused)
}

// guest is what a VM asks with.
type guest struct {
	report   snp.ReportID
	disk     pins.UUID
	identity func(context.Context) (fetchkey.Identity, error)
}

func (w *rig) fetchAs(g guest, addresses []string, refused outcome) outcome {
	released, err := fetchkey.Fetch(w.t.Context(), fetchkey.Config{
		Disk: g.disk, Addresses: addresses, ServerID: kmsID, Patience: patience, Identity: g.identity,
		Evidence: func(data [64]byte) (evidence.Evidence, error) {
			r := w.chip.Unsigned(w.t, data)
			r.ReportID = g.report
			return w.chip.Sign(w.t, r), nil
		},
	})
	got := result{Launch: g.report, Outcome: gotKey}
	switch {
	case err == nil && !bytes.Equal(released.Key[:], key):
		got.Outcome, got.Reason = wrongKey, "it is another key"
	case errors.Is(err, fetchkey.ErrRefused):
		got.Outcome, got.Reason = refused, err.Error()
	case err != nil:
		got.Outcome, got.Reason = gaveUp, err.Error()
	}
	w.results.write(got)
	return got.Outcome
}

// contend plays one of several callers that race for a launch's key. A refused
// caller has lost.
func (w *rig) contend(report snp.ReportID, addresses []string) {
	w.fetch(report, addresses, gotNothing)
}

// addresses returns the addresses of all servers, with another one first each time.
func (w *rig) addresses(first int) []string {
	var list []string
	for i := range w.servers {
		list = append(list, w.servers[(first+i)%len(w.servers)].address)
	}
	return list
}

// load runs guests that boot, and owners that register disks, until it is stopped.
type load struct {
	done   atomic.Int64 // launches that have their key
	puts   atomic.Int64
	stop   func()
	moved  chan struct{} // of size 1: one more has its key
	waited sync.WaitGroup
}

func (w *rig) load(guests int) *load {
	l := &load{moved: make(chan struct{}, 1)}
	stopped := make(chan struct{})
	l.stop = sync.OnceFunc(func() { close(stopped); l.waited.Wait() })
	w.t.Cleanup(l.stop)
	running := func() bool {
		select {
		case <-stopped:
			return false
		default:
			return w.t.Context().Err() == nil
		}
	}
	for i := range guests {
		l.waited.Go(func() {
			for n := i; running(); n++ {
				if w.launch(newReportID(w.t), w.addresses(n)) == gotKey {
					l.done.Add(1)
					select {
					case l.moved <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	l.waited.Go(func() {
		for n := 0; running(); n++ {
			id := newReportID(w.t)
			err := w.put(w.servers[n%len(w.servers)], pins.UUID(id[:16]), spiffeid.RequireFromPathf(domain, "/put/%x", id[:8]))
			if err == nil {
				l.puts.Add(1)
			}
			time.Sleep(20 * time.Millisecond) // a load, and no wait for anything
		}
	})
	return l
}

// more waits until n more launches have their key.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.done.Load() + n
	limit := time.After(2 * patience)
	for l.done.Load() < want {
		select {
		case <-l.moved:
		case <-limit:
			t.Fatalf("%d launches have their key, want %d", l.done.Load(), want)
		}
	}
}

func newReportID(t testing.TB) snp.ReportID {
	var id snp.ReportID
	_, err := rand.Read(id[:])
	must(t, err)
	return id
}

// judge stops the load and the servers, and runs the checker.
func (w *rig) judge(l *load) {
	w.t.Helper()
	l.stop()
	for _, s := range w.servers {
		if s.cmd != nil {
			s.stop()
		}
	}
	var logs []string
	for _, s := range w.servers {
		logs = append(logs, s.logDir())
	}
	out, err := check(w.results.path, logs...)
	w.t.Logf("%d launches and %d puts under faults; the checker: %s", l.done.Load(), l.puts.Load(), out)
	if err != nil {
		w.t.Errorf("the checker: %v", err)
	}
}
