package snphost

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/snp"
)

// parseCPUInfo reads vendor, family, model and stepping of the first processor from
// /proc/cpuinfo. Linux writes the combined family and model in decimal (arch/x86,
// kernel/cpu/proc.c).
func parseCPUInfo(text string) (snp.CPUID, error) {
	first, _, _ := strings.Cut(text, "\n\n")
	fields := map[string]string{} // :: name -> value
	for line := range strings.Lines(first) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	if vendor := fields["vendor_id"]; vendor != "AuthenticAMD" {
		return snp.CPUID{}, fmt.Errorf("vendor_id is %q, want AuthenticAMD", vendor)
	}
	var id snp.CPUID
	for _, f := range []struct {
		name string
		to   *uint8
	}{{"cpu family", &id.Family}, {"model", &id.Model}, {"stepping", &id.Stepping}} {
		n, err := strconv.ParseUint(fields[f.name], 10, 8)
		if err != nil {
			return snp.CPUID{}, fmt.Errorf("%s is %q, want a number up to 255", f.name, fields[f.name])
		}
		*f.to = uint8(n)
	}
	return id, nil
}
