package refval

import "github.com/rootvouch/rootvouch/snp"

// BitCheck is one bit of a report, compared with its wanted value.
type BitCheck struct {
	Name string // "guest policy debug", "platform info smt"
	Host bool   // of PLATFORM_INFO, not of POLICY
	Set  bool
	Want Bit
	OK   bool
}

// CheckBits compares POLICY and PLATFORM_INFO with the wanted bits. It leaves out bits
// that may be 0 or 1, except debugging and migration: every verdict shows these two.
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
