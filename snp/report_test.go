package snp_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/abi"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/snp"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// full returns a report with a value in every field, signed by key.
func full(t testing.TB, version uint32, key *ecdsa.PrivateKey) *snp.Report {
	t.Helper()
	r := &snp.Report{
		Version: version, GuestSVN: 3, Policy: snp.PolicyReservedOne | snp.PolicySMT | 0x133, VMPL: 2,
		CurrentTCB: 0x54_17_00_00_00_00_01_0a, ReportedTCB: 0x53_16_00_00_00_00_01_0a, CommittedTCB: 0x52_15_00_00_00_00_01_09, LaunchTCB: 0x51_15_00_00_00_00_01_09,
		PlatformInfo: snp.PlatformSMT | snp.PlatformECC, AuthorKeyEnabled: true, MaskChipKey: true, SigningKey: snp.VLEK,
		FamilyID: snp.GuestID{1}, ImageID: snp.GuestID{2}, ReportData: snp.ReportData{3}, Measurement: snp.Measurement{4},
		HostData: snp.HostData{5}, IDKeyDigest: snp.KeyDigest{6}, AuthorKeyDigest: snp.KeyDigest{7}, ReportID: snp.ReportID{8},
		ReportIDMA: snp.ReportID{9}, ChipID: snp.ChipID{10}, Current: snp.Firmware{Build: 1, Minor: 2, Major: 3}, Committed: snp.Firmware{Build: 4, Minor: 5, Major: 6},
	}
	if version >= 3 {
		r.CPUID = snp.Genoa.Example()
	}
	if version >= 5 {
		r.LaunchMitVector, r.CurrentMitVector = 11, 12
	}
	if err := r.Sign(rand.Reader, key); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReportRoundTrip(t *testing.T) {
	key := newKey(t)
	for version := uint32(2); version <= 5; version++ {
		r := full(t, version, key)
		raw := r.Marshal()
		got, err := snp.ParseReport(raw)
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if *got != *r || !bytes.Equal(got.Marshal(), raw) {
			t.Errorf("version %d: got %+v, want %+v", version, got, r)
		}
		if err := got.Verify(&key.PublicKey); err != nil {
			t.Errorf("version %d: %v", version, err)
		}
		proto, err := abi.ReportToProto(raw)
		if err != nil {
			t.Fatalf("version %d: go-sev-guest: %v", version, err)
		}
		if proto.GuestSvn != r.GuestSVN || proto.Policy != uint64(r.Policy) || proto.ReportedTcb != uint64(r.ReportedTCB) ||
			!bytes.Equal(proto.Measurement, r.Measurement[:]) || !bytes.Equal(proto.ChipId, r.ChipID[:]) ||
			!bytes.Equal(proto.ReportIdMa, r.ReportIDMA[:]) || proto.CommittedMajor != uint32(r.Committed.Major) || proto.LaunchMitVector != r.LaunchMitVector {
			t.Errorf("version %d: go-sev-guest reads it otherwise: %v", version, proto)
		}
	}
}

// TestReservedBytes sets each reserved byte. Each such report must be refused.
func TestReservedBytes(t *testing.T) {
	key := newKey(t)
	ranges := map[uint32][][2]int{
		2: {{0x49, 0x50}, {0x188, 0x1a0}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x1f8, 0x2a0}, {0x2a0 + 48, 0x2e8}, {0x2e8 + 48, 0x4a0}, {0x3c, 0x3e}, {0x184, 0x186}},
		3: {{0x49, 0x50}, {0x18b, 0x1a0}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x1f8, 0x2a0}, {0x330, 0x4a0}, {0x3a, 0x3e}, {0x182, 0x186}, {0x1e2, 0x1e6}, {0x1f2, 0x1f6}},
		5: {{0x0c, 0x10}, {0x41, 0x48}, {0x49, 0x50}, {0x18b, 0x1a0}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x208, 0x2a0}, {0x330, 0x4a0}, {0x182, 0x186}},
	}
	for version, list := range ranges {
		raw := full(t, version, key).Marshal()
		for _, z := range list {
			for at := z[0]; at < z[1]; at++ {
				bad := bytes.Clone(raw)
				bad[at] = 0x80
				if _, err := snp.ParseReport(bad); err == nil {
					t.Errorf("version %d: ParseReport takes 0x80 at %#x", version, at)
				}
			}
		}
	}
}

func TestParseReportRefuses(t *testing.T) {
	key := newKey(t)
	good := full(t, 5, key).Marshal()
	n := elliptic.P384().Params().N
	little := func(v *big.Int) (b [72]byte) {
		v.FillBytes(b[:])
		for i := range 36 {
			b[i], b[71-i] = b[71-i], b[i]
		}
		return b
	}
	order, zero := little(n), [72]byte{}
	for _, row := range []struct {
		name string
		at   int
		set  []byte
		want string
	}{
		{"version 0", 0, []byte{0}, "VERSION is 0"},
		{"version 1", 0, []byte{1}, "VERSION is 1, want 2 to 5"},
		{"version 6", 0, []byte{6}, "VERSION is 6"},
		{"policy bit 17 clear", 0x0a, []byte{1}, "bit 17"},
		{"policy bit 26", 0x0b, []byte{4}, "reserved bit 26"},
		{"policy bit 63", 0x0f, []byte{0x80}, "reserved bit 63"},
		{"VMPL 4", 0x30, []byte{4}, "VMPL is 4"},
		{"signature algorithm 0", 0x34, []byte{0}, "SIGNATURE_ALGO is 0"},
		{"signature algorithm 2", 0x34, []byte{2}, "SIGNATURE_ALGO is 2"},
		{"platform info bit 8", 0x41, []byte{1}, "reserved bit 8"},
		{"signing key 2", 0x48, []byte{2 << 2}, "SIGNING_KEY is 2"},
		{"not signed", 0x48, []byte{7 << 2}, "SIGNING_KEY is 7"},
		{"flags bit 5", 0x48, []byte{0x20}, "reserved bits 5-31"},
		{"unknown processor", 0x188, []byte{0x17}, "CPUID"},
		{"R is 0", 0x2a0, zero[:], "component R"},
		{"S is 0", 0x2e8, zero[:], "component S"},
		{"R is the order", 0x2a0, order[:], "component R"},
		{"S is the order", 0x2e8, order[:], "component S"},
	} {
		bad := bytes.Clone(good)
		copy(bad[row.at:], row.set)
		if _, err := snp.ParseReport(bad); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want an error with %q", row.name, err, row.want)
		}
	}
	for size := range len(good) {
		if _, err := snp.ParseReport(good[:size]); err == nil {
			t.Fatalf("ParseReport takes %d bytes", size)
		}
	}
	if _, err := snp.ParseReport(append(bytes.Clone(good), 0)); err == nil {
		t.Error("ParseReport takes a trailing byte")
	}
	host := bytes.Clone(good)
	copy(host[0x30:], []byte{0xff, 0xff, 0xff, 0xff})
	if r, err := snp.ParseReport(host); err != nil || r.VMPL != snp.VMPLHost {
		t.Errorf("a report to the host: got %v", err)
	}
}

// TestEveryBitCounts flips bits of a signed report: each copy must fail to
// parse or to verify. All of them in `make test`, one of each byte otherwise.
func TestEveryBitCounts(t *testing.T) {
	key := newKey(t)
	raw := full(t, 5, key).Marshal()
	step := 8
	if needs.Full() {
		step = 1
	}
	for bit := 0; bit < 8*len(raw); bit += step {
		at := bit + bit/8%step
		bad := bytes.Clone(raw)
		bad[at/8] ^= 1 << (at % 8)
		r, err := snp.ParseReport(bad)
		if err != nil {
			continue
		}
		if err := r.Verify(&key.PublicKey); !errors.Is(err, snp.ErrSignature) {
			t.Fatalf("bit %d of byte %#x is flipped: got %v, want ErrSignature", at%8, at/8, err)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := full(t, 5, newKey(t))
	if err := r.Sign(rand.Reader, key); err == nil || !strings.Contains(err.Error(), "want P-384") {
		t.Errorf("Sign: got %v", err)
	}
	if err := r.Verify(&key.PublicKey); err == nil || !strings.Contains(err.Error(), "want P-384") {
		t.Errorf("Verify: got %v", err)
	}
	if err := r.Verify(&newKey(t).PublicKey); !errors.Is(err, snp.ErrSignature) {
		t.Errorf("Verify with another key: got %v", err)
	}
	r.Signature = snp.Signature{}
	if err := r.Verify(&newKey(t).PublicKey); !errors.Is(err, snp.ErrSignature) {
		t.Errorf("Verify of no signature: got %v", err)
	}
}

func TestProducts(t *testing.T) {
	for _, row := range []struct {
		cpuid snp.CPUID
		want  snp.Product // empty: refused
	}{
		{snp.CPUID{Family: 0x19, Model: 0x01, Stepping: 1}, snp.Milan},
		{snp.CPUID{Family: 0x19, Model: 0x11, Stepping: 1}, snp.Genoa},
		{snp.CPUID{Family: 0x19, Model: 0xa0, Stepping: 2}, snp.Genoa}, // Bergamo, Siena
		{snp.CPUID{Family: 0x1a, Model: 0x02, Stepping: 1}, snp.Turin},
		{snp.CPUID{Family: 0x1a, Model: 0x11}, snp.Turin}, // Turin Dense
		{snp.CPUID{Family: 0x17, Model: 0x31}, ""},        // Rome
		{snp.CPUID{Family: 0x19, Model: 0x21}, ""},        // a desktop part
		{snp.CPUID{Family: 0x1a, Model: 0x50}, ""},
		{snp.CPUID{}, ""},
	} {
		got, err := row.cpuid.Product()
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%s: got %q, %v, want %q", row.cpuid, got, err, row.want)
		}
	}
	for name, want := range map[string]snp.Product{"Milan-B0": snp.Milan, "Genoa": snp.Genoa, "Turin-B1": snp.Turin} {
		if got, err := snp.ParseProductName(name); got != want || err != nil {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "Rome", "milan", "Milan-", "Milan-B", "Milan-b0", "Milan-B00", "Milan-B0-B0", "Genoa ", "-B0"} {
		if got, err := snp.ParseProductName(name); err == nil {
			t.Errorf("ParseProductName takes %q for %q", name, got)
		}
	}
}

func TestTCBLayouts(t *testing.T) {
	for _, row := range []struct {
		product snp.Product
		v       snp.TCBVersion
		want    snp.TCB
	}{
		{snp.Milan, 0xdb18000000000004, snp.TCB{Bootloader: 4, SNP: 0x18, Microcode: 0xdb}},
		{snp.Genoa, 0x541700000000010a, snp.TCB{Bootloader: 10, TEE: 1, SNP: 0x17, Microcode: 0x54}},
		{snp.Turin, 0x5100000004010203, snp.TCB{FMC: 3, Bootloader: 2, TEE: 1, SNP: 4, Microcode: 0x51}},
	} {
		got, err := row.product.DecodeTCB(row.v)
		if err != nil || got != row.want {
			t.Errorf("%s: got %s, %v, want %s", row.product, got, err, row.want)
		}
		if v, err := row.product.EncodeTCB(got); err != nil || v != row.v {
			t.Errorf("%s: EncodeTCB: got %s, %v, want %s", row.product, v, err, row.v)
		}
	}
	for product, reserved := range map[snp.Product][]int{snp.Milan: {2, 3, 4, 5}, snp.Genoa: {2, 3, 4, 5}, snp.Turin: {4, 5, 6}} {
		for _, at := range reserved {
			if _, err := product.DecodeTCB(1 << (8 * at)); err == nil {
				t.Errorf("%s: DecodeTCB takes reserved byte %d", product, at)
			}
		}
	}
	if _, err := snp.Genoa.EncodeTCB(snp.TCB{FMC: 1}); err == nil {
		t.Error("EncodeTCB gives Genoa an FMC")
	}
	if _, err := snp.Product("").DecodeTCB(0); err == nil {
		t.Error("DecodeTCB takes no product")
	}
	base := snp.TCB{FMC: 1, Bootloader: 1, TEE: 1, SNP: 1, Microcode: 1}
	if !base.AtLeast(base) {
		t.Error("a TCB is not at least itself")
	}
	for _, lower := range []snp.TCB{{0, 9, 9, 9, 9}, {9, 0, 9, 9, 9}, {9, 9, 0, 9, 9}, {9, 9, 9, 0, 9}, {9, 9, 9, 9, 0}} {
		if lower.AtLeast(base) {
			t.Errorf("%s is at least %s", lower, base)
		}
	}
}

func TestHexForms(t *testing.T) {
	m := snp.Measurement{0xab}
	if got, err := snp.ParseMeasurement(m.String()); err != nil || got != m {
		t.Errorf("ParseMeasurement: got %s, %v", got, err)
	}
	for _, bad := range []string{"", m.String()[1:], m.String() + "00", strings.ToUpper(m.String()), strings.Repeat("g", 96)} {
		if _, err := snp.ParseMeasurement(bad); err == nil {
			t.Errorf("ParseMeasurement takes %q", bad)
		}
	}
	tcb := snp.TCBVersion(0x0807060504030201)
	if got := fmt.Sprint(tcb); got != "0102030405060708" {
		t.Errorf("TCBVersion: got %s", got)
	}
	var again snp.TCBVersion
	if err := again.UnmarshalText([]byte(tcb.String())); err != nil || again != tcb {
		t.Errorf("TCBVersion: got %s, %v", again, err)
	}
}

// FuzzParseReport parses what go-sev-guest parses and no more, and encodes it
// to the same bytes.
func FuzzParseReport(f *testing.F) {
	key := newKey(f)
	for version := uint32(2); version <= 5; version++ {
		f.Add(full(f, version, key).Marshal())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := snp.ParseReport(data)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Marshal(), data) {
			t.Error("what parses does not encode to the same bytes")
		}
		if err := abi.ValidateReportFormat(data); err != nil {
			t.Errorf("go-sev-guest refuses the format: %v", err)
		}
		proto, err := abi.ReportToProto(data)
		if err != nil {
			t.Fatalf("go-sev-guest refuses: %v", err)
		}
		again, err := abi.ReportToAbiBytes(proto)
		if err != nil {
			t.Fatalf("go-sev-guest refuses: %v", err)
		}
		if !bytes.Equal(again, data) {
			t.Error("go-sev-guest reads other fields")
		}
	})
}
