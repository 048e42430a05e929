package initramfs

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// CheckReachable refuses addresses that mean the guest itself when the guest uses
// them, such as loopback addresses. what is the name of the addresses in the error.
func CheckReachable(what string, addresses []string) error {
	for _, address := range addresses {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			continue // bootconfig reports the fault
		}
		ip, err := netip.ParseAddr(host)
		if err == nil && (ip.Unmap().IsLoopback() || ip.IsUnspecified()) || strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") {
			return fmt.Errorf("%s is %q, which is the guest itself there; want an address that the guest reaches (10.0.2.2 is the host of QEMU's user network)", what, address)
		}
	}
	return nil
}
