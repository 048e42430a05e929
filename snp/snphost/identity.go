// Package snphost asks the AMD-SP of a host for its chip ID and its firmware
// version.
//
// The answer tells an owner, before any VM has run there, which VCEK to fetch and
// which TCB to ask for. The answer is the host's own statement and no evidence. If
// a host lies about its chip, the fetched certificate fits none of its reports. A
// host can also lie about its TCB, so an owner has to compare that TCB with AMD's
// security bulletins.
package snphost

import (
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/snp"
)

const (
	version = 1

	// MaxSize bounds an encoded Identity in bytes.
	MaxSize = 64 << 10

	maxSockets = 8
)

// Identity is a host as its AMD-SP describes it: host.json, docs/hardware.md.
type Identity struct {
	Version int `json:"version"`
	// Product is the product of CPUID. The kernel reads CPUID from the processor.
	Product snp.Product `json:"product"`
	CPUID   snp.CPUID   `json:"cpuid"`
	// ChipIDs holds the CHIP_ID of each socket, at least one.
	ChipIDs []snp.ChipID `json:"chip_ids"`
	// CurrentTCB is the TCB that runs. ReportedTCB is the TCB in reports, for which
	// VCEKs are derived.
	CurrentTCB  snp.TCBVersion `json:"current_tcb"`
	ReportedTCB snp.TCBVersion `json:"reported_tcb"`
	// Firmware is the version of the SEV-SNP firmware.
	Firmware Firmware `json:"firmware"`
	// Initialized says that the firmware and its table of pages are set up.
	Initialized bool `json:"initialized"`
	// MasksChipID says that reports have no CHIP_ID, MasksKey that they have no
	// signature, SignsWithVLEK that a VLEK signs them.
	MasksChipID   bool `json:"masks_chip_id"`
	MasksKey      bool `json:"masks_chip_key"`
	SignsWithVLEK bool `json:"vlek_loaded"`
}

// Firmware is a version of the SEV-SNP firmware.
type Firmware struct {
	Major uint8  `json:"major"`
	Minor uint8  `json:"minor"`
	Build uint32 `json:"build"`
}

// String returns major, minor and build.
func (f Firmware) String() string { return fmt.Sprintf("%d.%d build %d", f.Major, f.Minor, f.Build) }

// Reported returns ReportedTCB in the layout of the product.
func (id Identity) Reported() (snp.TCB, error) { return id.Product.DecodeTCB(id.ReportedTCB) }

// Notes returns lines about properties of this host that prevent the attestation of
// its VMs, or that the owner should check first.
func (id Identity) Notes() []string {
	var notes []string
	if !id.Initialized {
		notes = append(notes, "SEV-SNP is not initialized: no VM starts until it is (rootvouch host check)")
	}
	if id.MasksChipID {
		notes = append(notes, "the host masks CHIP_ID (MASK_CHIP_ID): no VCEK fits its reports, and every verifier refuses them")
	}
	if id.MasksKey {
		notes = append(notes, "the host does not sign reports (MASK_CHIP_KEY): every verifier refuses them")
	}
	if id.SignsWithVLEK {
		notes = append(notes, "a VLEK is loaded, and signs the reports: its certificate comes from whoever runs the host, and reference values must accept the key by name (signing_keys)")
	}
	if id.ReportedTCB != id.CurrentTCB {
		notes = append(notes, "the host reports another TCB than the one that runs")
	}
	if id.Product == snp.Milan {
		notes = append(notes, "software on a Milan host can extract the key that signs its reports (arXiv 2605.12990)")
	}
	return notes
}

// Check refuses an identity that cannot be a host's.
func (id Identity) Check() error {
	var errs []error
	if id.Version != version {
		errs = append(errs, fmt.Errorf("version is %d, want %d", id.Version, version))
	}
	if product, err := id.CPUID.Product(); err != nil {
		errs = append(errs, fmt.Errorf("cpuid: %w", err))
	} else if product != id.Product {
		errs = append(errs, fmt.Errorf("product is %q, want %s: that of CPUID %s", id.Product, product, id.CPUID))
	}
	if n := len(id.ChipIDs); n < 1 || n > maxSockets {
		errs = append(errs, fmt.Errorf("there are %d chip IDs, want 1 to %d", n, maxSockets))
	}
	for i, chip := range id.ChipIDs {
		if chip == (snp.ChipID{}) {
			errs = append(errs, fmt.Errorf("chip ID %d is all zero", i))
		}
	}
	if id.Product.Known() {
		for _, tcb := range []struct {
			name  string
			value snp.TCBVersion
		}{{"current_tcb", id.CurrentTCB}, {"reported_tcb", id.ReportedTCB}} {
			if _, err := id.Product.DecodeTCB(tcb.value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", tcb.name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Encode checks an identity and encodes it.
func (id Identity) Encode() ([]byte, error) {
	if err := id.Check(); err != nil {
		return nil, fmt.Errorf("encoding a host's identity: %w", err)
	}
	data, err := strictjson.MarshalIndent(id)
	if err != nil {
		return nil, fmt.Errorf("encoding a host's identity: %w", err)
	}
	return data, nil
}

// Decode reads what Encode wrote: no field may be missing, and none may be added.
func Decode(data []byte) (Identity, error) {
	var id Identity
	if err := strictjson.Unmarshal(data, &id); err != nil {
		return Identity{}, fmt.Errorf("decoding a host's identity: %w", err)
	}
	if err := id.Check(); err != nil {
		return Identity{}, fmt.Errorf("decoding a host's identity: %w", err)
	}
	return id, nil
}
