package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/evidence/kept"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/fetchkey"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/kmstest"
	"github.com/rootvouch/rootvouch/test/snptest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

var (
	kmsID   = spiffeid.RequireFromString("spiffe://example.org/kms")
	vmID    = spiffeid.RequireFromString("spiffe://example.org/vm")
	otherID = spiffeid.RequireFromString("spiffe://example.org/other")
	diskOne = pins.Header{DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{0xb1}}
	diskTwo = pins.Header{DiskUUID: pins.UUID{2}, HeaderSHA256: pins.Digest{0xb2}}
	keyOne  = bytes.Repeat([]byte{0x5e}, keyapi.KeySize)
)

// Measurement of snptest's guest, and of another.
var measured, otherwise = snp.Measurement{0x4d, 1}, snp.Measurement{0x4d, 2}

const retryWindow = kmstest.RetryWindow

// chip is shared: its keys take a while.
var chip = sync.OnceValue(func() func(testing.TB) *snptest.Signer {
	var once sync.Once
	var s *snptest.Signer
	return func(t testing.TB) *snptest.Signer {
		once.Do(func() { s = snptest.New(t, snp.Genoa) })
		return s
	}
})()

// rig is a key server with all that is around it.
type rig struct {
	t       testing.TB
	ca      *spiffetest.Authority
	dir     string
	crl     *x509.RevocationList
	address string
	log     *bytes.Buffer // what the server logs, behind logMu
	logMu   sync.Mutex
	stop    func()

	svid   atomic.Pointer[x509svid.SVID] // the server's
	server *Server
	book   *kmstest.Book
	store  *store.Store
	ledger *ledger.Ledger

	clockMu sync.Mutex // guards what follows
	now     time.Time
	checks  []string // that the newest refusal failed at
}

func (r *rig) countRefusal(_ pins.UUID, checks []string) {
	r.clockMu.Lock()
	defer r.clockMu.Unlock()
	r.checks = checks
}

func (r *rig) clock() time.Time {
	r.clockMu.Lock()
	defer r.clockMu.Unlock()
	return r.now
}

func (r *rig) advance(d time.Duration) {
	r.clockMu.Lock()
	defer r.clockMu.Unlock()
	r.now = r.now.Add(d)
}

func (r *rig) Write(b []byte) (int, error) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	return r.log.Write(b)
}

// newRig makes a server with one record: vmID's for diskOne.
func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, ca: spiffetest.New(t), dir: t.TempDir(), log: new(bytes.Buffer), now: snptest.Now()}
	r.crl = chip(t).CRL(t)
	r.book = kmstest.New(t, r.dir, r.clock)
	r.start()
	t.Cleanup(func() { r.stop() })
	r.mustPut(r.record(diskOne), r.values(measured))
	return r
}

// start serves; restart opens everything again, as after a crash.
func (r *rig) start() {
	r.t.Helper()
	r.store, r.ledger = r.book.Store, r.book.Ledger
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.address = listener.Addr().String()
	r.svid.Store(r.ca.Issue(r.t, kmsID))
	keeping, err := kept.Open(filepath.Join(r.dir, "evidence"))
	if err != nil {
		r.t.Fatal(err)
	}
	server := New(Config{
		ID: kmsID, SVID: r, Bundle: r.ca.Bundle(), Ledger: r.ledger,
		Kept: keeping,
		Collateral: func() (appraise.Collateral, error) {
			if r.crl == nil {
				return appraise.Collateral{}, errors.New("no such directory")
			}
			return appraise.Collateral{CRLs: []*x509.RevocationList{r.crl}}, nil
		},
		Answered: func(string, keyapi.Code, time.Duration) {}, Refused: r.countRefusal, Clock: r.clock, Rand: rand.Reader, Log: slog.New(slog.NewTextHandler(r, nil)),
	})
	r.server = server
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
}

// GetX509SVID is the server's own.
func (r *rig) GetX509SVID() (*x509svid.SVID, error) { return r.svid.Load(), nil }

func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.book.Close()
	if err := r.book.Open(); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

func (r *rig) record(header pins.Header) store.Record {
	return store.Record{Header: header, SPIFFEID: vmID, Evidence: store.EvidenceRequired}
}

func (r *rig) values(m snp.Measurement) refval.Values {
	return refval.New(refval.EmulatedARK(chip(r.t).Chain.ARKDigest()), []refval.Measurement{{Digest: m, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC-v4"}})
}

func (r *rig) put(record store.Record, values refval.Values, replace bool) error {
	var document []byte
	if record.Evidence == store.EvidenceRequired {
		var err error
		if document, err = values.Encode(); err != nil {
			r.t.Fatal(err)
		}
	}
	_, err := r.ledger.Put(r.t.Context(), audit.Actor{Name: "test"}, record, document, keyOne, ledger.Replace{Record: replace, RootOfTrust: replace})
	return err
}

func (r *rig) mustPut(record store.Record, values refval.Values) {
	r.t.Helper()
	if err := r.put(record, values, false); err != nil {
		r.t.Fatal(err)
	}
}

// launch gives evidence of the guest with a REPORT_ID, as snp/snpdev would.
func (r *rig) launch(id byte, change ...func(*snp.Report)) func([64]byte) (evidence.Evidence, error) {
	return func(data [64]byte) (evidence.Evidence, error) {
		report := chip(r.t).Unsigned(r.t, data)
		report.ReportID = snp.ReportID{id}
		for _, f := range change {
			f(report)
		}
		return chip(r.t).Sign(r.t, report), nil
	}
}

// guest is a fetchkey configuration that gets diskOne's key.
func (r *rig) guest(svid *x509svid.SVID, launch func([64]byte) (evidence.Evidence, error)) fetchkey.Config {
	return fetchkey.Config{
		Disk: diskOne.DiskUUID, Addresses: []string{r.address}, ServerID: kmsID,
		Identity: func(context.Context) (fetchkey.Identity, error) {
			return fetchkey.Identity{SVID: svid, Bundles: r.ca.Bundle()}, nil
		},
		Evidence: launch,
		Patience: 5 * time.Second,
	}
}

func (r *rig) vm() *x509svid.SVID { return r.ca.Issue(r.t, vmID) }
