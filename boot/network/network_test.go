package network

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/vishvananda/netlink"
)

// ack makes a DHCP acknowledgement for 10.0.2.15/24.
func ack(t testing.TB, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	t.Helper()
	mods := []dhcpv4.Modifier{
		dhcpv4.WithYourIP(net.IPv4(10, 0, 2, 15)),
		dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32))),
	}
	for _, o := range options {
		mods = append(mods, dhcpv4.WithOption(o))
	}
	p, err := dhcpv4.New(mods...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func without(p *dhcpv4.DHCPv4, option dhcpv4.OptionCode) *dhcpv4.DHCPv4 {
	p.Options.Del(option)
	return p
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

var compare = cmp.Options{
	cmp.AllowUnexported(Network{}, route{}),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestParseLease(t *testing.T) {
	classless := func(routes ...*dhcpv4.Route) dhcpv4.Option { return dhcpv4.OptClasslessStaticRoute(routes...) }
	to := func(cidr string, router net.IP) *dhcpv4.Route {
		_, dest, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		return &dhcpv4.Route{Dest: dest, Router: router}
	}
	own := netip.MustParsePrefix("10.0.2.15/24")
	for _, c := range []struct {
		name string
		ack  *dhcpv4.DHCPv4
		want Network
	}{
		{"no router", ack(t), Network{mode: "dhcp", address: own}},
		{"router and name servers",
			ack(t, dhcpv4.OptRouter(net.IPv4(10, 0, 2, 2)), dhcpv4.OptDNS(net.IPv4(10, 0, 2, 3), net.IPv4bcast, net.IPv4(1, 1, 1, 1))),
			Network{mode: "dhcp", address: own, routes: []route{{netip.MustParsePrefix("0.0.0.0/0"), addr("10.0.2.2")}},
				nameservers: []netip.Addr{addr("10.0.2.3"), addr("1.1.1.1")}}},
		{"no mask: that of the address's class", without(ack(t), dhcpv4.OptionSubnetMask), Network{mode: "dhcp", address: netip.MustParsePrefix("10.0.2.15/8")}},
		{"four name servers",
			ack(t, dhcpv4.OptDNS(net.IPv4(1, 0, 0, 1), net.IPv4(1, 0, 0, 2), net.IPv4(1, 0, 0, 3), net.IPv4(1, 0, 0, 4))),
			Network{mode: "dhcp", address: own, nameservers: []netip.Addr{addr("1.0.0.1"), addr("1.0.0.2"), addr("1.0.0.3")}}},
		{"classless routes win over routers",
			ack(t, dhcpv4.OptRouter(net.IPv4(10, 0, 2, 9)), classless(to("169.254.169.254/32", net.IPv4zero), to("0.0.0.0/0", net.IPv4(10, 0, 2, 2)))),
			Network{mode: "dhcp", address: own, routes: []route{
				{netip.MustParsePrefix("169.254.169.254/32"), netip.Addr{}},
				{netip.MustParsePrefix("0.0.0.0/0"), addr("10.0.2.2")}}}},
		{"MTU", ack(t, dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{5, 0xb4})), Network{mode: "dhcp", address: own, mtu: 1460}},
		{"MTU below any", ack(t, dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0, 68})), Network{mode: "dhcp", address: own}},
	} {
		got, err := parseLease(c.ack)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, got, compare); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestParseLeaseRefuses(t *testing.T) {
	many := make([]*dhcpv4.Route, maxRoutes+1)
	for i := range many {
		many[i] = &dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4(10, 0, byte(i), 0), Mask: net.CIDRMask(24, 32)}, Router: net.IPv4(10, 0, 2, 2)}
	}
	with := func(change func(*dhcpv4.DHCPv4)) *dhcpv4.DHCPv4 { p := ack(t); change(p); return p }
	for _, c := range []struct {
		name, want string
		ack        *dhcpv4.DHCPv4
	}{
		{"no address", "address is 0.0.0.0", with(func(p *dhcpv4.DHCPv4) { p.YourIPAddr = net.IPv4zero })},
		{"multicast", "address is 224.0.0.1", with(func(p *dhcpv4.DHCPv4) { p.YourIPAddr = net.IPv4(224, 0, 0, 1) })},
		{"loopback", "address is 127.0.0.1", with(func(p *dhcpv4.DHCPv4) { p.YourIPAddr = net.IPv4(127, 0, 0, 1) })},
		{"empty mask", "subnet mask is", with(func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptSubnetMask(net.IPMask{0, 0, 0, 0})) })},
		{"mask with holes", "subnet mask is", with(func(p *dhcpv4.DHCPv4) { p.UpdateOption(dhcpv4.OptSubnetMask(net.IPMask{255, 0, 255, 0})) })},
		{"routes", "got 33 routes", ack(t, dhcpv4.OptClasslessStaticRoute(many...))},
		{"route by broadcast", "gateway of the route", ack(t, dhcpv4.OptClasslessStaticRoute(&dhcpv4.Route{Dest: many[0].Dest, Router: net.IPv4bcast}))},
	} {
		if _, err := parseLease(c.ack); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.want)
		}
	}
}

// FuzzParseLease takes packets as the host sends them.
func FuzzParseLease(f *testing.F) {
	f.Add(ack(f, dhcpv4.OptRouter(net.IPv4(10, 0, 2, 2))).ToBytes())
	f.Add(ack(f, dhcpv4.OptGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{33, 1, 2, 3, 4, 5})).ToBytes())
	f.Fuzz(func(t *testing.T, packet []byte) {
		p, err := dhcpv4.FromBytes(packet)
		if err != nil {
			return
		}
		n, err := parseLease(p)
		if err != nil {
			return
		}
		if !n.address.IsValid() || len(n.routes) > maxRoutes || len(n.nameservers) > maxNameservers {
			t.Errorf("got %+v", n)
		}
	})
}

func TestNetworkFiles(t *testing.T) {
	given := static(bootconfig.Network{
		Mode: bootconfig.NetworkStatic, Address: netip.MustParsePrefix("192.0.2.10/24"),
		Gateway: addr("192.0.2.1"), Nameservers: []netip.Addr{addr("192.0.2.53")},
	})
	mac, _ := net.ParseMAC("52:54:00:12:34:56")
	given.link = &netlink.Device{LinkAttrs: netlink.LinkAttrs{HardwareAddr: mac}}
	if got, want := string(given.ResolvConf()), "nameserver 192.0.2.53\n"; got != want {
		t.Errorf("resolv.conf is %q, want %q", got, want)
	}
	unit := string(given.Unit())
	for _, want := range []string{"MACAddress=52:54:00:12:34:56\n", "KeepConfiguration=yes\n", "IPv6AcceptRA=no\n", "Address=192.0.2.10/24\n", "Gateway=192.0.2.1\n", "DNS=192.0.2.53\n"} {
		if !strings.Contains(unit, want) {
			t.Errorf("unit has no %q:\n%s", want, unit)
		}
	}
	given.mode = bootconfig.NetworkDHCP
	if unit := string(given.Unit()); !strings.Contains(unit, "DHCP=ipv4\n") || !strings.Contains(unit, "UseNTP=no\n") || !strings.Contains(unit, "IPv6AcceptRA=no\n") || strings.Contains(unit, "Address=1") {
		t.Errorf("unit for DHCP is:\n%s", unit)
	}
}
