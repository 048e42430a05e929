package faults

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/fetchkey"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/kv/boltkv"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/etcdtest"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// client is a guest that does the least work, because the test measures the server.
type client struct {
	rig  *rig
	svid *x509svid.SVID
	http *http.Client
	base string
}

func (w *rig) client(address string) *client {
	id, err := w.identity(context.Background())
	must(w.t, err)
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	tlsconfig.HookMTLSClientConfig(config, id.SVID, id.Bundles, tlsconfig.AuthorizeID(kmsID))
	return &client{w, id.SVID, &http.Client{Transport: &http.Transport{TLSClientConfig: config, MaxConnsPerHost: 1}}, "https://" + address}
}

func (c *client) post(path string, body []byte) ([]byte, error) {
	response, err := c.http.Post(c.base+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", response.StatusCode, data)
	}
	return data, err
}

// boot makes a launch's requests to the server: a nonce and a release.
func (c *client) boot(report snp.ReportID) error {
	request, err := c.request(report)
	if err != nil {
		return err
	}
	return c.release(request)
}

func (c *client) release(request []byte) error {
	_, err := c.post(keyapi.ReleasePath(disk), request)
	return err
}

// request gets a nonce, and makes the request for a release with it.
func (c *client) request(report snp.ReportID) ([]byte, error) {
	data, err := c.post(keyapi.PathNonce, keyapi.Encode(keyapi.NonceRequest{Version: keyapi.Version}))
	if err != nil {
		return nil, err
	}
	nonce, err := keyapi.Decode[keyapi.NonceReply](data)
	if err != nil {
		return nil, err
	}
	recipient, err := keyapi.NewRecipient()
	if err != nil {
		return nil, err
	}
	request := keyapi.ReleaseRequest{Version: keyapi.Version, Nonce: nonce.Nonce, HPKEPublicKey: recipient.PublicKey()}
	r := c.rig.chip.Unsigned(c.rig.t, evidence.KeyRelease(nonce.Nonce, disk, c.svid.Certificates[0].RawSubjectPublicKeyInfo, request.HPKEPublicKey[:]))
	r.ReportID = report
	if request.Evidence, err = c.rig.chip.Sign(c.rig.t, r).Encode(); err != nil {
		return nil, err
	}
	return keyapi.Encode(request), nil
}

// processorTime returns the processor time that the server has used.
func (s *server) processorTime() time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	must(s.rig.t, err)
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime: proc(5)
		n, err := strconv.ParseInt(f, 10, 64)
		must(s.rig.t, err)
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100) // USER_HZ
}

// anonymous returns the anonymous memory of the server, in KiB.
func (s *server) anonymous() (kib int64) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	must(s.rig.t, err)
	for _, line := range strings.Split(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err = strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			must(s.rig.t, err)
		}
	}
	return kib
}

// figure prints a figure with its bar, for scripts/bench-kms.
func figure(t *testing.T, what string, got, bar float64, unit string) {
	t.Helper()
	verdict := "met"
	if got > bar {
		verdict = "MISSED"
	}
	t.Logf("bench: kms: %s: %.2f %s (bar %g: %s)", what, got, unit, bar, verdict)
}

// TestFigures measures the server's processor time for a boot. Other work on the
// machine, such as the guests, does not count.
func TestFigures(t *testing.T) {
	measuring(t)
	for _, records := range []int{1_000, 1_000_000} {
		w := newRigAfter(t, nil, func(w *rig) { w.fill(records) })
		s := w.servers[0]
		s.stop()
		before := time.Now()
		s.start()
		figure(t, fmt.Sprintf("start with %d records", records), time.Since(before).Seconds(), 2, "s")
		t.Logf("bench: kms: that was %.2f s of the processor's time, on %d processors", s.processorTime().Seconds(), runtime.NumCPU())
		for _, c := range []struct {
			name string
			keep bool
			bar  float64
		}{{"kept", true, 1.3}, {"new", false, 2}} {
			var all []round
			for range 5 { // they differ by a quarter if the machine is a guest and its host has other work
				all = append(all, w.boots(c.keep))
			}
			slices.SortFunc(all, func(a, b round) int { return cmp.Compare(a.each, b.each) })
			r := all[len(all)/2]
			figure(t, fmt.Sprintf("a boot on %s connections, %d records, the server's processor time, median", c.name, records), r.each.Seconds()*1000, c.bar, "ms")
			t.Logf("bench: kms: that was %.2f to %.2f ms in %d rounds; in the median %.0f boots/s, 99th percentile %.0f ms",
				all[0].each.Seconds()*1000, all[len(all)-1].each.Seconds()*1000, len(all), r.rate, r.p99.Seconds()*1000)
		}
		release, sync := w.lone()
		figure(t, fmt.Sprintf("a lone release, durable, %d records, median", records), release.Seconds()*1000, 3, "ms")
		t.Logf("bench: kms: a write of 4 KiB and a sync, between those releases, took %.2f ms; a release has two", sync.Seconds()*1000)
		figure(t, fmt.Sprintf("anonymous memory with %d records", records), float64(s.anonymous())/1024, 100, "MiB")
		s.kill()
	}
}

// lone has one launch after the other ask on a kept connection, and returns how long a
// release took, the request and the reply included, and how long a sync of the same disk took
// beside it.
func (w *rig) lone() (release, sync time.Duration) {
	const rounds = 200
	guest := w.client(w.servers[0].address)
	defer guest.http.CloseIdleConnections()
	f, err := os.Create(w.path("sync"))
	must(w.t, err)
	defer f.Close()
	releases, syncs := make([]time.Duration, rounds), make([]time.Duration, rounds)
	for i := range rounds {
		request, err := guest.request(newReportID(w.t))
		must(w.t, err)
		begin := time.Now()
		must(w.t, guest.release(request))
		releases[i] = time.Since(begin)
		begin = time.Now()
		_, err = f.Write(make([]byte, 4096))
		must(w.t, err)
		must(w.t, syscall.Fdatasync(int(f.Fd())))
		syncs[i] = time.Since(begin)
	}
	slices.Sort(releases)
	slices.Sort(syncs)
	return releases[rounds/2], syncs[rounds/2]
}

func measuring(t *testing.T) {
	if os.Getenv("ROOTVOUCH_FIGURES") == "" {
		t.Skip("SKIPPED: measures; make bench runs it")
	}
}

// round is the result of many boots.
type round struct {
	each time.Duration // the server's processor time for a boot
	rate float64       // boots per second
	p99  time.Duration // a guest's wait
}

// boots makes launches ask.
func (w *rig) boots(keep bool) round {
	const boots, clients = 2000, 16
	s := w.servers[0]
	before, start := s.processorTime(), time.Now()
	took := make([]time.Duration, boots)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			guest := w.client(s.address)
			for n := i; n < boots; n += clients {
				begin := time.Now()
				if err := guest.boot(newReportID(w.t)); err != nil {
					w.t.Error(err)
				}
				took[n] = time.Since(begin)
				if !keep {
					guest.http.CloseIdleConnections()
				}
			}
			guest.http.CloseIdleConnections()
		})
	}
	wg.Wait()
	slices.Sort(took)
	return round{(s.processorTime() - before) / boots, boots / time.Since(start).Seconds(), took[boots*99/100]}
}

// fill registers records of other VMs directly in the store, before the server
// runs.
func (w *rig) fill(records int) {
	w.t.Helper()
	ctx := w.t.Context()
	k, err := kek.Source{File: w.path("kek-" + kek.DefaultName)}.Load(ctx, "")
	must(w.t, err)
	engine, err := boltkv.Open(w.servers[0].store())
	must(w.t, err)
	defer func() { must(w.t, engine.Close()) }()
	book, err := store.Open(ctx, engine, kek.NewRing(kek.DefaultName, k.Sealer), rand.Reader)
	must(w.t, err)
	values, err := book.PutBlob(ctx, w.values)
	must(w.t, err)
	var writes []kv.Write
	for i := range records {
		id := spiffeid.RequireFromPathf(domain, "/vm/%d", i)
		uuid := pins.UUID{0xaa}
		binary.BigEndian.PutUint64(uuid[8:], uint64(i))
		item, err := book.Seal(store.KeyRecord(uuid), store.Record{Header: pins.Header{DiskUUID: uuid, HeaderSHA256: pins.Digest{2}}, SPIFFEID: id, Evidence: store.EvidenceRequired,
			State: store.Enabled, Generation: 1, Created: snptest.Now(), Changed: snptest.Now(), ReferenceValues: values}, key)
		must(w.t, err)
		writes = append(writes, item, store.SetGeneration(uuid, 1), kv.Write{Key: store.KeyCaller(id, uuid)})
		if len(writes) > kv.MaxOps-3 || i == records-1 {
			if _, err := engine.Commit(ctx, nil, writes); err != nil {
				w.t.Fatal(err)
			}
			writes = nil
		}
	}
}

// TestClusterFigures lets three ledgers with one cluster release as fast as they
// can. The figure leaves out certificates and TLS.
func TestClusterFigures(t *testing.T) {
	measuring(t)
	c := etcdtest.Start(t, 3)
	one, err := kek.New(bytes.Repeat([]byte{1}, kek.Size))
	must(t, err)
	k := kek.NewRing(kek.DefaultName, one)
	first := c.Open("rootvouch/")
	must(t, store.Create(t.Context(), first, k, rand.Reader, "example.org/kms", "one", time.Now()))
	var ledgers []*ledger.Ledger
	var engines []*counting
	for _, lane := range []string{"one", "two", "three"} {
		e := &counting{Engine: c.Open("rootvouch/")}
		s, err := store.Open(t.Context(), e, k, rand.Reader)
		must(t, err)
		engines, ledgers = append(engines, e), append(ledgers, ledger.New(s, lane, time.Now, rand.Reader, 30*time.Second))
	}
	record, err := ledgers[0].Put(t.Context(), audit.Actor{Name: "test"}, store.Record{Header: pins.Header{DiskUUID: disk, HeaderSHA256: pins.Digest{2}},
		SPIFFEID: vmID, Evidence: store.EvidenceRequired}, valuesFor(t, snptest.New(t, snp.Genoa), 1), bytes.Clone(key), ledger.Replace{})
	must(t, err)
	const releases, callers = 20_000, 64
	proof := &audit.Proof{Time: snptest.Now(), Report: make([]byte, 1184), SPKI: make([]byte, 91), Certificates: []pins.Digest{{1}, {2}, {3}}}
	start := time.Now()
	var wg sync.WaitGroup
	for i, l := range ledgers {
		for j := range callers {
			wg.Go(func() {
				for n := i*callers + j; n < releases; n += len(ledgers) * callers {
					err := l.Release(t.Context(), ledger.Claim{Record: record, Launch: store.Launch{ReportID: newReportID(t)}, Fresh: true,
						About: audit.AboutRelease{Request: audit.Request{SPIFFEID: vmID.String(), Disk: disk}, Generation: record.Generation, Proof: proof}})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	rate := releases / time.Since(start).Seconds()
	var lost, all int64
	for _, e := range engines {
		lost, all = lost+e.lost.Load(), all+e.all.Load()
	}
	verdict := "met"
	if rate < 2500 || lost > 0 {
		verdict = "MISSED"
	}
	t.Logf("bench: kms: three ledgers with one etcd cluster: %.0f releases/s, %d of %d transactions lost (bar 2500 and 0: %s)", rate, lost, all, verdict)
}

// counting counts transactions, and those that lost against another one.
type counting struct {
	kv.Engine
	all, lost atomic.Int64
}

func (c *counting) Commit(ctx context.Context, conditions []kv.Cond, writes []kv.Write) (int64, error) {
	revision, err := c.Engine.Commit(ctx, conditions, writes)
	c.all.Add(1)
	if err == nil && revision == 0 {
		c.lost.Add(1)
	}
	return revision, err
}

// TestStorm boots VMs all at once. Each gets its key once, and no VM gives up.
func TestStorm(t *testing.T) {
	for _, test := range []struct {
		name   string
		guests func(*rig, int) []guest
	}{{"one SPIFFE ID", (*rig).alike}, {"a SPIFFE ID and a disk each", (*rig).apart}} {
		t.Run(test.name, func(t *testing.T) {
			n := stormSize(t)
			w := newRig(t, nil)
			w.storm(test.guests(w, n))
		})
	}
}

// TestStormCluster is TestStorm with three servers and a cluster.
func TestStormCluster(t *testing.T) {
	n := stormSize(t)
	w := newRig(t, etcdtest.Start(t, 3))
	w.storm(w.alike(n))
}

func stormSize(t *testing.T) int {
	t.Helper()
	n, _ := strconv.Atoi(os.Getenv("ROOTVOUCH_STORM"))
	if n == 0 {
		t.Skip("SKIPPED: boots thousands of guests; make storm runs it")
	}
	return n
}

// alike returns VMs of one image.
func (w *rig) alike(n int) (all []guest) {
	for range n {
		all = append(all, guest{newReportID(w.t), disk, w.identity})
	}
	return all
}

// apart returns VMs, each with its own image.
func (w *rig) apart(n int) []guest {
	all := make([]guest, n)
	var wg sync.WaitGroup
	const owners = 16
	for owner := range owners {
		wg.Go(func() {
			for i := owner; i < n; i += owners {
				all[i] = w.newImage(i)
			}
		})
	}
	wg.Wait()
	return all
}

// newImage registers a disk for a VM of its own.
func (w *rig) newImage(i int) guest {
	g := guest{report: newReportID(w.t)}
	g.disk = pins.UUID(g.report[:16])
	id := spiffeid.RequireFromPathf(domain, "/vm/%d", i)
	w.mu.Lock()
	svid := w.ca.Issue(w.t, id)
	w.mu.Unlock()
	if err := w.put(w.servers[0], g.disk, id); err != nil {
		w.t.Error(err)
	}
	g.identity = func(ctx context.Context) (fetchkey.Identity, error) {
		got, err := w.identity(ctx)
		got.SVID = svid
		return got, err
	}
	return g
}

func (w *rig) storm(guests []guest) {
	t := w.t
	t.Helper()
	start := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	outcomes := map[outcome]int{}
	for i, g := range guests {
		wg.Go(func() {
			got := w.fetchAs(g, w.addresses(i), gotRefusal)
			mu.Lock()
			defer mu.Unlock()
			outcomes[got]++
		})
	}
	wg.Wait()
	t.Logf("storm: %d guests at once, %d servers: %v in %.1f s", len(guests), len(w.servers), outcomes, time.Since(start).Seconds())
	w.judge(w.load(0))
	if outcomes[gotKey] != len(guests) {
		t.Error("not everybody has a key")
	}
}
