package snp

import (
	"fmt"
	"math/bits"
	"strings"
)

// Policy is POLICY, the guest policy (56860, section 4.3, table 9), which the host
// chooses at launch and the AMD-SP then enforces.
type Policy uint64

// Bits of the guest policy.
const (
	PolicySMT              Policy = 1 << 16 // simultaneous multithreading is allowed
	PolicyReservedOne      Policy = 1 << 17 // always set
	PolicyMigrationAgent   Policy = 1 << 18 // a migration agent may be bound to the guest
	PolicyDebug            Policy = 1 << 19 // the host may read and write the guest's memory
	PolicySingleSocket     Policy = 1 << 20 // the guest runs on one socket only
	PolicyCXL              Policy = 1 << 21 // CXL memory and devices are allowed
	PolicyMemAES256XTS     Policy = 1 << 22 // memory is encrypted with AES-256-XTS
	PolicyRAPLDisabled     Policy = 1 << 23 // running average power limit is off
	PolicyCiphertextHiding Policy = 1 << 24 // the host sees no ciphertext of DRAM
	PolicyPageSwapDisabled Policy = 1 << 25 // page move and swap commands are off
	policyReserved         Policy = 1<<64 - 1<<26
)

// PolicyBits returns the bits of a guest policy that have a meaning, by their
// names, lowest first.
func PolicyBits() []NamedPolicyBit {
	return []NamedPolicyBit{
		{PolicySMT, "smt"},
		{PolicyMigrationAgent, "migration_agent"},
		{PolicyDebug, "debug"},
		{PolicySingleSocket, "single_socket"},
		{PolicyCXL, "cxl"},
		{PolicyMemAES256XTS, "mem_aes_256_xts"},
		{PolicyRAPLDisabled, "rapl_disabled"},
		{PolicyCiphertextHiding, "ciphertext_hiding"},
		{PolicyPageSwapDisabled, "page_swap_disabled"},
	}
}

// NamedPolicyBit is one bit of a guest policy with its name.
type NamedPolicyBit struct {
	Bit  Policy
	Name string
}

// ABI returns the lowest firmware ABI version that the guest policy admits.
func (p Policy) ABI() (major, minor uint8) { return uint8(p >> 8), uint8(p) }

// Has reports whether every bit of bit is set in p.
func (p Policy) Has(bit Policy) bool { return p&bit == bit }

// Check refuses a policy with a reserved bit that is not as 56860 requires.
func (p Policy) Check() error {
	if !p.Has(PolicyReservedOne) {
		return fmt.Errorf("checking POLICY: bit 17 of %#x is 0, want 1", uint64(p))
	}
	if r := uint64(p & policyReserved); r != 0 {
		return fmt.Errorf("checking POLICY: reserved bit %d of %#x is 1, want 0", bits.TrailingZeros64(r), uint64(p))
	}
	return nil
}

// String returns the number and the names of the bits that are set.
func (p Policy) String() string {
	var names []string
	for _, n := range PolicyBits() {
		if p.Has(n.Bit) {
			names = append(names, n.Name)
		}
	}
	major, minor := p.ABI()
	return fmt.Sprintf("%#x (abi>=%d.%d %s)", uint64(p), major, minor, strings.Join(names, " "))
}

// PlatformInfo is PLATFORM_INFO, the AMD-SP's statement about the host (56860,
// section 7.3).
type PlatformInfo uint64

// Bits of PLATFORM_INFO. Bit 6 is not in revision 1.58 of 56860. Genuine Turin
// firmware sets it, and public verifiers name it IOMMU_WRITE_SAFE, after
// AMD-SB-3016 (CVE-2023-20585, the IOMMU's write buffer).
const (
	PlatformSMT              PlatformInfo = 1 << 0 // simultaneous multithreading is on
	PlatformTSME             PlatformInfo = 1 << 1 // transparent memory encryption is on
	PlatformECC              PlatformInfo = 1 << 2 // memory has error correction
	PlatformRAPLDisabled     PlatformInfo = 1 << 3 // running average power limit is off
	PlatformCiphertextHiding PlatformInfo = 1 << 4 // the host sees no ciphertext of DRAM
	PlatformAliasCheckDone   PlatformInfo = 1 << 5 // the check for memory aliases ran since reset (BadRAM)
	PlatformIOMMUWriteSafe   PlatformInfo = 1 << 6 // the IOMMU's writes are safe
	PlatformTIO              PlatformInfo = 1 << 7 // trusted I/O is on
	platformInfoReserved     PlatformInfo = ^PlatformInfo(0xff)
)

// PlatformBits returns the bits of PLATFORM_INFO that have a meaning, by their
// names, lowest first.
func PlatformBits() []NamedPlatformBit {
	return []NamedPlatformBit{
		{PlatformSMT, "smt"},
		{PlatformTSME, "tsme"},
		{PlatformECC, "ecc"},
		{PlatformRAPLDisabled, "rapl_disabled"},
		{PlatformCiphertextHiding, "ciphertext_hiding"},
		{PlatformAliasCheckDone, "alias_check_complete"},
		{PlatformIOMMUWriteSafe, "iommu_write_safe"},
		{PlatformTIO, "tio"},
	}
}

// NamedPlatformBit is one bit of PLATFORM_INFO with its name.
type NamedPlatformBit struct {
	Bit  PlatformInfo
	Name string
}

// Has reports whether every bit of bit is set in p.
func (p PlatformInfo) Has(bit PlatformInfo) bool { return p&bit == bit }

// Check refuses bits that no published firmware sets.
func (p PlatformInfo) Check() error {
	if r := p & platformInfoReserved; r != 0 {
		return fmt.Errorf("checking PLATFORM_INFO: reserved bit %d of %#x is 1, want 0", bits.TrailingZeros64(uint64(r)), uint64(p))
	}
	return nil
}

// String returns the number and the names of the bits that are set.
func (p PlatformInfo) String() string {
	var names []string
	for _, n := range PlatformBits() {
		if p.Has(n.Bit) {
			names = append(names, n.Name)
		}
	}
	return fmt.Sprintf("%#x (%s)", uint64(p), strings.Join(names, " "))
}
