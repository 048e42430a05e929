package snpdev

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/snp"
)

// sp is an AMD-SP without certificates. It signs reports with an uncertified key,
// because no test here judges them.
type sp struct {
	t              testing.TB
	key            *ecdsa.PrivateKey
	leaf, ask, ark []byte
}

func newSP(t testing.TB) sp {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return sp{t, key, []byte("the VCEK"), []byte("the ASK"), []byte("the ARK")}
}

func (s sp) report(data snp.ReportData) []byte {
	s.t.Helper()
	r := &snp.Report{Version: 3, Policy: snp.PolicyReservedOne, SignatureAlgo: 1, ReportData: data, CPUID: snp.Genoa.Example()}
	if err := r.Sign(rand.Reader, s.key); err != nil {
		s.t.Fatal(err)
	}
	return r.Marshal()
}

func (s sp) table() []byte {
	return snp.MarshalCertTable([]snp.CertEntry{{GUID: snp.GUIDARK, DER: s.ark}, {GUID: snp.GUIDASK, DER: s.ask}, {GUID: snp.GUIDVCEK, DER: s.leaf}})
}

// answer is a whole answer of the software AMD-SP.
func (s sp) answer(data snp.ReportData) []byte {
	return frame(append(snp.ReportResponse{Report: s.report(data)}.Marshal(), s.table()...))
}

func frame(b []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func checkEvidence(t *testing.T, s sp, d *Device) {
	t.Helper()
	data := [64]byte{1, 2, 3}
	got, err := d.Evidence(data)
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.ParseReport(got.Report)
	if err != nil {
		t.Fatal(err)
	}
	if r.ReportData != data {
		t.Errorf("REPORT_DATA is %x, want %x", r.ReportData, data)
	}
	if want := [][]byte{s.leaf, s.ask, s.ark}; len(got.Certificates) != 3 ||
		!bytes.Equal(bytes.Join(got.Certificates, []byte{0}), bytes.Join(want, []byte{0})) {
		t.Errorf("certificates are %q, want %q", got.Certificates, want)
	}
}

func wantError(t *testing.T, d *Device, want string) {
	t.Helper()
	if _, err := d.Evidence([64]byte{1, 2, 3}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want one with %q", err, want)
	}
}

// listen serves a software AMD-SP; serve gets each connection with its request.
func listen(t *testing.T, serve func(n int, c net.Conn, q snp.ReportRequest)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "asp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, snp.ReportRequestSize)
			if _, err := c.Read(b); err == nil {
				if q, err := snp.ParseReportRequest(b); err == nil {
					serve(n, c, q)
				}
			}
			c.Close()
		}
	})
	return path
}

func mustOpenPort(t *testing.T, path string, limit time.Duration) *Device {
	t.Helper()
	d, err := openPort(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPort(t *testing.T) {
	s := newSP(t)
	path := listen(t, func(_ int, c net.Conn, q snp.ReportRequest) { c.Write(s.answer(q.ReportData)) })
	d, err := OpenPath(VirtioPort, path)
	if err != nil {
		t.Fatal(err)
	}
	checkEvidence(t, s, d)
	if !d.Emulated() || d.Kind() != VirtioPort {
		t.Errorf("got kind %q, emulated %v", d.Kind(), d.Emulated())
	}
}

// A port is shared: bytes that another process left in it come first.
func TestPortRetries(t *testing.T) {
	s := newSP(t)
	whole := s.answer(snp.ReportData{1, 2, 3})
	for _, c := range []struct {
		name  string
		first []byte
	}{
		{"an answer for somebody else", s.answer(snp.ReportData{9})},
		{"half an answer", whole[:500]},
		{"nothing", nil},
		{"silence", []byte("wait")},
		{"the second half of one", whole[600:]},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := listen(t, func(n int, conn net.Conn, q snp.ReportRequest) {
				if n == 0 {
					if string(c.first) == "wait" {
						conn.Read(make([]byte, 1)) // until the other end gives up
						return
					}
					conn.Write(c.first)
					return
				}
				conn.Write(s.answer(q.ReportData))
			})
			checkEvidence(t, s, mustOpenPort(t, path, 3*time.Second))
		})
	}
}

func TestPortRefuses(t *testing.T) {
	s := newSP(t)
	limit := 50 * time.Millisecond
	for _, c := range []struct {
		name, want string
		serve      func(c net.Conn, q snp.ReportRequest)
	}{
		{"status", "STATUS of MSG_REPORT_RSP is 0x16", func(c net.Conn, q snp.ReportRequest) {
			c.Write(frame(snp.ReportResponse{Status: snp.StatusInvalidParameter}.Marshal()))
		}},
		{"endless", "answer has 4294967295 bytes", func(c net.Conn, q snp.ReportRequest) { c.Write(bytes.Repeat([]byte{0xff}, 4096)) }},
		{"silence", "i/o timeout", func(c net.Conn, q snp.ReportRequest) { time.Sleep(2 * limit) }},
		{"other data", "another process asked for it", func(c net.Conn, q snp.ReportRequest) { c.Write(s.answer(snp.ReportData{7})) }},
		{"table", "parsing certificate table", func(c net.Conn, q snp.ReportRequest) {
			c.Write(frame(append(snp.ReportResponse{Report: s.report(q.ReportData)}.Marshal(), bytes.Repeat([]byte{1}, 30)...)))
		}},
		{"no report", "MSG_REPORT_RSP has 40 bytes", func(c net.Conn, q snp.ReportRequest) { c.Write(frame(make([]byte, 40))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := listen(t, func(_ int, conn net.Conn, q snp.ReportRequest) { c.serve(conn, q) })
			wantError(t, mustOpenPort(t, path, limit), c.want)
		})
	}
}

func TestFindPort(t *testing.T) {
	class := t.TempDir()
	for name, text := range map[string]string{"vport0p1": "", "vport1p1": "org.qemu.guest_agent.0\n", "vport1p2": "org.rootvouch.asp\n"} {
		if err := os.Mkdir(filepath.Join(class, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if text == "" {
			continue // a port that QEMU did not name
		}
		if err := os.WriteFile(filepath.Join(class, name, "name"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := findPort(class, "/dev"); err != nil || got != "/dev/vport1p2" {
		t.Errorf("got %q, %v, want /dev/vport1p2", got, err)
	}
	for _, empty := range []string{t.TempDir(), "/nonexistent"} {
		if _, err := findPort(empty, "/dev"); !errors.Is(err, ErrNotFound) {
			t.Errorf("got error %v, want one that matches ErrNotFound", err)
		}
	}
}

func TestOpenMissing(t *testing.T) {
	for _, kind := range []string{ConfigfsTSM, SEVGuest, VirtioPort} {
		if _, err := OpenPath(kind, "/nonexistent/device"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: got error %v, want one that matches ErrNotFound", kind, err)
		}
	}
	if _, err := Open("tpm"); err == nil || !strings.Contains(err.Error(), `"tpm"`) {
		t.Errorf("got error %v, want one that names the device", err)
	}
}

// kernelTSM does what Linux's drivers/virt/coco/tsm.c does with one entry.
type kernelTSM struct {
	sp
	provider   string
	entries    map[string]bool
	generation int
	inblob     []byte
	privlevel  string
	disturb    bool // another process writes before outblob is read
}

func (k *kernelTSM) device() tsm {
	return tsm{
		dir:    "/tsm",
		mkdir:  func(path string, _ os.FileMode) error { k.entries[path] = true; return nil },
		remove: func(path string) error { delete(k.entries, path); return nil },
		read: func(path string, _ int) ([]byte, error) {
			switch filepath.Base(path) {
			case "provider":
				return []byte(k.provider + "\n"), nil
			case "generation":
				return []byte{byte('0' + k.generation), '\n'}, nil
			case "outblob":
				if k.disturb {
					k.generation++
				}
				if k.privlevel != "0" {
					return nil, unix.EINVAL
				}
				return k.report(snp.ReportData(k.inblob)), nil
			case "auxblob":
				return k.table(), nil
			}
			return nil, os.ErrNotExist
		},
		write: func(path string, value []byte) error {
			k.generation++
			switch filepath.Base(path) {
			case "inblob":
				k.inblob = value
			case "privlevel":
				k.privlevel = string(value)
			default:
				return os.ErrNotExist
			}
			return nil
		},
	}
}

func TestTSM(t *testing.T) {
	k := &kernelTSM{sp: newSP(t), provider: "sev_guest", entries: map[string]bool{}}
	checkEvidence(t, k.sp, &Device{kind: ConfigfsTSM, ask: k.device().ask})
	k.disturb = true
	wantError(t, &Device{ask: k.device().ask}, "generation of /tsm/rootvouch-")
	k.provider = "tdx_guest"
	wantError(t, &Device{ask: k.device().ask}, `provider is "tdx_guest", want "sev_guest"`)
	if len(k.entries) != 0 {
		t.Errorf("entries left: %v", k.entries)
	}
}

func TestAttributeLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outblob")
	if err := os.WriteFile(path, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := readAttribute(path, 100); err != nil || len(b) != 100 {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
	if _, err := readAttribute(path, 99); err == nil {
		t.Error("got no error for an attribute over its limit")
	}
}

// kernelIoctl does what drivers/virt/coco/sev-guest does with one request.
func kernelIoctl(s sp, fail func(operation uint, argument *guestRequest) error) sevGuest {
	return sevGuest{"/dev/null", func(_ uintptr, operation uint, argument *guestRequest) error {
		if argument.msgVersion != 1 {
			return unix.EINVAL
		}
		if fail != nil {
			if err := fail(operation, argument); err != nil {
				return err
			}
		}
		at := func(address uint64, n int) []byte { return unsafe.Slice((*byte)(pointer(address)), n) }
		q, err := snp.ParseReportRequest(at(argument.reqData, snp.ReportRequestSize))
		if err != nil {
			return unix.EINVAL
		}
		copy(at(argument.respData, responseSize), snp.ReportResponse{Report: s.report(q.ReportData)}.Marshal())
		if operation == snpGetExtReport {
			ext := (*extReportRequest)(pointer(argument.reqData))
			copy(at(ext.certsAddress, int(ext.certsLen)), s.table())
		}
		return nil
	}}
}

// pointer is the kernel's way from a number to memory.
func pointer(address uint64) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&address))
}

func TestSEVGuest(t *testing.T) {
	s := newSP(t)
	if size := unsafe.Sizeof(guestRequest{}); size != 32 {
		t.Errorf("struct snp_guest_request_ioctl has %d bytes, want 32", size)
	}
	if size := unsafe.Sizeof(extReportRequest{}); size != 112 {
		t.Errorf("struct snp_ext_report_req has %d bytes, want 112", size)
	}
	checkEvidence(t, s, &Device{kind: SEVGuest, ask: kernelIoctl(s, nil).ask})

	plain := &Device{ask: kernelIoctl(s, func(operation uint, a *guestRequest) error {
		if operation == snpGetExtReport {
			a.vmmError = vmmInvalidLength
			return unix.EIO
		}
		return nil
	}).ask}
	if got, err := plain.Evidence([64]byte{}); err != nil || len(got.Certificates) != 0 {
		t.Errorf("got %d certificates, %v, want a report without any", len(got.Certificates), err)
	}
	wantError(t, &Device{ask: kernelIoctl(s, func(_ uint, a *guestRequest) error { a.vmmError = vmmBusy; return unix.EIO }).ask}, "throttles")
	wantError(t, &Device{ask: kernelIoctl(s, func(_ uint, a *guestRequest) error { a.fwError = 0x16; return unix.EIO }).ask}, "firmware error is 0x16")
	wantError(t, &Device{ask: kernelIoctl(s, func(_ uint, a *guestRequest) error { return unix.ENOTTY }).ask}, "inappropriate ioctl")
}

func TestChainOf(t *testing.T) {
	s := newSP(t)
	r, err := snp.ParseReport(s.report(snp.ReportData{}))
	if err != nil {
		t.Fatal(err)
	}
	r.SigningKey = snp.VLEK
	if chain, err := chainOf(r, s.table()); err != nil || chain != nil {
		t.Errorf("got %q, %v, want no chain: the table has no VLEK", chain, err)
	}
	r.SigningKey = snp.VCEK
	if chain, err := chainOf(r, nil); err != nil || chain != nil {
		t.Errorf("got %q, %v, want no chain for no table", chain, err)
	}
	s.leaf = make([]byte, evidence.MaxCertificate+1)
	if _, err := chainOf(r, s.table()); err == nil {
		t.Error("got no error for a certificate over the limit")
	}
}
