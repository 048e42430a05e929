package launch

import (
	"fmt"
	"strings"
)

// CPU is the model of a guest's vCPUs. Only its CPUID signature affects the launch
// digest: at reset EDX holds the signature (24593, section 14.1.3, table 14-1), and
// QEMU's VMSA has it in RDX.
type CPU struct {
	Name      string // QEMU's name, or how the signature was given
	Signature uint32 // CPUID Fn0000_0001_EAX (25481, "Family, Model, Stepping Identifiers")
}

// AnyCPU stands for "no CPU model": the VMSAs of EC2 and GCE, and plain SEV,
// do not depend on it.
func AnyCPU() CPU { return CPU{Name: "any"} }

// set reports whether c was chosen, by name or signature.
func (c CPU) set() bool { return c.Name != "" && c != AnyCPU() }

// CPUTypes lists QEMU's EPYC models from Naples to Turin with their versions,
// oldest first (QEMU target/i386/cpu.c, builtin_x86_defs, up to 11.0; Milan-v4,
// Genoa-v3 and Turin-v2 were seen in newer sources). All versions
// of a model have one signature, so they have one launch digest.
func CPUTypes() []CPU {
	var types []CPU
	for _, m := range []struct {
		name      string
		versions  int
		signature uint32
	}{
		{"EPYC", 5, signature(0x17, 0x01, 2)},       // Naples
		{"EPYC-Rome", 5, signature(0x17, 0x31, 0)},  // Rome
		{"EPYC-Milan", 4, signature(0x19, 0x01, 1)}, // Milan
		{"EPYC-Genoa", 3, signature(0x19, 0x11, 0)}, // Genoa
		{"EPYC-Turin", 2, signature(0x1a, 0x00, 0)}, // Turin
	} {
		types = append(types, CPU{m.name, m.signature})
		if m.name == "EPYC" {
			types = append(types, CPU{"EPYC-IBPB", m.signature}) // alias of EPYC-v2
		}
		for v := range m.versions {
			types = append(types, CPU{fmt.Sprintf("%s-v%d", m.name, v+1), m.signature})
		}
	}
	return types
}

// LookupCPU finds one of CPUTypes by its name.
func LookupCPU(name string) (CPU, error) {
	var names []string
	for _, t := range CPUTypes() {
		if t.Name == name {
			return t, nil
		}
		names = append(names, t.Name)
	}
	return CPU{}, fmt.Errorf("looking up CPU type %q: want one of %s", name, strings.Join(names, ", "))
}

// CPUFromSignature names a CPU by CPUID Fn0000_0001_EAX.
func CPUFromSignature(sig uint32) CPU {
	return CPU{Name: fmt.Sprintf("sig:%#x", sig), Signature: sig}
}

// CPUFromModel names a CPU by family, model and stepping as CPUID means them
// (25481, CPUID Fn0000_0001_EAX): families above 0xf are 0xf plus the extended
// family, and only those have an extended model.
func CPUFromModel(family, model, stepping uint32) (CPU, error) {
	const extended = 0xf
	switch {
	case family > extended+0xff:
		return CPU{}, fmt.Errorf("building CPUID signature: family is %d, want at most %d", family, extended+0xff)
	case model > 0xff, family < extended && model > 0xf:
		return CPU{}, fmt.Errorf("building CPUID signature: model is %d in family %d, want at most 255, below family 15 at most 15", model, family)
	case stepping > 0xf:
		return CPU{}, fmt.Errorf("building CPUID signature: stepping is %d, want at most 15", stepping)
	}
	return CPUFromSignature(signature(family, model, stepping)), nil
}

func signature(family, model, stepping uint32) uint32 {
	base, ext := family, uint32(0)
	if family > 0xf {
		base, ext = 0xf, family-0xf
	}
	return ext<<20 | model>>4<<16 | base<<8 | model&0xf<<4 | stepping
}
