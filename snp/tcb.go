package snp

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/rootvouch/rootvouch/pins"
)

// TCBVersion is the 8-byte TCB_VERSION of a report, read as a little-endian
// integer (56860, section 2.2, tables 3 and 4). The meaning of its bytes depends on
// the product: [Product.DecodeTCB].
type TCBVersion uint64

// String returns the bytes in the order in which the report has them.
func (v TCBVersion) String() string {
	var b strings.Builder
	for i := range 8 {
		fmt.Fprintf(&b, "%02x", v.at(i))
	}
	return b.String()
}

// MarshalText returns the text of String.
func (v TCBVersion) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText sets v from 16 lower-case hex digits, in the report's order.
func (v *TCBVersion) UnmarshalText(text []byte) error {
	var b [8]byte
	if err := pins.DecodeHex(b[:], text); err != nil {
		return err
	}
	*v = TCBVersion(binary.LittleEndian.Uint64(b[:]))
	return nil
}

// at returns byte i of the field.
func (v TCBVersion) at(i int) uint8 { return uint8(v >> (8 * i)) }

// TCB holds the security version numbers of a platform's firmware. A higher
// number is newer; numbers of different products cannot be compared.
type TCB struct {
	// FMC is the version of the first mutable code. Turin only, zero elsewhere.
	FMC uint8 `json:"fmc"`
	// Bootloader is the version of the AMD-SP's boot loader.
	Bootloader uint8 `json:"bootloader"`
	// TEE is the version of the AMD-SP's operating system.
	TEE uint8 `json:"tee"`
	// SNP is the version of the SEV-SNP firmware.
	SNP uint8 `json:"snp"`
	// Microcode is the lowest microcode patch level of all cores.
	Microcode uint8 `json:"microcode"`
}

// String returns the versions with their names.
func (t TCB) String() string {
	return fmt.Sprintf("fmc=%d bootloader=%d tee=%d snp=%d microcode=%d", t.FMC, t.Bootloader, t.TEE, t.SNP, t.Microcode)
}

// AtLeast reports whether every version in t is at least that of min.
func (t TCB) AtLeast(min TCB) bool {
	return t.FMC >= min.FMC && t.Bootloader >= min.Bootloader && t.TEE >= min.TEE &&
		t.SNP >= min.SNP && t.Microcode >= min.Microcode
}

// Lowest returns the lower of t and other for every version.
func (t TCB) Lowest(other TCB) TCB {
	return TCB{
		FMC: min(t.FMC, other.FMC), Bootloader: min(t.Bootloader, other.Bootloader), TEE: min(t.TEE, other.TEE),
		SNP: min(t.SNP, other.SNP), Microcode: min(t.Microcode, other.Microcode),
	}
}

// DecodeTCB reads v in the layout of product p, and refuses reserved bytes
// that are not zero.
//
// Milan and Genoa (56860, tables 3 and 4): byte 0 boot loader, 1 TEE, 2-5 reserved,
// 6 SNP, 7 microcode. Turin: 0 FMC, 1 boot loader, 2 TEE, 3 SNP,
// 4-6 reserved, 7 microcode.
func (p Product) DecodeTCB(v TCBVersion) (TCB, error) {
	var t TCB
	first, last := 2, 5
	switch p {
	case Milan, Genoa:
		t = TCB{Bootloader: v.at(0), TEE: v.at(1), SNP: v.at(6), Microcode: v.at(7)}
	case Turin:
		first, last = 4, 6
		t = TCB{FMC: v.at(0), Bootloader: v.at(1), TEE: v.at(2), SNP: v.at(3), Microcode: v.at(7)}
	default:
		return TCB{}, fmt.Errorf("decoding TCB_VERSION: product is %q, want one of %q", p, Products())
	}
	for i := first; i <= last; i++ {
		if v.at(i) != 0 {
			return TCB{}, fmt.Errorf("decoding TCB_VERSION: reserved byte %d of %s is %#02x, want 0 on %s", i, v, v.at(i), p)
		}
	}
	return t, nil
}

// EncodeTCB writes t in the layout of product p.
func (p Product) EncodeTCB(t TCB) (TCBVersion, error) {
	switch p {
	case Milan, Genoa:
		if t.FMC != 0 {
			return 0, fmt.Errorf("encoding TCB_VERSION: FMC is %d, want 0: %s has none", t.FMC, p)
		}
		return TCBVersion(t.Bootloader) | TCBVersion(t.TEE)<<8 | TCBVersion(t.SNP)<<48 | TCBVersion(t.Microcode)<<56, nil
	case Turin:
		return TCBVersion(t.FMC) | TCBVersion(t.Bootloader)<<8 | TCBVersion(t.TEE)<<16 |
			TCBVersion(t.SNP)<<24 | TCBVersion(t.Microcode)<<56, nil
	}
	return 0, fmt.Errorf("encoding TCB_VERSION: product is %q, want one of %q", p, Products())
}
