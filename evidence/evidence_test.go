package evidence_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/amdtest"
)

func TestRoundTrip(t *testing.T) {
	for _, e := range []evidence.Evidence{
		{Report: []byte{1}},
		{Report: bytes.Repeat([]byte{0xff}, 1184), Certificates: [][]byte{{1}, {2, 3}, bytes.Repeat([]byte{4}, evidence.MaxCertificate)}},
	} {
		data, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := evidence.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Report, e.Report) || len(got.Certificates) != len(e.Certificates) {
			t.Errorf("got %v, want %v", got, e)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, row := range []struct{ name, data, want string }{
		{"empty", ``, "EOF"},
		{"no report", `{"version":1,"report":"","certificates":[]}`, "report has 0 bytes"},
		{"other version", `{"version":2,"report":"AA==","certificates":[]}`, "version is 2"},
		{"absent certificates", `{"version":1,"report":"AA=="}`, `"certificates": missing`},
		{"unknown member", `{"version":1,"report":"AA==","certificates":[],"kind":"azure"}`, "unknown member"},
		{"member twice", `{"version":1,"report":"AA==","report":"AA==","certificates":[]}`, "twice"},
		{"member in capitals", `{"version":1,"Report":"AA==","certificates":[]}`, "unknown member"},
		{"white space", `{"version":1, "report":"AA==","certificates":[]}`, "canonical"},
		{"white space after", `{"version":1,"report":"AA==","certificates":[]}` + "\n", "canonical"},
		{"data after", `{"version":1,"report":"AA==","certificates":[]}{}`, "after"},
		{"line break in base64", `{"version":1,"report":"AA\n==","certificates":[]}`, "canonical"},
		{"loose bits in base64", `{"version":1,"report":"AB==","certificates":[]}`, "illegal base64"},
		{"empty certificate", `{"version":1,"report":"AA==","certificates":[""]}`, "certificate 0 has 0 bytes"},
		{"nine certificates", `{"version":1,"report":"AA==","certificates":["AA==","AA==","AA==","AA==","AA==","AA==","AA==","AA==","AA=="]}`, "got 9 certificates"},
		{"too large", strings.Repeat(" ", evidence.MaxSize+1), "want at most 65536"},
	} {
		if _, err := evidence.Decode([]byte(row.data)); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want an error with %q", row.name, err, row.want)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, e := range []evidence.Evidence{
		{}, {Report: make([]byte, evidence.MaxReport+1)}, {Report: []byte{1}, Certificates: [][]byte{nil}},
		{Report: []byte{1}, Certificates: [][]byte{make([]byte, evidence.MaxCertificate+1)}},
		{Report: []byte{1}, Certificates: make([][]byte, evidence.MaxCertificates+1)},
	} {
		if _, err := e.Encode(); err == nil {
			t.Errorf("Encode takes a report of %d bytes and %d certificates", len(e.Report), len(e.Certificates))
		}
	}
}

// TestBindings pins the bytes that each purpose hashes, written out by hand.
func TestBindings(t *testing.T) {
	frame := func(fields ...string) (want [64]byte) {
		var b []byte
		for _, f := range fields {
			b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
			b = append(b, f...)
		}
		return sha512.Sum512(b)
	}
	nonce := evidence.Nonce(bytes.Repeat([]byte{7}, 32))
	n := string(nonce[:])
	disk := pins.UUID(bytes.Repeat([]byte{8}, 16))
	digest := pins.Digest(bytes.Repeat([]byte{9}, 32))
	if got, want := evidence.NodeAttestation(nonce), frame("rootvouch node attestation v1", n); got != want {
		t.Errorf("NodeAttestation: got %x, want %x", got, want)
	}
	if got, want := evidence.KeyRelease(nonce, disk, []byte("svid"), []byte("hpke")), frame("rootvouch key release v1", n, string(disk[:]), "svid", "hpke"); got != want {
		t.Errorf("KeyRelease: got %x, want %x", got, want)
	}
	if got, want := evidence.OwnerAttestation(nonce, []byte("tls"), digest), frame("rootvouch owner attestation v1", n, "tls", string(digest[:])); got != want {
		t.Errorf("OwnerAttestation: got %x, want %x", got, want)
	}
	if evidence.KeyRelease(nonce, disk, []byte("ab"), []byte("c")) == evidence.KeyRelease(nonce, disk, []byte("a"), []byte("bc")) {
		t.Error("fields are not framed: two requests share one REPORT_DATA")
	}
}

func TestNonceText(t *testing.T) {
	n, err := evidence.NewNonce(bytes.NewReader(bytes.Repeat([]byte{0xab}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := evidence.ParseNonce(n.String()); err != nil || again != n {
		t.Errorf("ParseNonce: got %v, %v", again, err)
	}
	for _, bad := range []string{"", strings.ToUpper(n.String()), n.String() + "00", n.String()[1:]} {
		if _, err := evidence.ParseNonce(bad); err == nil {
			t.Errorf("ParseNonce takes %q", bad)
		}
	}
	if _, err := evidence.NewNonce(bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("NewNonce takes 31 bytes of randomness")
	}
}

// TestAzureVectors unwraps two HCL blobs of real VMs.
func TestAzureVectors(t *testing.T) {
	for _, name := range []string{"trustee-azure-v0", "trustee-azure-hcl", "trustee-azure-genoa"} {
		report := amdtest.Find(t, name).Report
		hcl, err := evidence.ParseHCL(amdtest.HCL(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(hcl.Report, report) {
			t.Errorf("%s: got another report", name)
		}
		if binding := hcl.RuntimeBinding(); !bytes.Equal(binding[:], report[0x50:0x90]) {
			t.Errorf("%s: RuntimeBinding: got %x, want %x", name, binding, report[0x50:0x90])
		}
		if user, err := hcl.UserData(); err != nil || user != [64]byte{} {
			t.Errorf("%s: UserData: got %x, %v, want zeros", name, user, err)
		}
	}
}

// blob makes an HCL blob around runtime data.
func blob(runtime string) []byte {
	b := make([]byte, 32+1184+20, 2600)
	copy(b, "HCLA")
	put := func(at, v int) { binary.LittleEndian.PutUint32(b[at:], uint32(v)) }
	put(4, 1)
	put(8, len(b)+len(runtime))
	put(12, 2)
	put(1216, 20+len(runtime))
	put(1220, 1)
	put(1224, 2)
	put(1228, 1)
	put(1232, len(runtime))
	return append(append(b, runtime...), 0, 0, 0)
}

// TestHCLVersions parses the forms of header and request data in public files and
// Microsoft's sources: versions 1 and 2 of each, a bitmap before the runtime data
// in version 2 of the request data, and three hashes.
func TestHCLVersions(t *testing.T) {
	const runtime = `{"user-data":""}`
	put := func(b []byte, at, v int) { binary.LittleEndian.PutUint32(b[at:], uint32(v)) }
	for _, row := range []struct {
		name                 string
		header, data, bitmap int // versions, and bytes of the bitmap
		hash                 int
		binding              int // bytes of the hash; 0: refused
	}{
		{"1 and 1", 1, 1, 0, 1, 32},
		{"2 and 1", 2, 1, 0, 1, 32},
		{"2 and 2", 2, 2, 0, 1, 32},
		{"2 and 2, with the bitmap", 2, 2, 4, 1, 32},
		{"SHA-384", 2, 1, 0, 2, 48},
		{"SHA-512", 2, 1, 0, 3, 64},
		{"a bitmap in version 1", 2, 1, 4, 1, 0},
		{"a longer bitmap", 2, 2, 8, 1, 0},
		{"header version 0", 0, 1, 0, 1, 0},
		{"header version 3", 3, 1, 0, 1, 0},
		{"request data version 3", 2, 3, 4, 1, 0},
		{"no hash", 2, 1, 0, 0, 0},
		{"hash 4", 2, 1, 0, 4, 0},
	} {
		b := blob(strings.Repeat("\xff", row.bitmap) + runtime)
		put(b, 4, row.header)
		put(b, 1220, row.data)
		put(b, 1228, row.hash)
		put(b, 1232, len(runtime))
		hcl, err := evidence.ParseHCL(b)
		if row.binding == 0 {
			if err == nil {
				t.Errorf("%s: got no error", row.name)
			}
			continue
		}
		if err != nil || string(hcl.RuntimeData) != runtime {
			t.Errorf("%s: got runtime data %q, %v", row.name, hcl.RuntimeData, err)
			continue
		}
		got := hcl.RuntimeBinding()
		if n := len(bytes.TrimRight(got[:], "\x00")); n != row.binding {
			t.Errorf("%s: got a hash of %d bytes, want %d", row.name, n, row.binding)
		}
	}
}

func TestHCLRefuses(t *testing.T) {
	user := `"user-data":"` + hex.EncodeToString(make([]byte, 64)) + `"`
	good := blob(`{` + user + `}`)
	if _, err := evidence.ParseHCL(good); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 4, 8, 12, 16, 20, 24, 28, 1216, 1220, 1224, 1228, 1232, len(good) - 1} {
		bad := bytes.Clone(good)
		bad[at] ^= 0x40
		if _, err := evidence.ParseHCL(bad); err == nil {
			t.Errorf("ParseHCL takes a changed byte at %#x", at)
		}
	}
	for size := range 1236 {
		if _, err := evidence.ParseHCL(good[:size]); err == nil {
			t.Fatalf("ParseHCL takes %d bytes", size)
		}
	}
	for _, runtime := range []string{``, `[]`, `{}`, `{"user-data":1}`, `{"User-Data":"00"}`, `{"user-data":"00"}`, `{` + user + `,` + user + `}`, `{` + user + `}x`, `{` + user} {
		hcl, err := evidence.ParseHCL(blob(runtime))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := hcl.UserData(); err == nil {
			t.Errorf("UserData takes %s", runtime)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"report":"AA==","certificates":[]}`))
	f.Add([]byte(`{"version":1,"report":"AAEC","certificates":["AQ==","Ag=="]}`))
	f.Add([]byte(`{"version":1,"report":"AB==","certificates":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := evidence.Decode(data)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("what decodes does not encode to the same bytes: %v", err)
		}
	})
}

func FuzzParseHCL(f *testing.F) {
	f.Add(blob(`{"user-data":"00"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if hcl, err := evidence.ParseHCL(data); err == nil {
			_, _ = hcl.UserData()
			if len(hcl.Report) != 1184 {
				t.Errorf("report has %d bytes", len(hcl.Report))
			}
		}
	})
}
