package etcdtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// members is the number of members of a cluster with its own network.
const members = 3

func memberIP(i int) net.IP { return net.IPv4(10, 9, 1, byte(i+1)).To4() }

const insideNamespace = "ROOTVOUCH_ETCD_NAMESPACE"

// InOwnNetwork runs the calling test again in a network namespace of its own, in
// which StartWired can be used. It reports whether this process is the one inside.
func InOwnNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideNamespace) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=30m")
	cmd.Env = append(os.Environ(), insideNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	t.Logf("in a network of its own:\n%s", out)
	if err != nil {
		t.Error(err)
	}
	return false
}

// network is a switch with a cable to each member.
type network struct {
	near   []netlink.Link // our ends
	spaces []netns.NsHandle
}

// newNetwork makes the switch in this process' namespace, and a namespace for each member.
func newNetwork(t testing.TB) *network {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	loopback, err := netlink.LinkByName("lo")
	must(err)
	must(netlink.LinkSetUp(loopback))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "switch"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	must(netlink.LinkAdd(bridge))
	address := func(ip net.IP) *netlink.Addr {
		return &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(24, 32)}}
	}
	must(netlink.AddrAdd(bridge, address(net.IPv4(10, 9, 1, 100).To4())))
	must(netlink.LinkSetUp(bridge))
	n := &network{}
	for i := range members {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = fmt.Sprintf("near%d", i), bridge.Attrs().Index
		must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("far%d", i)}))
		near, err := netlink.LinkByName(attrs.Name)
		must(err)
		must(netlink.LinkSetUp(near))
		far, err := netlink.LinkByName(fmt.Sprintf("far%d", i))
		must(err)
		space := newSpace(t)
		must(netlink.LinkSetNsFd(far, int(space)))
		handle, err := netlink.NewHandleAt(space)
		must(err)
		far, err = handle.LinkByName(fmt.Sprintf("far%d", i))
		must(err)
		must(handle.AddrAdd(far, address(memberIP(i))))
		must(handle.LinkSetUp(far))
		inside, err := handle.LinkByName("lo")
		must(err)
		must(handle.LinkSetUp(inside))
		n.near, n.spaces = append(n.near, near), append(n.spaces, space)
	}
	return n
}

// newSpace makes a network namespace, and stays in the present one.
func newSpace(t testing.TB) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	space, err := netns.New()
	if err == nil {
		err = netns.Set(here)
	}
	if err != nil {
		t.Fatal(err)
	}
	return space
}

// start starts a process in a member's namespace.
func (n *network) start(cmd *exec.Cmd, member int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	if err := netns.Set(n.spaces[member]); err != nil {
		return err
	}
	err = cmd.Start() // a child begins in its thread's namespace
	if back := netns.Set(here); back != nil {
		panic("etcdtest: internal error: no way back: " + back.Error())
	}
	return err
}

// Unplug unplugs a member's cable.
func (c *Cluster) Unplug(m *Member) { c.cable(m, netlink.LinkSetDown) }

// Plug plugs a member's cable in again.
func (c *Cluster) Plug(m *Member) { c.cable(m, netlink.LinkSetUp) }

func (c *Cluster) cable(m *Member, do func(netlink.Link) error) {
	c.t.Helper()
	if err := do(c.network.near[m.at]); err != nil {
		c.t.Fatal(err)
	}
}
