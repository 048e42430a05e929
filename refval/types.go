package refval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/internal/emulated"
	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// Want is a value that is wanted, or the word "any". Its zero value wants the
// zero T.
type Want[T any] struct {
	any   bool
	value T
}

// Any returns a Want that every value satisfies.
func Any[T any]() Want[T] { return Want[T]{any: true} }

// Exactly returns a Want of v.
func Exactly[T any](v T) Want[T] { return Want[T]{value: v} }

// IsAny reports whether every value satisfies w.
func (w Want[T]) IsAny() bool { return w.any }

// Value returns the value that is wanted, and false when any is.
func (w Want[T]) Value() (T, bool) { return w.value, !w.any }

// MarshalJSON returns "any" or the value.
func (w Want[T]) MarshalJSON() ([]byte, error) {
	if w.any {
		return []byte(`"any"`), nil
	}
	return json.Marshal(w.value)
}

// UnmarshalJSON sets w from "any" or a value, strictly.
func (w *Want[T]) UnmarshalJSON(data []byte) error {
	if string(data) == `"any"` {
		*w = Any[T]()
		return nil
	}
	var v T
	if err := strictjson.Unmarshal(data, &v); err != nil {
		return err
	}
	*w = Exactly(v)
	return nil
}

// RootOfTrust is the root that may vouch for a guest: either AMD, or one emulated
// ARK. It is exactly one of the two, so a development root never stands beside
// AMD's. The zero value accepts nothing.
type RootOfTrust struct {
	amd bool
	ark pins.Digest
}

// AMD returns the root of trust of real hardware: AMD's ARKs.
func AMD() RootOfTrust { return RootOfTrust{amd: true} }

// EmulatedARK returns the root of trust of an emulated platform: the ARK whose
// DER has that SHA-256. Guests that it vouches for are NOT CONFIDENTIAL.
func EmulatedARK(sha256 pins.Digest) RootOfTrust { return RootOfTrust{ark: sha256} }

// IsAMD reports whether AMD vouches.
func (r RootOfTrust) IsAMD() bool { return r.amd }

// Emulated returns the SHA-256 of the emulated ARK, and whether there is one.
func (r RootOfTrust) Emulated() (pins.Digest, bool) {
	return r.ark, !r.amd && r.ark != pins.Digest{}
}

// String says which root it is.
func (r RootOfTrust) String() string {
	if r.amd {
		return "AMD"
	}
	if ark, ok := r.Emulated(); ok {
		return "emulated ARK " + ark.String() + " (" + emulated.NotConfidential + ")"
	}
	return "none"
}

type emulatedRoot struct {
	ARK pins.Digest `json:"emulated_ark_sha256"`
}

// MarshalJSON returns "amd" or {"emulated_ark_sha256": …}.
func (r RootOfTrust) MarshalJSON() ([]byte, error) {
	if r.amd {
		return []byte(`"amd"`), nil
	}
	return json.Marshal(emulatedRoot{r.ark})
}

// UnmarshalJSON reads either form.
func (r *RootOfTrust) UnmarshalJSON(data []byte) error {
	if string(data) == `"amd"` {
		*r = AMD()
		return nil
	}
	if !bytes.HasPrefix(data, []byte("{")) {
		return fmt.Errorf("root_of_trust is %s, want \"amd\" or {\"emulated_ark_sha256\": …}", data)
	}
	var e emulatedRoot
	if err := strictjson.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("root_of_trust: %w", err)
	}
	*r = EmulatedARK(e.ARK)
	return nil
}

// Bit says what one bit of a report must be. The zero value is none of the
// three, and no check passes with it.
type Bit string

// The values of a Bit.
const (
	Required  Bit = "required"  // it must be 1
	Forbidden Bit = "forbidden" // it must be 0
	AnyBit    Bit = "any"       // it may be either
)

// UnmarshalText reads one of the three words.
func (b *Bit) UnmarshalText(text []byte) error {
	switch v := Bit(text); v {
	case Required, Forbidden, AnyBit:
		*b = v
		return nil
	}
	return fmt.Errorf("got %q, want required, forbidden or any", text)
}

// Allows reports whether a bit that is set, or not, satisfies b.
func (b Bit) Allows(set bool) bool {
	switch b {
	case Required:
		return set
	case Forbidden:
		return !set
	case AnyBit:
		return true
	}
	return false
}

// ABI is a version of the SEV-SNP firmware's interface.
type ABI struct{ Major, Minor uint8 }

// String returns "major.minor".
func (a ABI) String() string { return fmt.Sprintf("%d.%d", a.Major, a.Minor) }

// MarshalText returns "major.minor".
func (a ABI) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads "major.minor", each from 0 to 255.
func (a *ABI) UnmarshalText(text []byte) error {
	major, minor, _ := strings.Cut(string(text), ".")
	hi, errHi := strconv.ParseUint(major, 10, 8)
	lo, errLo := strconv.ParseUint(minor, 10, 8)
	v := ABI{Major: uint8(hi), Minor: uint8(lo)}
	if errHi != nil || errLo != nil || v.String() != string(text) {
		return fmt.Errorf("got %q, want a version such as 1.51", text)
	}
	*a = v
	return nil
}

// AtLeast reports whether a is min or newer.
func (a ABI) AtLeast(min ABI) bool {
	return a.Major > min.Major || a.Major == min.Major && a.Minor >= min.Minor
}

// GuestPolicy says what POLICY must be, bit by bit.
type GuestPolicy struct {
	MinimumABI       Want[ABI] `json:"minimum_abi"`
	SMT              Bit       `json:"smt"`
	MigrationAgent   Bit       `json:"migration_agent"`
	Debug            Bit       `json:"debug"`
	SingleSocket     Bit       `json:"single_socket"`
	CXL              Bit       `json:"cxl"`
	MemAES256XTS     Bit       `json:"mem_aes_256_xts"`
	RAPLDisabled     Bit       `json:"rapl_disabled"`
	CiphertextHiding Bit       `json:"ciphertext_hiding"`
	PageSwapDisabled Bit       `json:"page_swap_disabled"`
}

// defaultGuestPolicy forbids what gives the host a way in.
func defaultGuestPolicy() GuestPolicy {
	return GuestPolicy{
		MinimumABI: Any[ABI](), SMT: AnyBit, MigrationAgent: Forbidden, Debug: Forbidden, SingleSocket: AnyBit,
		CXL: Forbidden, MemAES256XTS: AnyBit, RAPLDisabled: AnyBit, CiphertextHiding: AnyBit, PageSwapDisabled: AnyBit,
	}
}

// Bit returns what is wanted of one bit of POLICY; of a bit that has no name,
// the zero Bit, which nothing satisfies.
func (g GuestPolicy) Bit(bit snp.Policy) Bit {
	switch bit {
	case snp.PolicySMT:
		return g.SMT
	case snp.PolicyMigrationAgent:
		return g.MigrationAgent
	case snp.PolicyDebug:
		return g.Debug
	case snp.PolicySingleSocket:
		return g.SingleSocket
	case snp.PolicyCXL:
		return g.CXL
	case snp.PolicyMemAES256XTS:
		return g.MemAES256XTS
	case snp.PolicyRAPLDisabled:
		return g.RAPLDisabled
	case snp.PolicyCiphertextHiding:
		return g.CiphertextHiding
	case snp.PolicyPageSwapDisabled:
		return g.PageSwapDisabled
	}
	return ""
}

// PlatformInfo says what PLATFORM_INFO must be, bit by bit.
type PlatformInfo struct {
	SMT                Bit `json:"smt"`
	TSME               Bit `json:"tsme"`
	ECC                Bit `json:"ecc"`
	RAPLDisabled       Bit `json:"rapl_disabled"`
	CiphertextHiding   Bit `json:"ciphertext_hiding"`
	AliasCheckComplete Bit `json:"alias_check_complete"`
	IOMMUWriteSafe     Bit `json:"iommu_write_safe"`
	TIO                Bit `json:"tio"`
}

func anyPlatformInfo() PlatformInfo {
	return PlatformInfo{AnyBit, AnyBit, AnyBit, AnyBit, AnyBit, AnyBit, AnyBit, AnyBit}
}

// Bit returns what is wanted of one bit of PLATFORM_INFO; of a bit that has no
// name, the zero Bit, which nothing satisfies.
func (p PlatformInfo) Bit(bit snp.PlatformInfo) Bit {
	switch bit {
	case snp.PlatformSMT:
		return p.SMT
	case snp.PlatformTSME:
		return p.TSME
	case snp.PlatformECC:
		return p.ECC
	case snp.PlatformRAPLDisabled:
		return p.RAPLDisabled
	case snp.PlatformCiphertextHiding:
		return p.CiphertextHiding
	case snp.PlatformAliasCheckDone:
		return p.AliasCheckComplete
	case snp.PlatformIOMMUWriteSafe:
		return p.IOMMUWriteSafe
	case snp.PlatformTIO:
		return p.TIO
	}
	return ""
}
