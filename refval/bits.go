package refval

import "github.com/rootvouch/rootvouch/snp"

// BitCheck is one bit of a report, held against what is wanted of it.
type BitCheck struct {
	Name string // "guest policy debug", "platform info smt"
	Host bool   // of PLATFORM_INFO, not of POLICY
	Set  bool
	Want Bit
	OK   bool
}

// CheckBits compares POLICY and PLATFORM_INFO with what is wanted of them. Bits
// that may be either are left out, but for debugging and migration, of which a
// verdict always speaks.
func (v Values) CheckBits(policy snp.Policy, info snp.PlatformInfo) []BitCheck {
	var all []BitCheck
	check := func(host bool, name string, set bool, want Bit, always bool) {
		if want != AnyBit || always {
			all = append(all, BitCheck{name, host, set, want, want.Allows(set)})
		}
	}
	for _, n := range snp.PolicyBits() {
		always := n.Bit == snp.PolicyDebug || n.Bit == snp.PolicyMigrationAgent
		check(false, "guest policy "+n.Name, policy.Has(n.Bit), v.GuestPolicy.Bit(n.Bit), always)
	}
	for _, n := range snp.PlatformBits() {
		check(true, "platform info "+n.Name, info.Has(n.Bit), v.PlatformInfo.Bit(n.Bit), false)
	}
	return all
}
