package launch

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Mode is the kind of guest. Its zero value is none.
type Mode int

// The modes.
const (
	SNP     Mode = iota + 1 // SEV-SNP
	SEV                     // SEV: nothing of the vCPUs is measured
	SEVES                   // SEV-ES
	SNPSVSM                 // SEV-SNP with an SVSM under the firmware, on QEMU
)

// VMM is the launcher. Its zero value is none.
type VMM int

// The launchers.
const (
	QEMU VMM = iota + 1
	EC2
	GCE
)

// Generation names a form of QEMU's VMSA. Its zero value is none.
type Generation int

// The generations.
const (
	// CurrentVMSA is the form that KVM makes since Linux 6.10 (KVM_SEV_INIT2). EC2
	// and GCE have this form only.
	CurrentVMSA Generation = iota + 1
	// PreLinux610 is the form that KVM made before Linux 6.10. KVM still makes it
	// for an SEV-ES guest with QEMU's legacy-vm-type. In this form MXCSR and the
	// x87 control word are 0.
	PreLinux610
)

func modeNames() []string       { return []string{"", "snp", "sev", "sev-es", "snp-svsm"} }
func vmmNames() []string        { return []string{"", "qemu", "ec2", "gce"} }
func generationNames() []string { return []string{"", "current", "pre-6.10"} }

func (m Mode) String() string       { return nameOf(modeNames(), int(m)) }
func (v VMM) String() string        { return nameOf(vmmNames(), int(v)) }
func (g Generation) String() string { return nameOf(generationNames(), int(g)) }

// ParseMode is the inverse of Mode.String.
func ParseMode(s string) (Mode, error) {
	i, err := parseName(modeNames(), "mode", s)
	return Mode(i), err
}

// ParseVMM is the inverse of VMM.String. It refuses krun by name.
func ParseVMM(s string) (VMM, error) {
	if s == "krun" {
		return 0, fmt.Errorf("parsing launcher %q: no launch digest of krun is known to be confirmed on hardware, want one of %s", s, strings.Join(vmmNames()[1:], ", "))
	}
	i, err := parseName(vmmNames(), "launcher", s)
	return VMM(i), err
}

// ParseGeneration is the inverse of Generation.String.
func ParseGeneration(s string) (Generation, error) {
	i, err := parseName(generationNames(), "VMSA generation", s)
	return Generation(i), err
}

func nameOf(names []string, i int) string {
	if i < 1 || i >= len(names) {
		return fmt.Sprintf("unknown(%d)", i)
	}
	return names[i]
}

func parseName(names []string, what, s string) (int, error) {
	if i := slices.Index(names, s); i > 0 {
		return i, nil
	}
	return 0, fmt.Errorf("parsing %s %q: want one of %s", what, s, strings.Join(names[1:], ", "))
}

// VCPU holds the launcher's inputs to the VMSAs of a guest. Plain SEV has no VMSAs.
type VCPU struct {
	VMM  VMM
	VMSA Generation // required; CurrentVMSA unless VMM is QEMU
	CPU  CPU        // required if VMM is QEMU, otherwise ignored
	// Features is SEV_FEATURES (24593, table B-4) of an SNP guest, 1 on most hosts;
	// bit 0, SNPActive, must be set. The other modes ignore it: QEMU gives SEV-ES
	// guests 0 and the vCPUs of an SVSM 1.
	Features uint64
}

// Check returns an error if a guest in mode cannot have such vCPUs. An *InputError
// names the wrong field.
func (v VCPU) Check(mode Mode) error {
	switch {
	case mode < SNP || mode > SNPSVSM:
		return inputError("Mode", "mode is %v", mode)
	case mode == SEV:
		return nil
	case v.VMM < QEMU || v.VMM > GCE:
		return inputError("VMM", "launcher is %v", v.VMM)
	case v.VMSA < CurrentVMSA || v.VMSA > PreLinux610:
		return inputError("VMSA", "VMSA generation is %v", v.VMSA)
	case v.VMM != QEMU && mode == SNPSVSM:
		return inputError("VMM", "launcher is %v, want %v in mode %v", v.VMM, QEMU, mode)
	case v.VMM != QEMU && v.VMSA != CurrentVMSA:
		return inputError("VMSA", "VMSA generation is %v, want %v with launcher %v", v.VMSA, CurrentVMSA, v.VMM)
	case v.VMM == QEMU && !v.CPU.set():
		return inputError("CPU", "no CPU type, but the VMSAs of %v have its signature", v.VMM)
	case mode == SNP && v.Features&featureSNPActive == 0:
		return inputError("Features", "guest features are %#x, want bit 0 (SNPActive) set", v.Features)
	}
	return nil
}

// InputError is the error for an input of a launch that is missing or does not fit
// the other inputs.
type InputError struct {
	Field  string // of Inputs or VCPU
	Reason string
}

func (e *InputError) Error() string { return "checking launch inputs: " + e.Reason }

func inputError(field, format string, args ...any) error {
	return &InputError{field, fmt.Sprintf(format, args...)}
}

// Sum is a launch digest of any mode: SHA-384 in the SNP modes, SHA-256 in SEV
// and SEV-ES (GCTX.LD; 55766, section 6.5, LAUNCH_MEASURE). Sums are comparable;
// the zero value is no digest.
type Sum struct {
	bytes [sha512.Size384]byte
	size  int
}

// ParseSum reads a digest in hex, 96 or 64 digits.
func ParseSum(s string) (Sum, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return Sum{}, fmt.Errorf("parsing launch digest: got %q, want %d (SNP) or %d (SEV, SEV-ES) hex digits", s, 2*sha512.Size384, 2*sha256.Size)
	}
	if len(b) != sha512.Size384 && len(b) != sha256.Size {
		return Sum{}, fmt.Errorf("parsing launch digest: %d bytes, want %d (SNP) or %d (SEV, SEV-ES)", len(b), sha512.Size384, sha256.Size)
	}
	return newSum(b), nil
}

func newSum(b []byte) Sum {
	s := Sum{size: len(b)}
	copy(s.bytes[:], b)
	return s
}

// Bytes returns the digest, 48 or 32 bytes.
func (s Sum) Bytes() []byte { return append([]byte(nil), s.bytes[:s.size]...) }

// Size returns the length of the digest in bytes.
func (s Sum) Size() int { return s.size }

func (s Sum) String() string { return hex.EncodeToString(s.bytes[:s.size]) }
