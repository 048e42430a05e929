package launch

import (
	"fmt"
	"strings"
)

// featureName names a bit of SEV_FEATURES in a VMSA (24593, appendix B, table
// B-4, offset 0x3b0); "" if it is reserved.
func featureName(bit int) string {
	names := [...]string{
		"SNPActive", "vTOM", "ReflectVC", "RestrictedInjection", "AlternateInjection", "DebugVirtualization",
		"PreventHostIBS", "BTBIsolation", "VmplSSS", "SecureTSC", "VmgexitParameter", "PmcVirtualization",
		"IbsVirtualization", "GuestInterceptCtl", "VmsaRegProt", "SmtProtection", "SecureAvic",
		"", "", "", "", "IbpbOnEntry",
	}
	if bit >= len(names) {
		return ""
	}
	return names[bit]
}

// FeatureBits returns SEV_FEATURES with every bit set that has a name.
func FeatureBits() uint64 {
	var all uint64
	for bit := range 64 {
		if featureName(bit) != "" {
			all |= 1 << bit
		}
	}
	return all
}

// DescribeFeatures writes SEV_FEATURES in hex and by name.
func DescribeFeatures(features uint64) string {
	var names []string
	for bit := range 64 {
		if features>>bit&1 == 0 {
			continue
		}
		if name := featureName(bit); name != "" {
			names = append(names, name)
		} else {
			names = append(names, fmt.Sprintf("bit %d", bit))
		}
	}
	if len(names) == 0 {
		return "0x0"
	}
	return fmt.Sprintf("%#x (%s)", features, strings.Join(names, ", "))
}
