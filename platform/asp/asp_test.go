package asp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/launch/idblock"
)

var issued = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// shared is one chip for all tests that need no other, because a chip takes time to
// make.
var shared = sync.OnceValues(func() (*Chip, error) { return NewWeak(rand.Reader, issued) })

func mustChip(t testing.TB) *Chip {
	t.Helper()
	c, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testLaunch() Launch {
	l := Launch{Policy: snp.PolicySMT | snp.PolicyReservedOne}
	copy(l.Measurement[:], bytes.Repeat([]byte{0x5a}, 48))
	copy(l.HostData[:], "host data of this launch")
	return l
}

func mustLaunch(t testing.TB, c *Chip) *Session {
	t.Helper()
	s, err := c.Launch(rand.Reader, testLaunch())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// split takes an answer apart.
func split(t testing.TB, answer []byte) (snp.ReportResponse, []byte) {
	t.Helper()
	size := snp.ReportResponseHeader + int(binary.LittleEndian.Uint32(answer[4:]))
	response, err := snp.ParseReportResponse(answer[:size])
	if err != nil {
		t.Fatal(err)
	}
	return response, answer[size:]
}

func TestReport(t *testing.T) {
	chip := mustChip(t)
	session := mustLaunch(t, chip)
	for vmpl := range uint32(4) {
		request := snp.ReportRequest{VMPL: vmpl, KeySel: vmpl % 2}
		copy(request.ReportData[:], "what the guest chose")
		answer, err := session.Answer(request.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		response, table := split(t, answer)
		r, err := snp.ParseReport(response.Report)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Verify(chip.chain.VCEK.PublicKey.(*ecdsa.PublicKey)); err != nil {
			t.Fatal(err)
		}
		want := testLaunch()
		if r.VMPL != vmpl || r.ReportData != request.ReportData || r.Measurement != want.Measurement ||
			r.Policy != want.Policy || r.HostData != want.HostData || r.ReportID != session.ReportID() {
			t.Errorf("VMPL %d: report does not say what was asked and launched: %+v", vmpl, r)
		}
		if p, err := r.Product(); err != nil || p != snp.Genoa {
			t.Errorf("product is %v (%v), want %v", p, err, snp.Genoa)
		}
		entries, err := snp.ParseCertTable(table)
		if err != nil {
			t.Fatal(err)
		}
		for i, der := range chip.Certificates() {
			if !bytes.Equal(entries[i].DER, der) {
				t.Errorf("certificate %d of the table is not the chip's", i)
			}
		}
	}
}

func TestReportIDIsOfOneLaunch(t *testing.T) {
	chip := mustChip(t)
	a, b := mustLaunch(t, chip), mustLaunch(t, chip)
	if a.ReportID() == b.ReportID() {
		t.Error("two launches have one REPORT_ID")
	}
}

func TestAnswerRefuses(t *testing.T) {
	session := mustLaunch(t, mustChip(t))
	good := snp.ReportRequest{}.Marshal()
	edit := func(at int, value byte) []byte {
		b := bytes.Clone(good)
		b[at] = value
		return b
	}
	for _, c := range []struct {
		name    string
		request []byte
		status  uint32
	}{
		{"VMPL 4", edit(0x40, 4), snp.StatusInvalidParameter},
		{"VMPL of the host", snp.ReportRequest{VMPL: snp.VMPLHost}.Marshal(), snp.StatusInvalidParameter},
		{"key selection 3", edit(0x44, 3), snp.StatusInvalidParameter},
		{"VLEK", edit(0x44, 2), snp.StatusInvalidKeySel},
		{"reserved byte", edit(0x5f, 1), snp.StatusInvalidParameter},
		{"short", good[:95], snp.StatusInvalidParameter},
		{"long", append(bytes.Clone(good), 0), snp.StatusInvalidParameter},
		{"empty", nil, snp.StatusInvalidParameter},
	} {
		answer, err := session.Answer(c.request)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if response, table := split(t, answer); response.Status != c.status || len(table) != 0 {
			t.Errorf("%s: status %#x and %d more bytes, want %#x and none", c.name, response.Status, len(table), c.status)
		}
	}
}

func TestLaunchRefuses(t *testing.T) {
	chip := mustChip(t)
	for name, edit := range map[string]func(*Launch){
		"no measurement":   func(l *Launch) { l.Measurement = snp.Measurement{} },
		"no policy":        func(l *Launch) { l.Policy = 0 },
		"reserved 1 clear": func(l *Launch) { l.Policy = snp.PolicySMT },
	} {
		l := testLaunch()
		edit(&l)
		if _, err := chip.Launch(rand.Reader, l); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestIDBlock: an ID block binds the launch, and its values are in every report.
func TestIDBlock(t *testing.T) {
	chip := mustChip(t)
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	l := testLaunch()
	signed, err := idblock.Sign(idblock.Block{
		LaunchDigest: l.Measurement, Policy: l.Policy, GuestSVN: 7, FamilyID: snp.GuestID{1}, ImageID: snp.GuestID{2},
	}, key(), key())
	if err != nil {
		t.Fatal(err)
	}
	l.IDBlock = signed
	s, err := chip.Launch(rand.Reader, l)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Report(snp.ReportRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r.GuestSVN != 7 || r.FamilyID != (snp.GuestID{1}) || r.ImageID != (snp.GuestID{2}) || !r.AuthorKeyEnabled ||
		r.IDKeyDigest != signed.IDKeyDigest() || r.AuthorKeyDigest != signed.AuthorKeyDigest() {
		t.Errorf("the report does not have the ID block: %+v", r)
	}
	for name, edit := range map[string]func(*Launch){
		"another launch digest": func(l *Launch) { l.Measurement[0]++ },
		"another policy":        func(l *Launch) { l.Policy |= snp.PolicyDebug },
	} {
		other := l
		edit(&other)
		if _, err := chip.Launch(rand.Reader, other); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// serve runs a session at the other end of the connection that it returns.
func serve(t *testing.T, s *Session) (net.Conn, <-chan error) {
	t.Helper()
	guest, host := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- s.Serve(host) }()
	t.Cleanup(func() { guest.Close(); host.Close() })
	if err := guest.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return guest, done
}

func mustAsk(t *testing.T, guest net.Conn, request []byte) []byte {
	t.Helper()
	if _, err := guest.Write(request); err != nil {
		t.Fatal(err)
	}
	var length [4]byte
	if _, err := io.ReadFull(guest, length[:]); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, binary.LittleEndian.Uint32(length[:]))
	if _, err := io.ReadFull(guest, answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestServe(t *testing.T) {
	guest, done := serve(t, mustLaunch(t, mustChip(t)))
	malformed := bytes.Repeat([]byte{0xff}, snp.ReportRequestSize)
	if response, _ := split(t, mustAsk(t, guest, malformed)); response.Status != snp.StatusInvalidParameter {
		t.Errorf("malformed request: status %#x, want %#x", response.Status, snp.StatusInvalidParameter)
	}
	request := snp.ReportRequest{ReportData: snp.ReportData{1, 2, 3}}
	response, _ := split(t, mustAsk(t, guest, request.Marshal()))
	r, err := snp.ParseReport(response.Report)
	if err != nil || r.ReportData != request.ReportData {
		t.Errorf("REPORT_DATA is not what was asked (%v)", err)
	}
	guest.Close()
	if err := <-done; err != nil {
		t.Errorf("the guest's end is an error: %v", err)
	}
}

// A process in the guest may end in the middle of its request. The fragment must
// not become the start of the next request.
func TestServeDropsAFragment(t *testing.T) {
	guest, _ := serve(t, mustLaunch(t, mustChip(t)))
	if _, err := guest.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(wholeWithin + 200*time.Millisecond)
	request := snp.ReportRequest{ReportData: snp.ReportData{7}}
	if response, _ := split(t, mustAsk(t, guest, request.Marshal())); response.Status != snp.StatusSuccess {
		t.Errorf("status after a fragment is %#x, want 0", response.Status)
	}
}

func TestState(t *testing.T) {
	chip := mustChip(t)
	dir := filepath.Join(t.TempDir(), "asp")
	if err := chip.Create(dir, rand.Reader, issued); err != nil {
		t.Fatal(err)
	}
	again, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.ARKDigest() != chip.ARKDigest() || again.chipID != chip.chipID {
		t.Error("the chip that was opened is not the one that was kept")
	}
	for path, want := range map[string]os.FileMode{
		"": 0o700 | os.ModeDir, stateFile: 0o600,
		CollateralDir: 0o755 | os.ModeDir, CollateralDir + "/ark.der": 0o644,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%q has mode %v, want %v", path, info.Mode(), want)
		}
	}
	if err := mustChip(t).Create(dir, rand.Reader, issued); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second chip in the same directory: %v, want os.ErrExist", err)
	}
}

func TestCollateral(t *testing.T) {
	chip := mustChip(t)
	dir := filepath.Join(t.TempDir(), "collateral")
	for _, now := range []time.Time{issued, issued.Add(time.Hour)} {
		if err := chip.WriteCollateral(dir, rand.Reader, now); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("collateral has %d files, want ark.der, ask.der, ark.crl", len(entries))
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("PRIVATE")) {
			t.Errorf("%s has a private key", e.Name())
		}
	}
	der, err := os.ReadFile(filepath.Join(dir, crlFile))
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := crl.CheckSignatureFrom(chip.chain.ARK); err != nil {
		t.Errorf("the ARK did not sign the CRL: %v", err)
	}
	if want := issued.Add(time.Hour + crlValidity); !crl.NextUpdate.Equal(want) {
		t.Errorf("CRL is fresh until %v, want %v", crl.NextUpdate, want)
	}
}

func TestOpenRefuses(t *testing.T) {
	chip := mustChip(t)
	for _, c := range []struct {
		name string
		harm func(path string) error
		want string
	}{
		{"readable by others", func(p string) error { return os.Chmod(p, 0o640) }, "0600"},
		{"cut short", func(p string) error { return os.Truncate(p, 1000) }, "parsing chain"},
		{"missing", os.Remove, "no such file"},
		{"too large", func(p string) error { return os.Truncate(p, maxState+1) }, "more than"},
	} {
		dir := filepath.Join(t.TempDir(), "asp")
		if err := chip.Create(dir, rand.Reader, issued); err != nil {
			t.Fatal(err)
		}
		if err := c.harm(filepath.Join(dir, stateFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.want)
		}
	}
}
