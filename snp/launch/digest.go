package launch

import (
	"crypto/sha512"
	"fmt"
	"slices"

	"github.com/rootvouch/rootvouch/snp"
)

// Inputs holds everything that a launch digest depends on.
type Inputs struct {
	Mode     Mode
	Firmware *Firmware
	// FirmwareDigest, if not nil, is the launch digest after the firmware's pages.
	// The computation then uses only the firmware's metadata. Mode SNP only.
	FirmwareDigest *[sha512.Size384]byte
	// SVSM and VarsSize, the size of the firmware's variable store in bytes,
	// are required in mode SNPSVSM and refused in the others.
	SVSM     *Firmware
	VarsSize uint64
	// Hashes are the hashes of kernel, initramfs and command line. Nil means a
	// launch without kernel hashes, in which none of the three is measured.
	Hashes *Hashes
	VCPU
	VCPUs int // ignored in mode SEV
}

// Files says which inputs of a launch are read from files, for Inputs.Check.
type Files struct{ Kernel, SVSM bool }

// Check checks that the inputs fit together, before any file is read. It ignores
// Firmware, SVSM and Hashes; files says which of them will be set. An *InputError
// names the wrong field.
func (in Inputs) Check(files Files) error {
	if err := in.VCPU.Check(in.Mode); err != nil {
		return err
	}
	switch {
	case in.Mode != SNP && in.FirmwareDigest != nil:
		return inputError("FirmwareDigest", "mode is %v, want %v with a firmware digest", in.Mode, SNP)
	case in.Mode != SNPSVSM && files.SVSM:
		return inputError("SVSM", "mode is %v, want %v with an SVSM", in.Mode, SNPSVSM)
	case in.Mode != SNPSVSM && in.VarsSize != 0:
		return inputError("VarsSize", "mode is %v, want %v with a variable store", in.Mode, SNPSVSM)
	case in.Mode != SNPSVSM:
		return nil
	case files.Kernel:
		return inputError("Hashes", "mode %v has no kernel hashes", in.Mode)
	case !files.SVSM:
		return inputError("SVSM", "mode %v needs an SVSM", in.Mode)
	case in.VarsSize == 0:
		return inputError("VarsSize", "mode %v needs the size of the variable store", in.Mode)
	case in.VarsSize%PageSize != 0:
		return inputError("VarsSize", "variable store has %#x bytes, want a multiple of %#x", in.VarsSize, PageSize)
	}
	return nil
}

// Base returns the first stage of the digest.
func (in Inputs) Base() (*Base, error) {
	if err := in.Check(Files{Kernel: in.Hashes != nil, SVSM: in.SVSM != nil}); err != nil {
		return nil, err
	}
	switch {
	case in.Firmware == nil:
		return nil, inputError("Firmware", "no firmware")
	case in.Mode == SNPSVSM:
		return NewBaseSVSM(in.Firmware, in.SVSM, in.VarsSize)
	case in.FirmwareDigest != nil:
		return NewBaseFromDigest(in.Firmware, *in.FirmwareDigest)
	}
	return NewBase(in.Mode, in.Firmware)
}

// Digest returns the launch digest of an SNP guest, modes SNP and SNPSVSM. It is
// MEASUREMENT in the guest's reports.
func Digest(in Inputs) (snp.Measurement, error) {
	if in.Mode != SNP && in.Mode != SNPSVSM {
		return snp.Measurement{}, inputError("Mode", "mode is %v, want %v or %v", in.Mode, SNP, SNPSVSM)
	}
	sum, err := Compute(in)
	return snp.Measurement(sum.bytes), err
}

// Compute returns the launch digest of any mode.
func Compute(in Inputs) (Sum, error) {
	if in.Mode == SEV {
		in.VCPUs = 1
	}
	entries, err := Matrix(in, []int{in.VCPUs}, []CPU{in.CPU})
	if err != nil {
		return Sum{}, err
	}
	return entries[0].Digest, nil
}

// Entry is one launch digest of a matrix.
type Entry struct {
	Digest Sum
	VCPUs  int
	CPU    CPU
}

// Matrix returns the launch digests of all combinations of vCPU counts and CPU
// models, ordered by model, then by count, each in the order given. Matrix ignores
// in.VCPUs and in.CPU. It measures everything once: it hashes two VMSAs for each
// model, and makes one step of the chain for each digest.
func Matrix(in Inputs, vcpus []int, cpus []CPU) ([]Entry, error) {
	if len(cpus) > 0 {
		in.CPU = cpus[0]
	}
	base, err := in.Base()
	if err != nil {
		return nil, err
	}
	return base.Matrix(in.Hashes, in.VCPU, vcpus, cpus)
}

// Matrix is the function Matrix on a firmware that is already measured. It ignores
// vcpu.CPU.
func (b *Base) Matrix(hashes *Hashes, vcpu VCPU, vcpus []int, cpus []CPU) ([]Entry, error) {
	if len(vcpus) == 0 || len(cpus) == 0 {
		return nil, fmt.Errorf("checking launch inputs: %d vCPU counts and %d CPU models, want at least 1 each", len(vcpus), len(cpus))
	}
	if first := slices.Min(vcpus); first < 1 {
		return nil, inputError("VCPUs", "%d vCPUs, want 1 to %d", first, MaxVCPUs)
	}
	prefix, err := b.Prefix(vcpu.VMM, hashes)
	if err != nil {
		return nil, err
	}
	last := slices.Max(vcpus)
	entries := make([]Entry, 0, len(vcpus)*len(cpus))
	for _, cpu := range cpus {
		vcpu.CPU = cpu
		vmsas, err := b.VMSAs(vcpu)
		if err != nil {
			return nil, err
		}
		digests, err := prefix.Digests(vmsas, last)
		if err != nil {
			return nil, err
		}
		byCount := make([]Sum, 0, last)
		for _, sum := range digests {
			byCount = append(byCount, sum)
		}
		for _, n := range vcpus {
			entries = append(entries, Entry{Digest: byCount[n-1], VCPUs: n, CPU: cpu})
		}
	}
	return entries, nil
}
