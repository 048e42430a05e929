package snp_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/snp"
)

func genoa() snp.KeyExtensions {
	return snp.KeyExtensions{ProductName: "Genoa", TCB: snp.TCB{Bootloader: 10, TEE: 1, SNP: 23, Microcode: 200}, HWID: bytes.Repeat([]byte{9}, 64)}
}

func turin() snp.KeyExtensions {
	return snp.KeyExtensions{StructVersion: 1, ProductName: "Turin", TCB: snp.TCB{FMC: 1, Bootloader: 127, TEE: 128, SNP: 255, Microcode: 81}, HWID: bytes.Repeat([]byte{9}, 8)}
}

func build(t *testing.T, k snp.KeyExtensions) []pkix.Extension {
	t.Helper()
	list, err := k.Build()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func parse(list []pkix.Extension) (snp.KeyExtensions, error) {
	return snp.ParseKeyExtensions(&x509.Certificate{Extensions: list})
}

func TestKeyExtensionsRoundTrip(t *testing.T) {
	wrapped, vlek, stepping := genoa(), genoa(), genoa()
	wrapped.HWIDWrapped = true
	vlek.HWID, vlek.CSPID = nil, "CN=cloud.example"
	stepping.ProductName = "Milan-B1"
	wrappedTurin := turin()
	wrappedTurin.HWIDWrapped = true
	for _, want := range []snp.KeyExtensions{genoa(), turin(), wrapped, wrappedTurin, vlek, stepping} {
		got, err := parse(build(t, want))
		if err != nil {
			t.Errorf("%+v: %v", want, err)
			continue
		}
		if got.ProductName != want.ProductName || got.TCB != want.TCB || !bytes.Equal(got.HWID, want.HWID) ||
			got.HWIDWrapped != want.HWIDWrapped || got.CSPID != want.CSPID || got.StructVersion != want.StructVersion {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestMatchesChip(t *testing.T) {
	var id snp.ChipID
	copy(id[:], bytes.Repeat([]byte{9}, 8))
	if !turin().MatchesChip(id) {
		t.Error("8 bytes do not match a CHIP_ID that is zero behind them")
	}
	id[8] = 1
	if turin().MatchesChip(id) {
		t.Error("8 bytes match a CHIP_ID with more")
	}
	for _, k := range []snp.KeyExtensions{{}, {HWID: make([]byte, 64)}, {HWID: make([]byte, 65)}} {
		if k.MatchesChip(snp.ChipID{}) {
			t.Errorf("a masked CHIP_ID matches %d bytes", len(k.HWID))
		}
	}
}

func TestKeyExtensionsRefused(t *testing.T) {
	oid := func(arcs ...int) asn1.ObjectIdentifier {
		return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, arcs...)
	}
	set := func(value []byte, arcs ...int) func([]pkix.Extension) []pkix.Extension {
		return func(list []pkix.Extension) []pkix.Extension {
			for i := range list {
				if list[i].Id.Equal(oid(arcs...)) {
					list[i].Value = value
				}
			}
			return list
		}
	}
	add := func(id asn1.ObjectIdentifier, value ...byte) func([]pkix.Extension) []pkix.Extension {
		return func(list []pkix.Extension) []pkix.Extension {
			return append(list, pkix.Extension{Id: id, Value: value})
		}
	}
	for _, row := range []struct {
		name   string
		of     snp.KeyExtensions
		change func([]pkix.Extension) []pkix.Extension
		want   string
	}{
		{"unknown below AMD's arc", genoa(), add(oid(6), 2, 1, 0), "is unknown for Genoa"},
		{"fmcSPL on Genoa", genoa(), add(oid(3, 9), 2, 1, 0), "is unknown for Genoa"},
		{"spl4 on Turin", turin(), add(oid(3, 4), 2, 1, 0), "is unknown for Turin"},
		{"twice", genoa(), add(oid(3, 1), 2, 1, 10), "occurs twice"},
		{"both holders", genoa(), add(oid(5), 0x16, 1, 'a'), "both hwID and cspID"},
		{"someone else's", genoa(), add(asn1.ObjectIdentifier{2, 5, 29, 37}, 0x30, 0), "not AMD's"},
		{"reserved level", genoa(), set([]byte{2, 1, 1}, 3, 5), "spl5 is 1, want 0"},
		{"negative level", genoa(), set([]byte{2, 1, 0x80}, 3, 8), "INTEGER from 0 to 255"},
		{"level 256", genoa(), set([]byte{2, 2, 1, 0}, 3, 8), "INTEGER from 0 to 255"},
		{"level with a needless byte", genoa(), set([]byte{2, 2, 0, 1}, 3, 8), "INTEGER from 0 to 255"},
		{"level with a trailing byte", genoa(), set([]byte{2, 1, 1, 0}, 3, 8), "INTEGER from 0 to 255"},
		{"level that is a string", genoa(), set([]byte{0x16, 1, '1'}, 3, 8), "INTEGER from 0 to 255"},
		{"structVersion of Turin", genoa(), set([]byte{2, 1, 1}, 1), "structVersion is 1, want 0"},
		{"structVersion of Genoa", turin(), set([]byte{2, 1, 0}, 1), "structVersion is 0, want 1"},
		{"unknown product", genoa(), set([]byte{0x16, 4, 'R', 'o', 'm', 'e'}, 2), "productName"},
		{"product as UTF8String", genoa(), set([]byte{0x0c, 5, 'G', 'e', 'n', 'o', 'a'}, 2), "want an IA5String"},
		{"product with a NUL", genoa(), set([]byte{0x16, 6, 'G', 'e', 'n', 'o', 'a', 0}, 2), "printable"},
		{"hwID cut", genoa(), set(make([]byte, 63), 4), "hwID is"},
		{"hwID of Turin on Genoa", genoa(), set(make([]byte, 8), 4), "hwID is"},
		{"hwID of Genoa on Turin", turin(), set(make([]byte, 64), 4), "hwID is"},
		{"hwID in another tag", genoa(), set(append([]byte{3, 64}, make([]byte, 64)...), 4), "hwID is"},
	} {
		_, err := parse(row.change(build(t, row.of)))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want an error with %q", row.name, err, row.want)
		}
	}
	for _, of := range []snp.KeyExtensions{genoa(), turin()} {
		for i := range build(t, of) {
			if _, err := parse(slices.Delete(build(t, of), i, i+1)); err == nil {
				t.Errorf("%s: extension %d may be absent", of.ProductName, i)
			}
		}
	}
	cut := genoa()
	cut.HWID = cut.HWID[:63]
	both := genoa()
	both.CSPID = "CN=cloud"
	fmc := genoa()
	fmc.TCB.FMC = 1
	for _, bad := range []snp.KeyExtensions{{}, cut, both, fmc} {
		if _, err := bad.Build(); err == nil {
			t.Errorf("Build takes %+v", bad)
		}
	}
}

func FuzzParseKeyExtensions(f *testing.F) {
	f.Add([]byte{2, 1, 0}, []byte("\x16\x05Genoa"), make([]byte, 64), []byte(nil))
	f.Add([]byte{2, 1, 1}, []byte("\x16\x05Turin"), make([]byte, 8), []byte("\x16\x01a"))
	f.Fuzz(func(t *testing.T, version, name, hwid, csp []byte) {
		list, err := genoa().Build()
		if err != nil {
			t.Fatal(err)
		}
		list[0].Value, list[1].Value, list[len(list)-1].Value = version, name, hwid
		if csp != nil {
			list[len(list)-1] = pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 5}, Value: csp}
		}
		k, err := parse(list)
		if err != nil {
			return
		}
		again, err := k.Build()
		if err != nil {
			t.Fatalf("what parses does not build: %v", err)
		}
		for i := range list {
			if !bytes.Equal(again[i].Value, list[i].Value) {
				t.Errorf("extension %d: got %x, want %x", i, again[i].Value, list[i].Value)
			}
		}
	})
}
