package refval

import (
	"fmt"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// Check refuses values that are incomplete, that no report can satisfy, or that
// say one thing twice. It stops at the first fault.
func (v Values) Check() error {
	if v.Version != version {
		return fmt.Errorf("version is %d, want %d", v.Version, version)
	}
	if _, emulated := v.RootOfTrust.Emulated(); !v.RootOfTrust.IsAMD() && !emulated {
		return fmt.Errorf("root_of_trust is neither amd nor the digest of an emulated ARK")
	}
	for _, check := range []func() error{v.checkProducts, v.checkMeasurements, v.checkBits, v.checkLists} {
		if err := check(); err != nil {
			return err
		}
	}
	if vmpl, ok := v.VMPL.Value(); ok && vmpl > 3 {
		return fmt.Errorf("vmpl is %d, want 0 to 3 or any", vmpl)
	}
	if p, ok := v.Pins.Value(); ok {
		if err := p.Check(); err != nil {
			return fmt.Errorf("pins: %w", err)
		}
	}
	return nil
}

func (v Values) checkProducts() error {
	if len(v.Products) == 0 {
		return fmt.Errorf("products is empty, want the processors that are accepted")
	}
	seen := make(map[snp.Product]bool)
	for _, p := range v.Products {
		if !p.Name.Known() {
			return fmt.Errorf("products: name is %q, want one of %q", p.Name, snp.Products())
		}
		if seen[p.Name] {
			return fmt.Errorf("products: %s occurs twice", p.Name)
		}
		seen[p.Name] = true
		if min, ok := p.MinimumTCB.Value(); ok {
			if _, err := p.Name.EncodeTCB(min); err != nil {
				return fmt.Errorf("products: %s: minimum_tcb: %w", p.Name, err)
			}
		}
	}
	if len(v.SigningKeys) == 0 {
		return fmt.Errorf("signing_keys is empty, want VCEK, VLEK or both")
	}
	return checkUnique("signing_keys", v.SigningKeys)
}

func (v Values) checkMeasurements() error {
	if len(v.Measurements) == 0 {
		return fmt.Errorf("measurements is empty, want the launch digests that are accepted")
	}
	for i, m := range v.Measurements {
		switch {
		case m.Digest == snp.Measurement{}:
			return fmt.Errorf("measurements[%d]: digest is all zero", i)
		case !m.Gate.valid():
			return fmt.Errorf("measurements[%d]: gate is %q, want the ID of a gate, 64 hex digits, or %q", i, m.Gate, GateNone)
		case m.VCPUs < 1:
			return fmt.Errorf("measurements[%d]: vcpus is %d, want at least 1", i, m.VCPUs)
		case m.CPUType == "":
			return fmt.Errorf("measurements[%d]: cpu_type is empty", i)
		case m.HostCode != HostCodeNone && m.HostCode != HostCodeAccepted:
			return fmt.Errorf("measurements[%d]: host_code is %q, want %q or %q", i, m.HostCode, HostCodeNone, HostCodeAccepted)
		}
		if err := m.checkKernel(); err != nil {
			return fmt.Errorf("measurements[%d]: %w", i, err)
		}
	}
	return nil
}

// checkKernel compares Kernel with the provenance of the measurement.
func (m Measurement) checkKernel() error {
	none := m.Provenance.KernelSHA256 == pins.Digest{}
	switch {
	case m.Kernel != KernelMeasured && m.Kernel != KernelUnmeasured:
		return fmt.Errorf("kernel is %q, want %q or %q", m.Kernel, KernelMeasured, KernelUnmeasured)
	case m.Kernel == KernelMeasured && none:
		return fmt.Errorf("kernel is %q but kernel_sha256 is all zero: the digest covers no kernel, and any kernel on that firmware would be accepted", m.Kernel)
	case m.Kernel == KernelUnmeasured && !none:
		return fmt.Errorf("kernel is %q but kernel_sha256 is %v, want zeros", m.Kernel, m.Provenance.KernelSHA256)
	case none && m.Gate != GateNone:
		return fmt.Errorf("kernel is %q but gate is %q, want %q: a gate is measured with a kernel only", m.Kernel, m.Gate, GateNone)
	case none && (m.Provenance.InitramfsSHA256 != pins.Digest{} || m.Provenance.CommandLine != ""):
		return fmt.Errorf("kernel is %q but there is an initramfs or a command line, which are measured with a kernel only", m.Kernel)
	}
	return nil
}

// CheckKernels refuses values with a measurement that covers no kernel. Such values
// are valid, but a command accepts them only with a flag that names the hazard.
func (v Values) CheckKernels() error {
	for i, m := range v.Measurements {
		if m.Kernel != KernelMeasured {
			return fmt.Errorf("measurements[%d]: kernel is %q, want %q: any kernel on that firmware has digest %v", i, m.Kernel, KernelMeasured, m.Digest)
		}
	}
	return nil
}

func (v Values) checkBits() error {
	for _, n := range snp.PolicyBits() {
		var b Bit
		if err := b.UnmarshalText([]byte(v.GuestPolicy.Bit(n.Bit))); err != nil {
			return fmt.Errorf("guest_policy: %s: %w", n.Name, err)
		}
	}
	for _, n := range snp.PlatformBits() {
		var b Bit
		if err := b.UnmarshalText([]byte(v.PlatformInfo.Bit(n.Bit))); err != nil {
			return fmt.Errorf("platform_info: %s: %w", n.Name, err)
		}
	}
	return nil
}

func (v Values) checkLists() error {
	for _, l := range []struct {
		name string
		want Want[[]snp.KeyDigest]
	}{{"id_key_digests", v.IDKeyDigests}, {"author_key_digests", v.AuthorKeyDigests}} {
		if err := checkList(l.name, l.want); err != nil {
			return err
		}
	}
	if err := checkList("chips", v.Chips); err != nil {
		return err
	}
	if v.Deny.ChipIDs == nil || v.Deny.Keys == nil {
		return fmt.Errorf("deny: a list is absent, want one, empty or not")
	}
	for _, id := range v.Deny.ChipIDs {
		if id == (snp.ChipID{}) {
			return fmt.Errorf("deny: chip_ids has an ID that is all zero: that is what a masked chip shows")
		}
	}
	for _, k := range v.Deny.Keys {
		if k == (pins.Digest{}) {
			return fmt.Errorf("deny: key_sha256 has a digest that is all zero")
		}
	}
	return nil
}

// checkList refuses an exact list that is empty or says something twice.
func checkList[T comparable](name string, w Want[[]T]) error {
	list, exact := w.Value()
	if !exact {
		return nil
	}
	if len(list) == 0 {
		return fmt.Errorf("%s is empty, want what is accepted, or any", name)
	}
	return checkUnique(name, list)
}

func checkUnique[T comparable](name string, list []T) error {
	seen := make(map[T]bool)
	for _, x := range list {
		if seen[x] {
			return fmt.Errorf("%s: %v occurs twice", name, x)
		}
		seen[x] = true
	}
	return nil
}
