package snp

import (
	"encoding/binary"
	"fmt"
)

const (
	// ReportSize is the size in bytes of an attestation report, its signature
	// included (56860, section 7.3, table 23, ATTESTATION_REPORT).
	ReportSize = 0x4a0

	// signedSize is the number of bytes of a report that its signature covers.
	signedSize = 0x2a0

	// MinVersion and MaxVersion bound the supported report versions. Production
	// firmware never wrote version 1.
	MinVersion, MaxVersion = 2, 5

	// VMPLHost is the VMPL of a report that the host requested, not the guest.
	VMPLHost = 0xffffffff

	// signatureECDSAP384 is the only SIGNATURE_ALGO: ECDSA P-384 with SHA-384
	// (56860, chapter 10, table 139).
	signatureECDSAP384 = 1
)

// SigningKey names the key of the AMD-SP that signed a report.
type SigningKey uint8

// The values of SIGNING_KEY (56860, table 23). Values 2 to 6 are reserved, and 7
// means that the report is not signed. [ParseReport] refuses all of them.
const (
	// VCEK is the versioned chip endorsement key, of one chip at one TCB.
	VCEK SigningKey = 0
	// VLEK is the versioned loaded endorsement key, of one cloud provider at
	// one TCB.
	VLEK SigningKey = 1
)

// String returns the key's abbreviation.
func (k SigningKey) String() string {
	switch k {
	case VCEK:
		return "VCEK"
	case VLEK:
		return "VLEK"
	}
	return fmt.Sprintf("SIGNING_KEY %d", uint8(k))
}

// MarshalText returns "VCEK" or "VLEK".
func (k SigningKey) MarshalText() ([]byte, error) {
	if k != VCEK && k != VLEK {
		return nil, fmt.Errorf("encoding signing key: got %d, want VCEK or VLEK", uint8(k))
	}
	return []byte(k.String()), nil
}

// UnmarshalText sets k from "VCEK" or "VLEK".
func (k *SigningKey) UnmarshalText(text []byte) error {
	switch string(text) {
	case "VCEK":
		*k = VCEK
	case "VLEK":
		*k = VLEK
	default:
		return fmt.Errorf("parsing signing key: got %q, want VCEK or VLEK", text)
	}
	return nil
}

// Firmware is a version of the SEV-SNP firmware.
type Firmware struct {
	Build uint8 `json:"build"`
	Minor uint8 `json:"minor"`
	Major uint8 `json:"major"`
}

// String returns the version as AMD writes it: major, minor, build.
func (f Firmware) String() string { return fmt.Sprintf("%d.%d.%d", f.Major, f.Minor, f.Build) }

// Report is an attestation report, with the names that 56860, section 7.3, table
// 23 gives its fields. Fields that a version lacks are zero.
type Report struct {
	Version          uint32       `json:"version"`            // 0x000
	GuestSVN         uint32       `json:"guest_svn"`          // 0x004, from the ID block
	Policy           Policy       `json:"policy"`             // 0x008
	FamilyID         GuestID      `json:"family_id"`          // 0x010, from the ID block
	ImageID          GuestID      `json:"image_id"`           // 0x020, from the ID block
	VMPL             uint32       `json:"vmpl"`               // 0x030, 0 to 3 or VMPLHost
	SignatureAlgo    uint32       `json:"signature_algo"`     // 0x034
	CurrentTCB       TCBVersion   `json:"current_tcb"`        // 0x038
	PlatformInfo     PlatformInfo `json:"platform_info"`      // 0x040
	AuthorKeyEnabled bool         `json:"author_key_en"`      // 0x048 bit 0
	MaskChipKey      bool         `json:"mask_chip_key"`      // 0x048 bit 1
	SigningKey       SigningKey   `json:"signing_key"`        // 0x048 bits 4:2
	ReportData       ReportData   `json:"report_data"`        // 0x050
	Measurement      Measurement  `json:"measurement"`        // 0x090
	HostData         HostData     `json:"host_data"`          // 0x0c0
	IDKeyDigest      KeyDigest    `json:"id_key_digest"`      // 0x0e0
	AuthorKeyDigest  KeyDigest    `json:"author_key_digest"`  // 0x110
	ReportID         ReportID     `json:"report_id"`          // 0x140
	ReportIDMA       ReportID     `json:"report_id_ma"`       // 0x160, all ones without a migration agent
	ReportedTCB      TCBVersion   `json:"reported_tcb"`       // 0x180, the TCB of the signing key
	CPUID            CPUID        `json:"cpuid"`              // 0x188, version 3 and above
	ChipID           ChipID       `json:"chip_id"`            // 0x1a0
	CommittedTCB     TCBVersion   `json:"committed_tcb"`      // 0x1e0, the lowest TCB that a rollback can reach
	Current          Firmware     `json:"current_firmware"`   // 0x1e8
	Committed        Firmware     `json:"committed_firmware"` // 0x1ec
	LaunchTCB        TCBVersion   `json:"launch_tcb"`         // 0x1f0
	LaunchMitVector  uint64       `json:"launch_mit_vector"`  // 0x1f8, version 5 and above
	CurrentMitVector uint64       `json:"current_mit_vector"` // 0x200, version 5 and above
	Signature        Signature    `json:"-"`                  // 0x2a0
}

// reservedRanges returns the ranges of a report that must be zero in every
// version: from the first offset up to the second.
func reservedRanges() [6][2]int {
	return [...][2]int{
		{0x4c, 0x50}, {0x18b, 0x1a0}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x208, signedSize},
		{signedSize + signatureSize, ReportSize},
	}
}

// ParseReport decodes an attestation report of any version from 2 to 5. It refuses
// another size, another version, a reserved field or bit that is not zero, a
// signature with components out of range, and an unsigned report. [Report.Marshal]
// encodes the result to the same bytes. ParseReport does not verify the signature.
func ParseReport(b []byte) (*Report, error) {
	if len(b) != ReportSize {
		return nil, fmt.Errorf("parsing report: got %d bytes, want %d", len(b), ReportSize)
	}
	r := decodeReport(b)
	if r.Version < MinVersion || r.Version > MaxVersion {
		return nil, fmt.Errorf("parsing report: VERSION is %d, want %d to %d", r.Version, MinVersion, MaxVersion)
	}
	for _, z := range reservedRanges() {
		if err := checkZero(b, z[0], z[1]); err != nil {
			return nil, fmt.Errorf("parsing report: %v", err)
		}
	}
	if err := r.check(b); err != nil {
		return nil, fmt.Errorf("parsing report: %v", err)
	}
	return r, nil
}

// decodeReport copies the fields of b, ReportSize bytes, unchecked.
func decodeReport(b []byte) *Report {
	le := binary.LittleEndian
	return &Report{
		Version:          le.Uint32(b[0x00:]),
		GuestSVN:         le.Uint32(b[0x04:]),
		Policy:           Policy(le.Uint64(b[0x08:])),
		FamilyID:         GuestID(b[0x10:0x20]),
		ImageID:          GuestID(b[0x20:0x30]),
		VMPL:             le.Uint32(b[0x30:]),
		SignatureAlgo:    le.Uint32(b[0x34:]),
		CurrentTCB:       TCBVersion(le.Uint64(b[0x38:])),
		PlatformInfo:     PlatformInfo(le.Uint64(b[0x40:])),
		AuthorKeyEnabled: b[0x48]&1 != 0,
		MaskChipKey:      b[0x48]&2 != 0,
		SigningKey:       SigningKey(b[0x48] >> 2 & 7),
		ReportData:       ReportData(b[0x50:0x90]),
		Measurement:      Measurement(b[0x90:0xc0]),
		HostData:         HostData(b[0xc0:0xe0]),
		IDKeyDigest:      KeyDigest(b[0xe0:0x110]),
		AuthorKeyDigest:  KeyDigest(b[0x110:0x140]),
		ReportID:         ReportID(b[0x140:0x160]),
		ReportIDMA:       ReportID(b[0x160:0x180]),
		ReportedTCB:      TCBVersion(le.Uint64(b[0x180:])),
		CPUID:            CPUID{Family: b[0x188], Model: b[0x189], Stepping: b[0x18a]},
		ChipID:           ChipID(b[0x1a0:0x1e0]),
		CommittedTCB:     TCBVersion(le.Uint64(b[0x1e0:])),
		Current:          Firmware{Build: b[0x1e8], Minor: b[0x1e9], Major: b[0x1ea]},
		Committed:        Firmware{Build: b[0x1ec], Minor: b[0x1ed], Major: b[0x1ee]},
		LaunchTCB:        TCBVersion(le.Uint64(b[0x1f0:])),
		LaunchMitVector:  le.Uint64(b[0x1f8:]),
		CurrentMitVector: le.Uint64(b[0x200:]),
		Signature:        Signature{R: [72]byte(b[0x2a0:0x2e8]), S: [72]byte(b[0x2e8:0x330])},
	}
}

// check refuses field values that no firmware writes. b is the encoded form.
func (r *Report) check(b []byte) error {
	if err := r.Policy.Check(); err != nil {
		return err
	}
	if err := r.PlatformInfo.Check(); err != nil {
		return err
	}
	if flags := binary.LittleEndian.Uint32(b[0x48:]); flags>>5 != 0 {
		return fmt.Errorf("reserved bits 5-31 of the field at 0x48 are set in %#x, want 0", flags)
	}
	if r.SigningKey != VCEK && r.SigningKey != VLEK {
		return fmt.Errorf("SIGNING_KEY is %d, want 0 (VCEK) or 1 (VLEK)", uint8(r.SigningKey))
	}
	if r.SignatureAlgo != signatureECDSAP384 {
		return fmt.Errorf("SIGNATURE_ALGO is %d, want %d (ECDSA P-384 with SHA-384)", r.SignatureAlgo, signatureECDSAP384)
	}
	if r.VMPL > 3 && r.VMPL != VMPLHost {
		return fmt.Errorf("VMPL is %d, want 0 to 3, or %#x for a report to the host", r.VMPL, uint32(VMPLHost))
	}
	if r.Version < 3 && r.CPUID != (CPUID{}) {
		return fmt.Errorf("bytes 0x188-0x18a are %s, want 0: version %d has no CPUID", r.CPUID, r.Version)
	}
	if r.Version < 5 && r.LaunchMitVector|r.CurrentMitVector != 0 {
		return fmt.Errorf("bytes 0x1f8-0x207 are not zero: version %d has no mitigation vectors", r.Version)
	}
	if err := r.Signature.check(); err != nil {
		return err
	}
	return r.checkTCBs()
}

// checkTCBs refuses reserved TCB bytes that are not zero. A version 2 report does
// not name its product. For such a report checkTCBs checks only the bytes that are
// reserved on every product; the rest is checked once the certificate names the
// product.
func (r *Report) checkTCBs() error {
	product, err := r.Product()
	for _, t := range r.tcbs() {
		if r.Version < 3 {
			if t.v.at(4) != 0 || t.v.at(5) != 0 {
				return fmt.Errorf("reserved bytes 4-5 of %s are set in %s, want 0", t.name, t.v)
			}
			continue
		}
		if err != nil {
			return err
		}
		if _, err := product.DecodeTCB(t.v); err != nil {
			return fmt.Errorf("%s: %v", t.name, err)
		}
	}
	return nil
}

type namedTCB struct {
	name string
	v    TCBVersion
}

func (r *Report) tcbs() []namedTCB {
	return []namedTCB{
		{"CURRENT_TCB", r.CurrentTCB}, {"REPORTED_TCB", r.ReportedTCB},
		{"COMMITTED_TCB", r.CommittedTCB}, {"LAUNCH_TCB", r.LaunchTCB},
	}
}

// Product returns the product that the report's CPUID names. A version 2 report has
// no CPUID, so Product returns an error: only the certificate names the product.
func (r *Report) Product() (Product, error) {
	if r.Version < 3 {
		return "", fmt.Errorf("naming product: a version %d report carries no CPUID", r.Version)
	}
	return r.CPUID.Product()
}

// Marshal returns the report's 1184 bytes, its signature included.
func (r *Report) Marshal() []byte {
	b := make([]byte, ReportSize)
	le := binary.LittleEndian
	le.PutUint32(b[0x00:], r.Version)
	le.PutUint32(b[0x04:], r.GuestSVN)
	le.PutUint64(b[0x08:], uint64(r.Policy))
	copy(b[0x10:], r.FamilyID[:])
	copy(b[0x20:], r.ImageID[:])
	le.PutUint32(b[0x30:], r.VMPL)
	le.PutUint32(b[0x34:], r.SignatureAlgo)
	le.PutUint64(b[0x38:], uint64(r.CurrentTCB))
	le.PutUint64(b[0x40:], uint64(r.PlatformInfo))
	b[0x48] = byte(r.SigningKey) << 2
	if r.AuthorKeyEnabled {
		b[0x48] |= 1
	}
	if r.MaskChipKey {
		b[0x48] |= 2
	}
	copy(b[0x50:], r.ReportData[:])
	copy(b[0x90:], r.Measurement[:])
	copy(b[0xc0:], r.HostData[:])
	copy(b[0xe0:], r.IDKeyDigest[:])
	copy(b[0x110:], r.AuthorKeyDigest[:])
	copy(b[0x140:], r.ReportID[:])
	copy(b[0x160:], r.ReportIDMA[:])
	le.PutUint64(b[0x180:], uint64(r.ReportedTCB))
	b[0x188], b[0x189], b[0x18a] = r.CPUID.Family, r.CPUID.Model, r.CPUID.Stepping
	copy(b[0x1a0:], r.ChipID[:])
	le.PutUint64(b[0x1e0:], uint64(r.CommittedTCB))
	b[0x1e8], b[0x1e9], b[0x1ea] = r.Current.Build, r.Current.Minor, r.Current.Major
	b[0x1ec], b[0x1ed], b[0x1ee] = r.Committed.Build, r.Committed.Minor, r.Committed.Major
	le.PutUint64(b[0x1f0:], uint64(r.LaunchTCB))
	le.PutUint64(b[0x1f8:], r.LaunchMitVector)
	le.PutUint64(b[0x200:], r.CurrentMitVector)
	copy(b[0x2a0:], r.Signature.R[:])
	copy(b[0x2e8:], r.Signature.S[:])
	return b
}

// checkZero refuses b[from:to] unless it is all zero.
func checkZero(b []byte, from, to int) error {
	for i := from; i < to; i++ {
		if b[i] != 0 {
			return fmt.Errorf("reserved byte 0x%03x is %#02x, want 0", i, b[i])
		}
	}
	return nil
}
