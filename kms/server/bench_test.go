package server

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// BenchmarkRelease is whole releases, each of another launch: TLS, appraisal,
// durable audit record, sealed reply. Making the evidence is the guest's work and
// is not in it. "new" makes a connection for each, as guests do.
func BenchmarkRelease(b *testing.B) {
	for _, connections := range []string{"kept", "new"} {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("connections=%s/clients=%d", connections, clients), func(b *testing.B) {
				r := newRig(b)
				bodies := make([][]byte, b.N)
				svid := r.vm()
				me := acl.Caller{ID: vmID, SPKI: svid.Certificates[0].RawSubjectPublicKeyInfo}
				for i := range bodies {
					bodies[i] = r.prepared(me, i)
				}
				config := &tls.Config{MinVersion: tls.VersionTLS13}
				tlsconfig.HookMTLSClientConfig(config, svid, r.ca.Bundle(), tlsconfig.AuthorizeID(kmsID))
				client := &http.Client{Transport: &http.Transport{
					TLSClientConfig: config, DisableKeepAlives: connections == "new", MaxIdleConnsPerHost: clients}}
				defer client.CloseIdleConnections()
				url := "https://" + r.address + keyapi.ReleasePath(diskOne.DiskUUID)
				measure(b, clients, func(i int) error {
					response, err := client.Post(url, "application/json", bytes.NewReader(bodies[i]))
					if err != nil {
						return err
					}
					defer response.Body.Close()
					data, err := io.ReadAll(response.Body)
					if err == nil && response.StatusCode != http.StatusOK {
						err = fmt.Errorf("status %d: %s", response.StatusCode, data)
					}
					return err
				})
			})
		}
	}
}

// prepared makes the i-th request, with a nonce that the server takes for issued.
func (r *rig) prepared(me acl.Caller, i int) []byte {
	recipient, err := keyapi.NewRecipient()
	if err != nil {
		r.t.Fatal(err)
	}
	request := keyapi.ReleaseRequest{Version: 1, HPKEPublicKey: recipient.PublicKey()}
	if request.Nonce, err = r.server.nonces.issue(me, r.clock()); err != nil {
		r.t.Fatal(err)
	}
	e, err := r.launch(1, func(x *snp.Report) { binary.BigEndian.PutUint64(x.ReportID[8:], uint64(i)) })(
		evidence.KeyRelease(request.Nonce, diskOne.DiskUUID, me.SPKI, request.HPKEPublicKey[:]))
	if err != nil {
		r.t.Fatal(err)
	}
	if request.Evidence, err = e.Encode(); err != nil {
		r.t.Fatal(err)
	}
	return keyapi.Encode(request)
}

// measure has b.N things done by so many clients at once, and reports how many a
// second, and the 99th percentile of their times.
func measure(b *testing.B, clients int, do func(i int) error) {
	took := make([]time.Duration, b.N)
	next := make(chan int)
	var wg sync.WaitGroup
	b.ResetTimer()
	for range clients {
		wg.Go(func() {
			for i := range next {
				start := time.Now()
				if err := do(i); err != nil {
					b.Error(err)
				}
				took[i] = time.Since(start)
			}
		})
	}
	for i := range b.N {
		next <- i
	}
	close(next)
	wg.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "per_s")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99_ms")
}

// BenchmarkLedger is the durable part alone: audit record and release.
func BenchmarkLedger(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			r := newRig(b)
			record, err := r.store.Get(b.Context(), diskOne.DiskUUID)
			if err != nil {
				b.Fatal(err)
			}
			measure(b, clients, func(i int) error {
				var id snp.ReportID
				binary.BigEndian.PutUint64(id[:], uint64(i)+1)
				return r.ledger.Release(b.Context(), ledger.Claim{Record: record, Launch: store.Launch{ReportID: id}, Fresh: true})
			})
		})
	}
}

// BenchmarkSync is the disk's own rate: one audit record's bytes, then fsync.
func BenchmarkSync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	line := make([]byte, 700)
	measure(b, 1, func(int) error {
		if _, err := f.Write(line); err != nil {
			return err
		}
		return f.Sync()
	})
}

// BenchmarkDecide is the cores' part: both locks, with an appraisal.
func BenchmarkDecide(b *testing.B) {
	r := newRig(b)
	record, err := r.store.Get(b.Context(), diskOne.DiskUUID)
	if err != nil {
		b.Fatal(err)
	}
	me := acl.Caller{ID: vmID, SPKI: []byte("spki")}
	request, err := keyapi.Decode[keyapi.ReleaseRequest](r.prepared(me, 0))
	if err != nil {
		b.Fatal(err)
	}
	collateral, err := r.server.Collateral()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, err := acl.Decide(acl.Case{Caller: me, Record: record, Values: r.values(measured), Request: request, Collateral: collateral, Now: snptest.Now()})
		if err != nil {
			b.Fatal(err)
		}
	}
}
