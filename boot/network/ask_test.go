package network

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
)

// inOwnNamespace runs the calling test in a network namespace of its own, in which
// the test may make interfaces. It reports whether this process is the one inside.
func inOwnNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("ROOTVOUCH_TEST_NAMESPACE") != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "ROOTVOUCH_TEST_NAMESPACE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a namespace of its own: %v\n%s", err, out)
	}
	return false
}

// wire makes two interfaces that are the ends of one cable, and sets the far end
// up.
func wire(t *testing.T, near, far string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = near
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: far}); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link(t, far)); err != nil {
		t.Fatal(err)
	}
	return link(t, near)
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve answers DHCP at the far end. It calls answer with the number of earlier
// messages of a type. answer returns the answer, or nil for none.
func serve(t *testing.T, far string, answer func(kind dhcpv4.MessageType, before int64) dhcpv4.MessageType) *[2]atomic.Int64 {
	t.Helper()
	own := net.IPv4(10, 9, 0, 1).To4()
	address, err := netlink.ParseAddr("10.9.0.1/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link(t, far), address); err != nil {
		t.Fatal(err)
	}
	var seen [2]atomic.Int64 // DISCOVERs and REQUESTs
	server, err := server4.NewServer(far, &net.UDPAddr{Port: dhcpv4.ServerPort}, func(conn net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
		count := &seen[0]
		if m.MessageType() == dhcpv4.MessageTypeRequest {
			count = &seen[1]
		}
		kind := answer(m.MessageType(), count.Add(1)-1)
		if kind == dhcpv4.MessageTypeNone {
			return
		}
		reply, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithServerIP(own),
			dhcpv4.WithYourIP(net.IPv4(10, 9, 0, 77)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(own)),
			dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32))))
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := conn.WriteTo(reply.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort}); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve()
	t.Cleanup(func() { server.Close() })
	return &seen
}

// quick is a pace that shortens a silence of half a minute to a second.
var quick = pace{first: 10 * time.Millisecond, most: 80 * time.Millisecond}

func always(links ...netlink.Link) func() ([]netlink.Link, error) {
	return func() ([]netlink.Link, error) { return links, nil }
}

func plain(kind dhcpv4.MessageType, _ int64) dhcpv4.MessageType {
	if kind == dhcpv4.MessageTypeDiscover {
		return dhcpv4.MessageTypeOffer
	}
	return dhcpv4.MessageTypeAck
}

// TestPatience asks servers that stay silent, ignore messages or refuse, until they
// give a lease.
func TestPatience(t *testing.T) {
	if !inOwnNamespace(t) {
		return
	}
	for i, c := range []struct {
		name   string
		answer func(dhcpv4.MessageType, int64) dhcpv4.MessageType
	}{
		{"silent for ten DISCOVERs", func(kind dhcpv4.MessageType, before int64) dhcpv4.MessageType {
			if kind == dhcpv4.MessageTypeDiscover && before < 10 {
				return dhcpv4.MessageTypeNone
			}
			return plain(kind, before)
		}},
		{"NAK to three REQUESTs", func(kind dhcpv4.MessageType, before int64) dhcpv4.MessageType {
			if kind == dhcpv4.MessageTypeRequest && before < 3 {
				return dhcpv4.MessageTypeNak
			}
			return plain(kind, before)
		}},
		{"offers, and is gone for six REQUESTs", func(kind dhcpv4.MessageType, before int64) dhcpv4.MessageType {
			if kind == dhcpv4.MessageTypeRequest && before < 6 {
				return dhcpv4.MessageTypeNone
			}
			return plain(kind, before)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			near := wire(t, "near"+string(rune('0'+i)), "far"+string(rune('0'+i)))
			serve(t, "far"+string(rune('0'+i)), c.answer)
			t.Cleanup(func() { netlink.LinkDel(near) })
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			n, err := leaseFromAny(ctx, quick, always(near))
			if err != nil || n.address.String() != "10.9.0.77/24" {
				t.Errorf("got %v, error %v, want a lease of 10.9.0.77/24", n.address, err)
			}
		})
	}
}

// TestLargeMTU: a lease asks for an MTU that the interface cannot have. A tap has at
// most 65521 bytes.
func TestLargeMTU(t *testing.T) {
	if !inOwnNamespace(t) {
		return
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "tap"
	if err := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}); err != nil {
		t.Fatal(err)
	}
	n, err := parseLease(ack(t, dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0xff, 0xff})))
	if err != nil {
		t.Fatal(err)
	}
	n.link = link(t, "tap")
	if err := n.apply(); err != nil || link(t, "tap").Attrs().MTU != 1500 {
		t.Errorf("got error %v and MTU %d, want the interface's own, 1500", err, link(t, "tap").Attrs().MTU)
	}
}

// TestInterfaces gives a lease on the last of three interfaces, which appears late,
// and finds the others down again.
func TestInterfaces(t *testing.T) {
	if !inOwnNamespace(t) {
		return
	}
	mute, dead, good := wire(t, "mute", "mutefar"), wire(t, "dead", "deadfar"), wire(t, "good", "goodfar")
	serve(t, "goodfar", plain)
	var calls int
	n, err := leaseFromAny(t.Context(), quick, func() ([]netlink.Link, error) {
		if calls++; calls == 1 {
			return []netlink.Link{mute, dead}, nil
		}
		return []netlink.Link{mute, dead, good}, nil
	})
	if err != nil || n.link.Attrs().Name != "good" {
		t.Fatalf("got %v, error %v, want a lease on good", n, err)
	}
	for name, want := range map[string]bool{"mute": false, "dead": false, "good": true} {
		if up := link(t, name).Attrs().Flags&net.FlagUp != 0; up != want {
			t.Errorf("%s is up: %t, want %t", name, up, want)
		}
	}
}

// TestNoLease checks that at the step's bound the error is that of the last try.
func TestNoLease(t *testing.T) {
	if !inOwnNamespace(t) {
		return
	}
	near := wire(t, "near", "far")
	seen := serve(t, "far", func(kind dhcpv4.MessageType, before int64) dhcpv4.MessageType {
		if kind == dhcpv4.MessageTypeRequest {
			return dhcpv4.MessageTypeNak
		}
		return plain(kind, before)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for seen[1].Load() < 2 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err := leaseFromAny(ctx, quick, always(near))
	if err == nil || !strings.Contains(err.Error(), "near") || !strings.Contains(err.Error(), "NAK") {
		t.Errorf("got error %v, want one about the NAK on near", err)
	}
	if _, err := leaseFromAny(ctx, quick, always()); err == nil || !strings.Contains(err.Error(), "got none") {
		t.Errorf("got error %v, want one about no interface", err)
	}
}

// TestPace checks that the bound of the step leaves room for a bridge that is
// silent for 30 s.
func TestPace(t *testing.T) {
	var at []time.Duration
	for sent, patience := time.Duration(0), dhcpPace.first; sent < 45*time.Second; patience = min(2*patience, dhcpPace.most) {
		at = append(at, sent)
		sent += patience
	}
	for _, silent := range []time.Duration{9, 12, 20, 30} {
		silent *= time.Second
		next := at[slices.IndexFunc(at, func(d time.Duration) bool { return d >= silent })]
		if next > silent+dhcpPace.most {
			t.Errorf("after a silence of %s the next DISCOVER is at %s", silent, next)
		}
	}
}
