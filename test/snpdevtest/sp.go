// Package snpdevtest serves a software AMD-SP on a unix socket, for tests of code
// that asks it for reports.
//
// It signs true reports with a throw-away chain, over the protocol of
// docs/spec/emulated-asp.md, so a test can use the real code above the device.
package snpdevtest

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// SP is a chip with a chain of its own, and the collateral for its verifiers.
type SP struct {
	*snptest.Signer
	// Collateral is a directory with the chain's CRL, in the form for verifiers.
	Collateral string

	t   testing.TB
	now time.Time
}

// New makes a chip that imitates Genoa. Its CRL is fresh at now.
func New(t testing.TB, now time.Time) *SP {
	t.Helper()
	s := &SP{Signer: snptest.New(t, snp.Genoa), t: t, now: now, Collateral: t.TempDir()}
	s.Revoke()
	return s
}

// Revoke writes a fresh CRL into Collateral. With revoked set, it revokes the VCEK.
func (s *SP) Revoke(revoked ...bool) {
	s.t.Helper()
	var crl []byte
	var err error
	number, from, to := s.now.UnixNano(), s.now.Add(-time.Hour), s.now.Add(24*time.Hour)
	if len(revoked) > 0 && revoked[0] {
		crl, err = s.Chain.CRL(rand.Reader, number+1, from, to, s.Chain.VCEK.SerialNumber)
	} else {
		crl, err = s.Chain.CRL(rand.Reader, number, from, to)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Collateral, "ark.crl"), crl, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// Launch is one launch of a guest: its measurement and its REPORT_ID.
func (s *SP) Launch(measurement snp.Measurement, id snp.ReportID) Launch {
	r := *s.Unsigned(s.t, [64]byte{})
	r.Measurement, r.ReportID = measurement, id
	return Launch{s, r}
}

// Values returns reference values that accept exactly these measurements under this
// chip's root.
func (s *SP) Values(measurements ...snp.Measurement) refval.Values {
	var all []refval.Measurement
	for _, m := range measurements {
		all = append(all, refval.Measurement{Digest: m, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC-v4"})
	}
	return refval.New(refval.EmulatedARK(s.Chain.ARKDigest()), all)
}

// WriteValues writes reference values into a file and returns its path.
func WriteValues(t testing.TB, v refval.Values) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "refval.json")
	RewriteValues(t, path, v)
	return path
}

// RewriteValues replaces the reference values in a file.
func RewriteValues(t testing.TB, path string, v refval.Values) {
	t.Helper()
	data, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Launch answers report requests. A test may change Report before the first
// request.
type Launch struct {
	sp     *SP
	Report snp.Report
}

// Sign returns a report over reportData.
func (l Launch) Sign(reportData [64]byte) []byte {
	l.sp.t.Helper()
	r := l.Report
	r.ReportData = reportData
	if err := r.Sign(rand.Reader, l.sp.Chain.VCEKKey); err != nil {
		l.sp.t.Fatal(err)
	}
	return r.Marshal()
}

// Serve answers on a unix socket, whose path it returns, until the test ends.
func (l Launch) Serve() string {
	l.sp.t.Helper()
	dir, err := os.MkdirTemp("", "asp") // short: a socket's path has 107 bytes
	if err != nil {
		l.sp.t.Fatal(err)
	}
	path := filepath.Join(dir, "asp")
	listener, err := net.Listen("unix", path)
	if err != nil {
		l.sp.t.Fatal(err)
	}
	var running sync.WaitGroup
	l.sp.t.Cleanup(func() {
		listener.Close()
		running.Wait()
		os.RemoveAll(dir)
	})
	running.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { l.answer(c) })
		}
	})
	return path
}

func (l Launch) answer(c net.Conn) {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return
	}
	request := make([]byte, snp.ReportRequestSize)
	if _, err := io.ReadFull(c, request); err != nil {
		return
	}
	response := snp.ReportResponse{Status: snp.StatusInvalidParameter}.Marshal()
	if q, err := snp.ParseReportRequest(request); err == nil && q.VMPL == l.Report.VMPL {
		chain := l.sp.Chain
		response = append(snp.ReportResponse{Report: l.Sign(q.ReportData)}.Marshal(), snp.MarshalCertTable([]snp.CertEntry{
			{GUID: snp.GUIDVCEK, DER: chain.VCEK.Raw}, {GUID: snp.GUIDASK, DER: chain.ASK.Raw}, {GUID: snp.GUIDARK, DER: chain.ARK.Raw},
		})...)
	}
	c.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(response))), response...))
}
