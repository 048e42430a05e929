package admin

import (
	"encoding/binary"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// BenchmarkFirstPage asks for the first page of many records, and for one that takes a look at
// many. ROOTVOUCH_RECORDS says how many there are.
func BenchmarkFirstPage(b *testing.B) {
	n := 10_000
	if text := os.Getenv("ROOTVOUCH_RECORDS"); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		must(b, err)
	}
	r := newRig(b)
	fill(b, r, n)
	for _, c := range []struct {
		name string
		q    adminapi.Query
	}{
		{"all", adminapi.Query{}},
		{"one caller", adminapi.Query{SPIFFEID: "spiffe://example.org/vm/7"}},
		{"none matches", adminapi.Query{Measurement: snp.Measurement{9, 9}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			worst := time.Duration(0)
			for b.Loop() {
				start := time.Now()
				page, err := r.client.Page(b.Context(), c.q)
				must(b, err)
				worst = max(worst, time.Since(start))
				if page.Total != uint64(n) {
					b.Fatalf("there are %d records, want %d", page.Total, n)
				}
			}
			b.ReportMetric(float64(worst.Milliseconds()), "worst-ms")
		})
	}
}

// fill puts n records into the book, a hundred in a transaction.
func fill(b *testing.B, r *rig, n int) {
	b.Helper()
	s := r.books.Store
	digest, err := s.PutBlob(b.Context(), values(b, nil))
	must(b, err)
	writes := []kv.Write{store.SetCount(uint64(n))}
	for i := range n {
		var disk pins.UUID
		binary.BigEndian.PutUint64(disk[:], uint64(i)+1)
		record := store.Record{Header: pins.Header{DiskUUID: disk, HeaderSHA256: pins.Digest{1}},
			SPIFFEID: spiffeid.RequireFromPathf(kmsID.TrustDomain(), "/vm/%d", i), Evidence: store.EvidenceRequired, ReferenceValues: digest,
			State: store.Enabled, Generation: 1, Created: noon, Changed: noon}
		item, err := s.Seal(store.KeyRecord(disk), record, key)
		must(b, err)
		writes = append(writes, item, kv.Write{Key: store.KeyCaller(record.SPIFFEID, disk)})
		if len(writes) > 100 || i == n-1 {
			_, err := s.Engine.Commit(b.Context(), nil, writes)
			must(b, err)
			writes = nil
		}
	}
}
