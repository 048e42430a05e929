package snp

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// GUID names an entry of a certificate table, in its text form; the bytes of a
// table are in the order in which the text form prints them.
type GUID string

// The GUIDs of certificates (56421, SNP Extended Guest Request).
const (
	GUIDVCEK GUID = "63da758d-e664-4564-adc5-f4b93be8accd"
	GUIDVLEK GUID = "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
	GUIDASK  GUID = "4ab7b379-bbac-4fe4-a02f-05aef327c782" // the ASVK too
	GUIDARK  GUID = "c0b406a4-a803-4952-9743-3fb6014cd0ae"
)

// guidFromBytes returns the text form of 16 bytes.
func guidFromBytes(b []byte) GUID {
	return GUID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16]))
}

// bytes returns the 16 bytes of g. It panics if g is not a GUID, because every
// caller passes a constant.
func (g GUID) bytes() []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(string(g), "-", ""))
	if err != nil || len(b) != 16 || guidFromBytes(b) != g {
		panic(fmt.Sprintf("snp: internal error: %q is not a GUID", string(g)))
	}
	return b
}

// CertEntry is one entry of a certificate table.
type CertEntry struct {
	GUID GUID
	DER  []byte // any bytes that the host put there: parse before use
}

const (
	certTableEntrySize = 24
	maxCertEntries     = 16
	maxCertTable       = 64 << 10 // bytes; hosts give four pages
)

// MarshalCertTable returns the certificate table of an extended report: the
// entries, an entry of zeros, then the contents in the same order.
func MarshalCertTable(entries []CertEntry) []byte {
	header := make([]byte, certTableEntrySize*(len(entries)+1))
	var contents []byte
	for i, e := range entries {
		row := header[certTableEntrySize*i:]
		copy(row, e.GUID.bytes())
		binary.LittleEndian.PutUint32(row[16:], uint32(len(header)+len(contents)))
		binary.LittleEndian.PutUint32(row[20:], uint32(len(e.DER)))
		contents = append(contents, e.DER...)
	}
	return append(header, contents...)
}

// ParseCertTable decodes a certificate table. The table comes from the host, not
// from the AMD-SP. No bytes, or only zeros, are an empty table. ParseCertTable
// refuses more than 16 entries, two entries with one GUID, and contents outside the
// table. It accepts padding after the contents, because hosts give whole pages.
func ParseCertTable(b []byte) ([]CertEntry, error) {
	if len(b) > maxCertTable {
		return nil, fmt.Errorf("parsing certificate table: got %d bytes, want at most %d", len(b), maxCertTable)
	}
	var entries []CertEntry
	seen := make(map[GUID]bool)
	for at := 0; len(b) > 0; at += certTableEntrySize {
		if len(b)-at < certTableEntrySize {
			return nil, fmt.Errorf("parsing certificate table: no zero entry by byte %#x of %#x", at, len(b))
		}
		guid := guidFromBytes(b[at : at+16])
		from := uint64(binary.LittleEndian.Uint32(b[at+16:]))
		size := uint64(binary.LittleEndian.Uint32(b[at+20:]))
		if checkZero(b, at, at+certTableEntrySize) == nil {
			break
		}
		switch {
		case len(entries) == maxCertEntries:
			return nil, fmt.Errorf("parsing certificate table: more than %d entries", maxCertEntries)
		case seen[guid]:
			return nil, fmt.Errorf("parsing certificate table: two entries %s", guid)
		case from+size > uint64(len(b)) || from < uint64(at+2*certTableEntrySize):
			return nil, fmt.Errorf("parsing certificate table: entry %s has %d bytes at %#x, want them after the entries and within %#x", guid, size, from, len(b))
		}
		seen[guid] = true
		entries = append(entries, CertEntry{GUID: guid, DER: append([]byte(nil), b[from:from+size]...)})
	}
	return entries, nil
}
