package snp_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/abi"

	"github.com/rootvouch/rootvouch/snp"
)

func TestReportRequest(t *testing.T) {
	q := snp.ReportRequest{ReportData: snp.ReportData{1, 2, 3}, VMPL: 3, KeySel: 2}
	raw := q.Marshal()
	if len(raw) != 96 {
		t.Fatalf("got %d bytes, want 96", len(raw))
	}
	if got, err := snp.ParseReportRequest(raw); err != nil || got != q {
		t.Errorf("got %+v, %v, want %+v", got, err, q)
	}
	for _, row := range []struct {
		at, v int
		want  string
	}{{0x40, 4, "VMPL is 4"}, {0x44, 3, "KEY_SEL is 3"}, {0x48, 1, "reserved byte"}, {0x5f, 1, "reserved byte"}} {
		bad := bytes.Clone(raw)
		bad[row.at] = byte(row.v)
		if _, err := snp.ParseReportRequest(bad); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("byte %#x: got %v, want an error with %q", row.at, err, row.want)
		}
	}
	for _, bad := range [][]byte{nil, raw[:95], append(bytes.Clone(raw), 0)} {
		if _, err := snp.ParseReportRequest(bad); err == nil {
			t.Errorf("ParseReportRequest takes %d bytes", len(bad))
		}
	}
}

func TestReportResponse(t *testing.T) {
	report := bytes.Repeat([]byte{7}, snp.ReportSize)
	for _, p := range []snp.ReportResponse{{Report: report}, {Status: snp.StatusInvalidParameter}} {
		got, err := snp.ParseReportResponse(p.Marshal())
		if err != nil || got.Status != p.Status || !bytes.Equal(got.Report, p.Report) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	good := snp.ReportResponse{Report: report}.Marshal()
	change := func(at int, v byte) []byte {
		bad := bytes.Clone(good)
		bad[at] = v
		return bad
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "header cut": good[:31], "report cut": good[:len(good)-1], "trailing": append(bytes.Clone(good), 0),
		"status with a report": change(0, 0x16), "other size": change(4, 1), "reserved": change(8, 1), "no report": good[:32],
	} {
		if _, err := snp.ParseReportResponse(bad); err == nil {
			t.Errorf("ParseReportResponse takes a response that is: %s", name)
		}
	}
}

func TestCertTable(t *testing.T) {
	entries := []snp.CertEntry{{GUID: snp.GUIDVCEK, DER: []byte{1, 2}}, {GUID: snp.GUIDASK, DER: []byte{3}}, {GUID: snp.GUIDARK, DER: bytes.Repeat([]byte{4}, 2000)}}
	raw := snp.MarshalCertTable(entries)
	for _, padded := range [][]byte{raw, append(bytes.Clone(raw), make([]byte, 4096)...)} {
		got, err := snp.ParseCertTable(padded)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(entries) {
			t.Fatalf("got %d entries, want %d", len(got), len(entries))
		}
		for i := range got {
			if got[i].GUID != entries[i].GUID || !bytes.Equal(got[i].DER, entries[i].DER) {
				t.Errorf("entry %d: got %s with %d bytes", i, got[i].GUID, len(got[i].DER))
			}
		}
	}
	table := new(abi.CertTable)
	if err := table.Unmarshal(raw); err != nil {
		t.Fatalf("go-sev-guest: %v", err)
	}
	if der, err := table.GetByGUIDString(abi.VcekGUID); err != nil || !bytes.Equal(der, []byte{1, 2}) {
		t.Errorf("go-sev-guest: got %x, %v", der, err)
	}
	for _, empty := range [][]byte{nil, make([]byte, 24), make([]byte, 4096)} {
		if got, err := snp.ParseCertTable(empty); err != nil || len(got) != 0 {
			t.Errorf("%d zero bytes: got %v, %v", len(empty), got, err)
		}
	}
}

func TestCertTableRefuses(t *testing.T) {
	good := snp.MarshalCertTable([]snp.CertEntry{{GUID: snp.GUIDVCEK, DER: []byte{1, 2}}})
	put := func(at int, v uint32) []byte {
		bad := bytes.Clone(good)
		binary.LittleEndian.PutUint32(bad[at:], v)
		return bad
	}
	var many []snp.CertEntry
	for i := range 17 {
		many = append(many, snp.CertEntry{GUID: snp.GUID(strings.Replace(string(snp.GUIDVCEK), "63da75", "0000"+string("0123456789abcdef0"[i])+"1", 1)), DER: []byte{1}})
	}
	twice := []snp.CertEntry{{GUID: snp.GUIDARK, DER: []byte{1}}, {GUID: snp.GUIDARK, DER: []byte{2}}}
	for name, bad := range map[string][]byte{
		"cut entry": good[:23], "no end": good[:24], "offset past the end": put(16, 51), "size past the end": put(20, 3),
		"offset wraps": put(16, 0xffffffff), "size wraps": put(20, 0xffffffff), "offset in the entries": put(16, 8),
		"too large": make([]byte, 64<<10+1), "too many": snp.MarshalCertTable(many), "twice": snp.MarshalCertTable(twice),
	} {
		if _, err := snp.ParseCertTable(bad); err == nil {
			t.Errorf("ParseCertTable takes a table that is: %s", name)
		}
	}
}

func FuzzParseCertTable(f *testing.F) {
	f.Add(snp.MarshalCertTable([]snp.CertEntry{{GUID: snp.GUIDVCEK, DER: []byte{1, 2}}, {GUID: snp.GUIDARK, DER: []byte{3}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := snp.ParseCertTable(data)
		if err != nil {
			return
		}
		again, err := snp.ParseCertTable(snp.MarshalCertTable(entries))
		if err != nil && len(snp.MarshalCertTable(entries)) <= 64<<10 {
			t.Fatalf("what parses does not parse again: %v", err)
		}
		if err == nil && len(again) != len(entries) {
			t.Errorf("got %d entries, want %d", len(again), len(entries))
		}
	})
}
