// Package refval holds reference values: what an owner expects of a confidential
// VM before the VM gets a key or is believed.
//
// docs/spec/refval.md describes the format. Every field is required. The word "any"
// says that a field does not matter. So a forgotten or misspelt field never widens
// what is accepted. The zero value of each type here accepts nothing, or only zero.
package refval

import (
	"fmt"
	"slices"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

const (
	version = 1

	// MaxSize bounds encoded reference values, in bytes.
	MaxSize = 4 << 20
)

// Values are the reference values of one guest: refval.json.
type Values struct {
	Version int `json:"version"`
	// RootOfTrust is the one root that may vouch: AMD's, or one emulated ARK.
	RootOfTrust RootOfTrust `json:"root_of_trust"`
	// Products are the processors accepted, at least one. The keys of every
	// Milan chip can be extracted by software on its host, at any TCB
	// (arXiv 2605.12990): no default names it.
	Products []Product `json:"products"`
	// SigningKeys are the kinds of key that may sign a report, at least one.
	SigningKeys []snp.SigningKey `json:"signing_keys"`
	// Measurements are the launch digests accepted, at least one.
	Measurements []Measurement `json:"measurements"`
	// GuestPolicy is what POLICY must and must not allow.
	GuestPolicy GuestPolicy `json:"guest_policy"`
	// PlatformInfo is what PLATFORM_INFO must and must not say of the host.
	PlatformInfo PlatformInfo `json:"platform_info"`
	// VMPL is the privilege level that the report was asked from, 0 to 3.
	VMPL Want[uint32] `json:"vmpl"`
	// MinimumGuestSVN is the lowest GUEST_SVN accepted.
	MinimumGuestSVN Want[uint32] `json:"minimum_guest_svn"`
	// IDKeyDigests and AuthorKeyDigests are the keys that may have signed the
	// ID block. A launch without one has the digest that is all zero.
	IDKeyDigests     Want[[]snp.KeyDigest] `json:"id_key_digests"`
	AuthorKeyDigests Want[[]snp.KeyDigest] `json:"author_key_digests"`
	// FamilyID and ImageID come from the ID block. Without a check of
	// IDKeyDigests they are the host's choice.
	FamilyID Want[snp.GuestID] `json:"family_id"`
	ImageID  Want[snp.GuestID] `json:"image_id"`
	// HostData is what the host said at launch.
	HostData Want[snp.HostData] `json:"host_data"`
	// Chips are the CHIP_IDs accepted. A VLEK-signed report may have none.
	Chips Want[[]snp.ChipID] `json:"chips"`
	// Deny lists chips and keys that are refused even if all other checks pass.
	Deny Deny `json:"deny"`
	// Pins are those of the disk that the measured boot configuration opens. No
	// report carries them: a verifier compares them with a boot log.
	Pins Want[pins.Pins] `json:"pins"`
}

// Product is a processor line that is accepted, from a TCB on.
type Product struct {
	Name snp.Product `json:"name"`
	// MinimumTCB bounds REPORTED_TCB, COMMITTED_TCB, CURRENT_TCB and LAUNCH_TCB
	// from below: the firmware that the key stands for, that the platform cannot
	// go back behind, that runs now, and that measured the guest when it was
	// launched or imported.
	MinimumTCB Want[snp.TCB] `json:"minimum_tcb"`
}

// Measurement is a launch digest that is accepted, and what it was computed
// from. Only Digest is compared: the rest says where it came from.
type Measurement struct {
	Digest snp.Measurement `json:"digest"`
	// HostCode says whether the firmware may run code of its host.
	HostCode HostCode `json:"host_code"`
	// Gate says which gate stands before the kernel.
	Gate Gate `json:"gate"`
	// Kernel says whether Digest covers a kernel.
	Kernel     Kernel     `json:"kernel"`
	VCPUs      int        `json:"vcpus"`
	CPUType    string     `json:"cpu_type"`
	Provenance Provenance `json:"provenance"`
}

// HostCode says whether the measured firmware may run code of its host before
// the kernel. If it may, the digest says nothing about the code that runs. The zero
// value is not valid.
type HostCode string

const (
	// HostCodeNone: the firmware was judged, and runs none.
	HostCodeNone HostCode = "none"
	// HostCodeAccepted: it may, or nobody knows, and the owner accepted that by
	// name. Every verdict says so.
	HostCodeAccepted HostCode = "accepted"
)

// Gate is the ID of the gate that is measured in the kernel's place, 64 hex digits,
// or GateNone. The zero value is not valid.
type Gate string

// GateNone: the kernel, if one is measured, is bare. It runs ACPI code of its host,
// and the owner accepted that by name. Every verdict says so.
const GateNone Gate = "none"

func (g Gate) valid() bool {
	_, err := pins.ParseDigest(string(g))
	return err == nil || g == GateNone
}

// AcceptsBareKernel reports whether the kernel of one measurement is not behind the
// gate.
func (v Values) AcceptsBareKernel() bool {
	return slices.ContainsFunc(v.Measurements, func(m Measurement) bool { return m.Gate == GateNone })
}

// AcceptsHostCode reports whether the firmware of one measurement may run code of
// its host.
func (v Values) AcceptsHostCode() bool {
	for _, m := range v.Measurements {
		if m.HostCode != HostCodeNone {
			return true
		}
	}
	return false
}

// Kernel says whether a launch digest covers a kernel. If it does not, the host
// chooses what the firmware boots. The zero value is not valid.
type Kernel string

const (
	// KernelMeasured: the digest covers the kernel, initramfs and command line that
	// Provenance names.
	KernelMeasured Kernel = "measured"
	// KernelUnmeasured: the digest covers the firmware alone, and the owner accepted
	// that by name. Every verdict says so.
	KernelUnmeasured Kernel = "unmeasured"
)

// Provenance names the files that a launch digest was computed from.
type Provenance struct {
	FirmwareSHA256  pins.Digest `json:"firmware_sha256"`
	KernelSHA256    pins.Digest `json:"kernel_sha256"`
	InitramfsSHA256 pins.Digest `json:"initramfs_sha256"`
	CommandLine     string      `json:"command_line"`
}

// Deny lists what is known to be compromised.
type Deny struct {
	// ChipIDs are CHIP_IDs.
	ChipIDs []snp.ChipID `json:"chip_ids"`
	// Keys are the SHA-256 of endorsement keys, as DER SubjectPublicKeyInfo.
	Keys []pins.Digest `json:"key_sha256"`
}

// New returns reference values that accept the measurements and products given,
// and choose the rest: a VCEK-signed report from VMPL 0, no debugging, no
// migration agent, no CXL, no ID block; of a host that AMD vouches for, that its
// memory was checked for aliases. All else may be anything.
//
// The owner chooses which product and firmware to trust: with AMD as the root, values
// without products are not complete. An emulated root without products has Genoa at
// any TCB, because its TCB means nothing.
func New(root RootOfTrust, measurements []Measurement, products ...Product) Values {
	v := Values{
		Version:          version,
		RootOfTrust:      root,
		Products:         append([]Product{}, products...),
		SigningKeys:      []snp.SigningKey{snp.VCEK},
		Measurements:     append([]Measurement{}, measurements...),
		GuestPolicy:      defaultGuestPolicy(),
		PlatformInfo:     anyPlatformInfo(),
		VMPL:             Exactly[uint32](0),
		MinimumGuestSVN:  Any[uint32](),
		IDKeyDigests:     Exactly([]snp.KeyDigest{{}}),
		AuthorKeyDigests: Exactly([]snp.KeyDigest{{}}),
		FamilyID:         Any[snp.GuestID](),
		ImageID:          Any[snp.GuestID](),
		HostData:         Any[snp.HostData](),
		Chips:            Any[[]snp.ChipID](),
		Deny:             Deny{ChipIDs: []snp.ChipID{}, Keys: []pins.Digest{}},
		Pins:             Any[pins.Pins](),
	}
	if root.IsAMD() {
		v.PlatformInfo.AliasCheckComplete = Required
	}
	if _, emulated := root.Emulated(); emulated && len(products) == 0 {
		v.Products = []Product{{Name: snp.Genoa, MinimumTCB: Any[snp.TCB]()}}
	}
	return v
}

// Decode reads and checks refval.json.
func Decode(data []byte) (Values, error) {
	if len(data) > MaxSize {
		return Values{}, fmt.Errorf("decoding reference values: got %d bytes, want at most %d", len(data), MaxSize)
	}
	var v Values
	if err := strictjson.Unmarshal(data, &v); err != nil {
		return Values{}, fmt.Errorf("decoding reference values: %v", err)
	}
	if err := v.Check(); err != nil {
		return Values{}, fmt.Errorf("decoding reference values: %v", err)
	}
	return v, nil
}

// Encode checks v and returns it as indented JSON, with a newline at its end.
func (v Values) Encode() ([]byte, error) {
	if err := v.Check(); err != nil {
		return nil, fmt.Errorf("encoding reference values: %v", err)
	}
	data, err := strictjson.MarshalIndent(v)
	if err != nil {
		return nil, fmt.Errorf("encoding reference values: %v", err)
	}
	return data, nil
}

// Accepts returns the accepted product with that name.
func (v Values) Accepts(name snp.Product) (Product, bool) {
	for _, p := range v.Products {
		if p.Name == name {
			return p, true
		}
	}
	return Product{}, false
}
