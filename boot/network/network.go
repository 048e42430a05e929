// Package network gives the guest's interface an address, from boot.json or by
// DHCP.
//
// The host controls DHCP, and so decides where packets go. The servers prove their
// identity by certificates under the measured trust root.
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/wait"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Network is the configuration of the guest's interface.
type Network struct {
	mode        string // of boot.json
	link        netlink.Link
	address     netip.Prefix // the interface's own, with the length of its prefix
	routes      []route
	nameservers []netip.Addr
	mtu         int // bytes; 0 leaves the interface's MTU
}

// route is one route; without a gateway its destination is on the link.
type route struct {
	destination netip.Prefix
	gateway     netip.Addr
}

func (n Network) String() string {
	return fmt.Sprintf("%s has %s by %s", n.link.Attrs().Name, n.address, n.mode)
}

// Configure brings up one interface and writes resolv.conf. In DHCP mode it takes
// the first interface that gets a lease, in static mode the first that exists.
func Configure(ctx context.Context, c bootconfig.Network) (Network, error) {
	if err := setUpLoopback(); err != nil {
		return Network{}, err
	}
	var n Network
	switch c.Mode {
	case bootconfig.NetworkStatic:
		links, err := waitForLinks(ctx)
		if err != nil {
			return Network{}, err
		}
		for _, link := range links {
			if err := closeToOthers(link.Attrs().Name); err != nil {
				return Network{}, err
			}
		}
		n = static(c)
		n.link = links[0]
	default:
		var err error
		if n, err = leaseFromAny(ctx, dhcpPace, ethernet); err != nil {
			return Network{}, err
		}
	}
	if err := n.apply(); err != nil {
		return Network{}, err
	}
	if err := os.WriteFile("/etc/resolv.conf", n.ResolvConf(), 0o644); err != nil {
		return Network{}, fmt.Errorf("writing resolv.conf: %w", err)
	}
	return n, nil
}

func setUpLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("setting up loopback interface: %w", err)
	}
	return nil
}

// waitForLinks returns the Ethernet interfaces once there is one.
func waitForLinks(ctx context.Context) ([]netlink.Link, error) {
	for {
		links, err := ethernet()
		if err != nil || len(links) > 0 {
			return links, err
		}
		if err := wait.Pause(ctx); err != nil {
			return nil, errors.New("waiting for a network interface: got none")
		}
	}
}

// ethernet lists the Ethernet interfaces that have hardware behind them, in the
// kernel's order.
func ethernet() ([]netlink.Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing network interfaces: %w", err)
	}
	var links []netlink.Link
	for _, link := range all {
		attrs := link.Attrs()
		if _, err := os.Stat("/sys/class/net/" + attrs.Name + "/device"); err == nil && attrs.EncapType == "ether" {
			links = append(links, link)
		}
	}
	return links, nil
}

// static returns the measured addresses. The gateway is on the address's own
// network: bootconfig refuses any other.
func static(c bootconfig.Network) Network {
	n := Network{mode: c.Mode, address: c.Address, nameservers: c.Nameservers}
	if c.Gateway.IsValid() {
		n.routes = []route{{destination: defaultRoute(c.Gateway), gateway: c.Gateway}}
	}
	return n
}

// defaultRoute returns 0.0.0.0/0 or ::/0.
func defaultRoute(gateway netip.Addr) netip.Prefix {
	if gateway.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// closeToOthers keeps an interface from taking addresses and routes from other
// machines on its network: IPv6 router advertisements, and redirects. Only boot.json
// or the DHCP lease counts. A kernel without IPv6 passes.
func closeToOthers(link string) error {
	for _, scope := range []string{"all", "default", link} {
		for _, parameter := range []string{
			"ipv4/conf/" + scope + "/accept_redirects", "ipv6/conf/" + scope + "/accept_redirects",
			"ipv6/conf/" + scope + "/accept_ra", "ipv6/conf/" + scope + "/autoconf",
		} {
			err := os.WriteFile("/proc/sys/net/"+parameter, []byte("0"), 0)
			if err != nil && !(errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(parameter, "ipv6")) {
				return fmt.Errorf("setting kernel parameter: %w", err)
			}
		}
	}
	return nil
}

// apply sets up the interface. The address does not expire: if no program renews
// the lease after the switch, the guest keeps its address.
func (n Network) apply() error {
	name := n.link.Attrs().Name
	if n.mtu != 0 {
		err := netlink.LinkSetMTU(n.link, n.mtu)
		if errors.Is(err, unix.EINVAL) {
			err = nil // larger than the device supports: it keeps its MTU, as with other DHCP clients
		}
		if err != nil {
			return fmt.Errorf("setting MTU %d of %s: %w", n.mtu, name, err)
		}
	}
	if err := netlink.LinkSetUp(n.link); err != nil {
		return fmt.Errorf("setting up %s: %w", name, err)
	}
	address, err := netlink.ParseAddr(n.address.String())
	if err != nil {
		return fmt.Errorf("setting address %s of %s: %w", n.address, name, err)
	}
	if n.address.Addr().Is6() {
		address.Flags = unix.IFA_F_NODAD // usable at once: it is measured, not guessed
	}
	if err := netlink.AddrReplace(n.link, address); err != nil {
		return fmt.Errorf("setting address %s of %s: %w", n.address, name, err)
	}
	for _, r := range n.routes {
		if err := n.addRoute(r); err != nil {
			return fmt.Errorf("adding route to %s by %s: %w", r.destination, name, err)
		}
	}
	return nil
}

// routeMetric lets the routes of systemd-networkd, which have 1024, win once it
// takes over.
const routeMetric = 2048

// addRoute marks a gateway outside the interface's own network as on the link:
// clouds that lease single addresses (a prefix of 32 bits) need that.
func (n Network) addRoute(r route) error {
	destination, err := netlink.ParseIPNet(r.destination.Masked().String())
	if err != nil {
		return err
	}
	nl := &netlink.Route{LinkIndex: n.link.Attrs().Index, Dst: destination, Scope: netlink.SCOPE_LINK, Priority: routeMetric}
	if r.gateway.IsValid() {
		nl.Gw, nl.Scope = r.gateway.AsSlice(), netlink.SCOPE_UNIVERSE
		if !n.address.Contains(r.gateway) {
			nl.Flags = int(netlink.FLAG_ONLINK)
		}
	}
	return netlink.RouteReplace(nl)
}

// ResolvConf returns resolv.conf(5).
func (n Network) ResolvConf() []byte {
	var b strings.Builder
	for _, ns := range n.nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", ns)
	}
	return []byte(b.String())
}

// Unit returns a systemd.network(5) file for the booted system. When
// systemd-networkd runs there, it takes over the interface as it is
// (KeepConfiguration) and, with DHCP, renews the lease.
func (n Network) Unit() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by PID 1 of rootvouch: the interface is configured already.\n[Match]\nMACAddress=%s\n\n[Network]\nKeepConfiguration=yes\nIPv6AcceptRA=no\n",
		n.link.Attrs().HardwareAddr)
	if n.mode == bootconfig.NetworkDHCP {
		// The network must set neither the clock nor the name.
		b.WriteString("DHCP=ipv4\n\n[DHCPv4]\nUseNTP=no\nUseHostname=no\n")
		return []byte(b.String())
	}
	fmt.Fprintf(&b, "Address=%s\n", n.address)
	for _, r := range n.routes {
		fmt.Fprintf(&b, "Gateway=%s\n", r.gateway)
	}
	for _, ns := range n.nameservers {
		fmt.Fprintf(&b, "DNS=%s\n", ns)
	}
	return []byte(b.String())
}
