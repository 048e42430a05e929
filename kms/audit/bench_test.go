package audit

import (
	"bytes"
	"testing"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// BenchmarkVerify is what a server does with each line when it starts.
func BenchmarkVerify(b *testing.B) {
	const lines = 1000
	line, head := encode(Head{}, noon, Entry{Event: Init})
	log := bytes.NewBuffer(line)
	for range lines - 1 {
		line, head = encode(head, noon, Entry{Event: Release, Disk: pins.UUID{1}, SPIFFEID: "spiffe://example.org/vm/web", Remote: "192.0.2.1:4711",
			Generation: 1, RequestSHA256: pins.Digest{1}, ReportID: snp.ReportID{2}, Measurement: make(pins.HexBytes, 48), Evidence: "required"})
		log.Write(line)
	}
	b.SetBytes(int64(log.Len()))
	for b.Loop() {
		if _, err := Verify(bytes.NewReader(log.Bytes()), head, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(lines*b.N)/b.Elapsed().Seconds(), "lines/s")
}
