package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/vishvananda/netlink"
)

// Bounds on asking one interface for a lease: the first answer is waited for
// firstAnswer, each next one twice as long (RFC 2131, section 4.1, with shorter
// times, since nobody else boots on this link).
const (
	firstAnswer = 500 * time.Millisecond
	dhcpTries   = 5
)

// Bounds on what a lease may contain.
const (
	maxRoutes      = 32
	maxNameservers = 3   // MAXNS of resolv.conf(5)
	minMTU         = 576 // bytes (RFC 791: every host takes that much)
)

// leaseFromFirst asks one interface after the other, and returns the first
// lease.
func leaseFromFirst(ctx context.Context, links []netlink.Link) (Network, error) {
	var last error
	for _, link := range links {
		n, err := lease(ctx, link)
		if err == nil {
			return n, nil
		}
		last = fmt.Errorf("asking for a DHCP lease on %s: %w", link.Attrs().Name, err)
	}
	return Network{}, last
}

func lease(ctx context.Context, link netlink.Link) (Network, error) {
	if err := netlink.LinkSetUp(link); err != nil {
		return Network{}, err
	}
	client, err := nclient4.New(link.Attrs().Name, nclient4.WithTimeout(firstAnswer), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return Network{}, err
	}
	defer client.Close()
	got, err := client.Request(ctx, dhcpv4.WithRequestedOptions(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter,
		dhcpv4.OptionDomainNameServer, dhcpv4.OptionInterfaceMTU))
	if err != nil {
		return Network{}, err
	}
	n, err := parseLease(got.ACK)
	n.link = link
	return n, err
}

// parseLease takes what we use from a DHCP acknowledgement and checks it.
func parseLease(ack *dhcpv4.DHCPv4) (Network, error) {
	n := Network{mode: bootconfig.NetworkDHCP}
	own, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || !usable(own) {
		return n, fmt.Errorf("address is %s, want a unicast IPv4 address", ack.YourIPAddr)
	}
	ones, bits := ack.SubnetMask().Size()
	if bits != 32 || ones == 0 {
		return n, fmt.Errorf("subnet mask is %s, want 1 to 32 leading ones", net.IP(ack.SubnetMask()))
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

// leaseRoutes reads the classless static routes, or else the routers: a client
// that takes the former ignores the latter (RFC 3442).
func leaseRoutes(ack *dhcpv4.DHCPv4) ([]route, error) {
	classless := ack.ClasslessStaticRoute()
	if len(classless) > maxRoutes {
		return nil, fmt.Errorf("routes are %d, want at most %d", len(classless), maxRoutes)
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
