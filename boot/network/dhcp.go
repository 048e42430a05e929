package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/rootvouch/rootvouch/boot/bootconfig"
)

// Bounds on what a lease may contain.
const (
	maxRoutes      = 32
	maxNameservers = 3   // MAXNS of resolv.conf(5)
	minMTU         = 576 // bytes (RFC 791: every host takes that much)
)

// parseLease reads the values that PID 1 uses from a DHCP acknowledgement, and
// checks them.
func parseLease(ack *dhcpv4.DHCPv4) (Network, error) {
	n := Network{mode: bootconfig.NetworkDHCP}
	own, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || !usable(own) {
		return n, fmt.Errorf("address is %s, want a unicast IPv4 address", ack.YourIPAddr)
	}
	mask := ack.SubnetMask()
	if len(ack.Options.Get(dhcpv4.OptionSubnetMask)) == 0 {
		mask = net.IP(own.AsSlice()).DefaultMask() // of the address's class (RFC 950), as in other clients
	}
	ones, bits := mask.Size()
	if bits != 32 || ones == 0 {
		return n, fmt.Errorf("subnet mask is %s, want 1 to 32 leading ones", net.IP(mask))
	}
	n.address = netip.PrefixFrom(own, ones)
	var err error
	if n.routes, err = leaseRoutes(ack); err != nil {
		return n, err
	}
	for _, ip := range ack.DNS() {
		if ns, ok := netip.AddrFromSlice(ip.To4()); ok && usable(ns) && len(n.nameservers) < maxNameservers {
			n.nameservers = append(n.nameservers, ns)
		}
	}
	if raw := ack.Options.Get(dhcpv4.OptionInterfaceMTU); len(raw) == 2 {
		if mtu := int(raw[0])<<8 | int(raw[1]); mtu >= minMTU {
			n.mtu = mtu
		}
	}
	return n, nil
}

// leaseRoutes reads the classless static routes, or else the routers. A client that
// uses classless static routes must ignore the routers (RFC 3442).
func leaseRoutes(ack *dhcpv4.DHCPv4) ([]route, error) {
	classless := ack.ClasslessStaticRoute()
	if len(classless) > maxRoutes {
		return nil, fmt.Errorf("got %d routes, want at most %d", len(classless), maxRoutes)
	}
	var routes []route
	for _, r := range classless {
		to, ok := netip.AddrFromSlice(r.Dest.IP.To4())
		ones, bits := r.Dest.Mask.Size()
		if !ok || bits != 32 {
			return nil, fmt.Errorf("destination of a route is %s, want an IPv4 prefix", r.Dest)
		}
		by, ok := netip.AddrFromSlice(r.Router.To4())
		if !ok || !by.IsUnspecified() && !usable(by) {
			return nil, fmt.Errorf("gateway of the route to %s is %s, want a unicast IPv4 address", r.Dest, r.Router)
		}
		if by.IsUnspecified() {
			by = netip.Addr{} // on the link
		}
		routes = append(routes, route{destination: netip.PrefixFrom(to, ones).Masked(), gateway: by})
	}
	if len(classless) > 0 {
		return routes, nil
	}
	for _, ip := range ack.Router() {
		if by, ok := netip.AddrFromSlice(ip.To4()); ok && usable(by) {
			return []route{{destination: defaultRoute(by), gateway: by}}, nil
		}
	}
	return nil, nil
}

// usable accepts an address that another machine can have.
func usable(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
