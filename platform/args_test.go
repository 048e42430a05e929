package platform

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/launch/idblock"
)

// emulatedGuest has every field of an emulated guest set.
func emulatedGuest() Guest {
	return Guest{
		Kind:        Emulated,
		Firmware:    "OVMF.amdsev.fd",
		Kernel:      "vmlinuz",
		Initramfs:   "initramfs",
		CommandLine: "console=ttyS0 a,b",
		VCPUs:       2,
		CPUType:     "EPYC-v4",
		MemoryMiB:   1024,
		Disk:        "disk,1.img",
		ExtraDisks:  []string{"other.img"},
		Forwards: []Forward{
			{Host: netip.MustParseAddrPort("127.0.0.1:8444"), GuestPort: 8444},
			{Host: netip.MustParseAddrPort("127.0.0.2:0"), GuestPort: 22},
		},
		Policy: DefaultPolicy,
	}
}

func snpGuest(t *testing.T) Guest {
	t.Helper()
	// The smallest private key gives the same block on every run.
	signed, err := idblock.Sign(idblock.Block{LaunchDigest: snp.Measurement{1}, Policy: DefaultPolicy}, firstKey(t), firstKey(t))
	if err != nil {
		t.Fatal(err)
	}
	g := emulatedGuest()
	g.Kind = SNP
	g.HostData = snp.HostData{1, 2, 3}
	g.IDBlock, g.CBitPosition, g.ReducedPhysBits = signed, 47, 5
	return g
}

func firstKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), append(make([]byte, 47), 1))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A reviewer reads the golden files, which have one argument on a line.
func TestArgs(t *testing.T) {
	plain := snpGuest(t)
	plain.HostData, plain.IDBlock, plain.CBitPosition, plain.ReducedPhysBits = snp.HostData{}, nil, 0, 0
	plain.Disk, plain.ExtraDisks, plain.Forwards = "", nil, nil
	bridged, tapped := plain, plain
	bridged.Network = Network{Kind: Bridge, Name: "br0", MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}}
	tapped.Network = Network{Kind: Tap, Name: "tap0"}
	for _, c := range []struct {
		file  string
		guest Guest
		parts Parts
	}{
		{"emulated.txt", emulatedGuest(), Parts{HashesPage: "/proc/self/fd/5", HashesAddress: 0x810000, QMP: 3, AMDSP: 4}},
		{"snp.txt", snpGuest(t), Parts{QMP: 3}},
		{"snp-plain.txt", plain, Parts{}},
		{"snp-bridge.txt", bridged, Parts{}},
		{"snp-tap.txt", tapped, Parts{}},
	} {
		path := filepath.Join("testdata", c.file)
		got := strings.Join(Args(c.guest, c.parts), "\n") + "\n"
		if os.Getenv("ROOTVOUCH_UPDATE") == "golden" {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.file, diff)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, g := range []Guest{emulatedGuest(), snpGuest(t)} {
		if err := g.Check(); err != nil {
			t.Errorf("%s: %v", g.Kind, err)
		}
	}
	for _, c := range []struct {
		want string
		edit func(g *Guest)
	}{
		{`platform "kvm"`, func(g *Guest) { g.Kind = "kvm" }},
		{"no firmware", func(g *Guest) { g.Firmware = "" }},
		{"no kernel", func(g *Guest) { g.Kernel = "" }},
		{"no initramfs", func(g *Guest) { g.Initramfs = "" }},
		{"vCPU count is 0", func(g *Guest) { g.VCPUs = 0 }},
		{"vCPU count is 513", func(g *Guest) { g.VCPUs = 513 }},
		{"memory is 1 MiB", func(g *Guest) { g.MemoryMiB = 1 }},
		{"max", func(g *Guest) { g.CPUType = "max" }},
		{"POLICY", func(g *Guest) { g.Policy = 0 }},
		{"no first one", func(g *Guest) { g.Disk = "" }},
		{"127.0.0.0/8", func(g *Guest) { g.Forwards[0].Host = netip.MustParseAddrPort("0.0.0.0:1") }},
		{"bridge or tap", func(g *Guest) { g.Network.Name = "br0" }},
		{"bridge or tap", func(g *Guest) { g.Forwards, g.Network.Kind = nil, Bridge }},
		{"bridge or tap", func(g *Guest) { g.Forwards, g.Network = nil, Network{Kind: Tap, Name: "a,b"} }},
		{"ports are forwarded", func(g *Guest) { g.Network = Network{Kind: Tap, Name: "tap0"} }},
		{"MAC address", func(g *Guest) { g.Network.MAC = net.HardwareAddr{1, 2, 3, 4, 5, 6} }},
		{"guest port is 0", func(g *Guest) { g.Forwards[0].GuestPort = 0 }},
		{"C-bit position is 64", func(g *Guest) { g.CBitPosition = 64 }},
	} {
		g := snpGuest(t)
		c.edit(&g)
		if err := g.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
}

func TestParseForward(t *testing.T) {
	f, err := ParseForward("127.0.0.1:0=8444")
	if err != nil || f.GuestPort != 8444 || f.Host.Port() != 0 {
		t.Errorf("got %v, %v", f, err)
	}
	if again, err := ParseForward(f.String()); err != nil || again != f {
		t.Errorf("%q reads as %v, %v", f, again, err)
	}
	for _, s := range []string{"", "8444", "127.0.0.1:8444", "127.0.0.1=8444", "127.0.0.1:1=0", "127.0.0.1:1=65536",
		"0.0.0.0:1=1", "10.0.0.1:1=1", "[::1]:1=1", "127.0.0.1:1=1=1", "localhost:1=1"} {
		if f, err := ParseForward(s); err == nil {
			t.Errorf("%q reads as %v", s, f)
		}
	}
}

func TestParseNetwork(t *testing.T) {
	for s, want := range map[string]Network{"user": {}, "bridge=br0": {Kind: Bridge, Name: "br0"}, "tap=vm-1.0": {Kind: Tap, Name: "vm-1.0"}} {
		if n, err := ParseNetwork(s); err != nil || n.Kind != want.Kind || n.Name != want.Name {
			t.Errorf("%q reads as %v, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "user=x", "bridge", "bridge=", "tap=a,b", "tap=/x", "vhost=x", "bridge=sixteencharacter", "tap=-x"} {
		if n, err := ParseNetwork(s); err == nil {
			t.Errorf("%q reads as %v", s, n)
		}
	}
}

// TestForwardInUse: a port that is in use is named before any program starts.
func TestForwardInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := netip.MustParseAddrPort(l.Addr().String())
	if err := checkPorts([]Forward{{Host: taken, GuestPort: 1}}); err == nil || !strings.Contains(err.Error(), "forwarding "+taken.String()+": ") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got error %v, want one about %v", err, taken)
	}
	if err := checkPorts([]Forward{{Host: netip.MustParseAddrPort("127.0.0.1:0"), GuestPort: 1}}); err != nil {
		t.Errorf("port 0: %v", err)
	}
}

func TestForwardWithoutAddress(t *testing.T) {
	if f, err := ParseForward("8080=80"); err != nil || f.String() != "127.0.0.1:8080=80" {
		t.Errorf("got %v, %v, want 127.0.0.1:8080=80", f, err)
	}
}
