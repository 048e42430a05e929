package export

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/launch/idblock"
	"github.com/rootvouch/rootvouch/test/childtest"
	"github.com/rootvouch/rootvouch/test/libvirttest"
)

// web returns a VM that every launcher accepts.
func web() VM {
	return VM{
		Guest: platform.Guest{
			Kind: platform.SNP, Firmware: "/srv/OVMF.hardened.fd", Kernel: "/srv/vmlinuz", Initramfs: "/srv/initramfs.img",
			CommandLine: `console=ttyS0 a="b c"`, VCPUs: 4, CPUType: "EPYC-v4", MemoryMiB: 4096, Disk: "/srv/disk.img", Policy: platform.DefaultPolicy,
		},
		Name: "web1", Digest: snp.Measurement{0xab}, BootImage: "registry.example/web1-boot:1",
	}
}

// The golden files are what a reviewer reads.
func TestGolden(t *testing.T) {
	for _, launcher := range Launchers() {
		got, err := Text(launcher, web())
		if err != nil {
			t.Errorf("%s: %v", launcher, err)
			continue
		}
		path := filepath.Join("testdata", launcher+".txt")
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
			t.Errorf("%s (-want +got):\n%s", launcher, diff)
		}
		if !strings.Contains(got, web().Digest.String()) {
			t.Errorf("%s: the text does not name its digest", launcher)
		}
		if launcher != "libvirt" && !strings.Contains(got, tested) {
			t.Errorf("%s: the text does not say that it was not tried", launcher)
		}
	}
}

// If a launcher has no setting for a requested property, there is no text that
// silently leaves it out.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		launchers string
		want      string
		edit      func(*VM)
	}{
		{"all", "no other launcher", func(vm *VM) { vm.Kind = platform.Emulated }},
		{"all", "name is", func(vm *VM) { vm.Name = "a b" }},
		{"all", "name is", func(vm *VM) { vm.Name = "" }},
		{"all", "path is", func(vm *VM) { vm.Kernel = "vmlinuz" }},
		{"all", "path is", func(vm *VM) { vm.Disk = "/a\nargs: -S" }},
		{"all", "vCPU count", func(vm *VM) { vm.VCPUs = 0 }},
		{"libvirt openstack kubevirt proxmox vmspawn", "forward", func(vm *VM) {
			vm.Forwards = []platform.Forward{{Host: netip.MustParseAddrPort("127.0.0.1:1"), GuestPort: 1}}
		}},
		{"libvirt proxmox vmspawn", "tap", func(vm *VM) { vm.Network = platform.Network{Kind: platform.Tap, Name: "tap0"} }},
		{"openstack kubevirt proxmox vmspawn", "HOST_DATA", func(vm *VM) { vm.HostData[0] = 1 }},
		{"openstack kubevirt proxmox vmspawn", "policy", func(vm *VM) { vm.Policy |= snp.PolicySingleSocket }},
		{"openstack kubevirt", "exactly one disk", func(vm *VM) { vm.ExtraDisks = []string{"/x"} }},
		{"openstack kubevirt vmspawn", "volumes", func(vm *VM) { vm.Volumes = []string{"/x"} }},
		{"libvirt qemu proxmox", "path is", func(vm *VM) { vm.Volumes = []string{"x"} }},
		{"kubevirt", "--boot-image", func(vm *VM) { vm.BootImage = "" }},
		{"proxmox", "comma", func(vm *VM) { vm.Disk = "/a,b" }},
	} {
		for _, launcher := range Launchers() {
			if c.launchers != "all" && !slices.Contains(strings.Fields(c.launchers), launcher) {
				continue
			}
			vm := web()
			c.edit(&vm)
			if text, err := Text(launcher, vm); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %q, %v, want an error with %q", launcher, text, err, c.want)
			}
		}
	}
	if _, err := Text("xen", web()); err == nil {
		t.Error("xen: accepted")
	}
}

// hostile returns a VM with characters that are special in every syntax here.
func hostile() VM {
	vm := web()
	vm.Firmware, vm.Kernel, vm.Initramfs = `/a'b"c/&<f>;fd`, `/$HOME/k,k`, "/`x`/i i"
	vm.CommandLine = `a='b' c="d&e" f=<g> $(h) \i #j: k`
	vm.Disk = `/d's "d"&<d>.img`
	return vm
}

// TestQuoting: a reader of each syntax gets the original values.
func TestQuoting(t *testing.T) {
	vm := hostile()
	text, err := Text("libvirt", vm)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for decoder := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.CharData:
			got = append(got, string(token))
		case xml.StartElement:
			for _, a := range token.Attr {
				got = append(got, a.Value)
			}
		}
	}
	for _, want := range []string{vm.Firmware, vm.Kernel, vm.Initramfs, vm.CommandLine, vm.Disk} {
		if !slices.Contains(got, want) {
			t.Errorf("libvirt: %q is not in %q", want, got)
		}
	}
	for _, launcher := range []string{"qemu", "vmspawn", "openstack"} {
		text, err := Text(launcher, vm)
		if err != nil {
			t.Fatal(err)
		}
		words := shellWords(t, text)
		for _, want := range []string{vm.Kernel, vm.Initramfs, vm.CommandLine} {
			if !slices.ContainsFunc(words, func(w string) bool { return strings.HasSuffix(w, want) }) {
				t.Errorf("%s: %q is not in %q", launcher, want, words)
			}
		}
	}
}

// shellWords runs a script with commands that print their arguments.
func shellWords(t *testing.T, script string) []string {
	t.Helper()
	dir := t.TempDir()
	for _, program := range []string{platform.DefaultQEMU, "systemd-vmspawn", "openstack"} {
		if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\nfor w; do printf '%s\\0' \"$w\" >>"+dir+"/words; done\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := childtest.Tied(exec.Command("sh"))
	cmd.Stdin, cmd.Env = strings.NewReader(script), []string{"PATH=" + dir + ":/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, script)
	}
	words, err := os.ReadFile(filepath.Join(dir, "words"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(words), "\x00"), "\x00")
}

// launch holds the settings that decide the launch digest and the protection of the
// guest's memory.
type launch struct {
	Firmware, Kernel, Initramfs, CommandLine, CPU string
	VCPUs                                         int
	Object                                        map[string]string // sev-snp-guest
	Disks                                         []string          // with their access
}

// launchOf reads QEMU's arguments, in the form of platform.Args and of libvirt.
func launchOf(t *testing.T, argv []string) launch {
	t.Helper()
	var l launch
	for i := 0; i+1 < len(argv); i++ {
		value := argv[i+1]
		switch argv[i] {
		case "-bios":
			l.Firmware = value
		case "-kernel":
			l.Kernel = value
		case "-initrd":
			l.Initramfs = value
		case "-append":
			l.CommandLine = value
		case "-cpu":
			l.CPU = value
		case "-smp":
			number, _, _ := strings.Cut(value, ",")
			l.VCPUs, _ = strconv.Atoi(number)
		case "-object", "-blockdev":
			p := properties(t, value)
			switch {
			case p["qom-type"] == "sev-snp-guest":
				delete(p, "id")
				l.Object = p
			case p["filename"] != "":
				readOnly := p["read-only"]
				if readOnly == "" {
					readOnly = "false" // QEMU's default
				}
				l.Disks = append(l.Disks, fmt.Sprintf("%s read-only=%s", p["filename"], readOnly))
			}
		}
	}
	return l
}

// properties reads QEMU's JSON, or its list of key=value.
func properties(t *testing.T, text string) map[string]string {
	t.Helper()
	p := map[string]string{}
	if strings.HasPrefix(text, "{") {
		var object map[string]any
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&object); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for k, v := range object {
			p[k] = fmt.Sprint(v)
		}
		return p
	}
	text = strings.ReplaceAll(text, ",,", "\x00")
	for i, pair := range strings.Split(text, ",") {
		k, v, ok := strings.Cut(pair, "=")
		if i == 0 && !ok {
			k, v = "qom-type", k
		}
		k = strings.TrimPrefix(k, "file.")
		v = strings.ReplaceAll(v, "\x00", ",")
		switch v {
		case "on":
			v = "true"
		case "off":
			v = "false"
		}
		if n, err := strconv.ParseUint(v, 0, 64); err == nil {
			v = strconv.FormatUint(n, 10)
		}
		p[k] = v
	}
	return p
}

// TestLibvirt: libvirt's schema accepts our domains, and its own translation
// launches the same VM as "vm run". It also accepts the output of KubeVirt's hook,
// and measures the kernel.
func TestLibvirt(t *testing.T) {
	bridged := hostile()
	bridged.Network = platform.Network{Kind: platform.Bridge, Name: "br0", MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}}
	bridged.HostData = snp.HostData{1, 2, 3}
	bridged.Policy |= snp.PolicySingleSocket
	bridged.CBitPosition, bridged.ReducedPhysBits = 47, 5
	bridged.ExtraDisks = []string{"/srv/second.img"}
	bridged.Volumes = []string{"/srv/data.img"}
	bridged.IDBlock = signed(t)
	single := web()
	single.Network = bridged.Network
	single.VCPUs, single.CPUType, single.CommandLine = 1, "EPYC-Genoa", ""
	vms := []VM{bridged, single}
	var domains []string
	for _, vm := range vms {
		text, err := Text("libvirt", vm)
		if err != nil {
			t.Fatal(err)
		}
		domains = append(domains, text)
	}
	hooked, err := runHook(t, kubevirtDomain)
	if err != nil {
		t.Fatal(err)
	}
	all := libvirttest.Native(t, append(domains, hooked)...)
	if got := launchOf(t, all[len(vms)]); got.Object["kernel-hashes"] != "true" || got.VCPUs != 4 || got.CommandLine != "console=ttyS0" {
		t.Errorf("what KubeVirt's hook made launches %+v, want kernel hashes", got)
	}
	for i, argv := range all[:len(vms)] {
		want := launchOf(t, platform.Args(vms[i].Guest, platform.Parts{}))
		got := launchOf(t, argv)
		if want.Object == nil || len(want.Disks) == 0 {
			t.Fatalf("our own arguments are not understood: %+v", want)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("domain %d: QEMU's arguments (-vm run +libvirt):\n%s", i, diff)
		}
		if line := strings.Join(argv, " "); !strings.Contains(line, "52:54:00:01:02:03") || strings.Count(line, `"iommu_platform":true`) < len(vms[i].disks()) {
			t.Errorf("domain %d: want the card with its address, and disks behind the IOMMU's interface: %s", i, line)
		}
	}
}

// signed is an ID block with an author key.
func signed(t *testing.T) *idblock.Signed {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := idblock.Sign(idblock.Block{LaunchDigest: snp.Measurement{1}, Policy: platform.DefaultPolicy}, key, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// kubevirtDomain is the kind of domain that KubeVirt hands to its hooks: one line.
const kubevirtDomain = `<domain type="kvm" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"><name>default_web1</name><memory unit="b">4294967296</memory>` +
	`<memoryBacking><source type="memfd"></source><access mode="shared"></access></memoryBacking><vcpu placement="static">4</vcpu>` +
	`<os><type arch="x86_64" machine="q35">hvm</type><loader readonly="yes" type="rom" stateless="yes">/usr/share/OVMF/OVMF.amdsev.fd</loader>` +
	`<kernel>/var/run/kubevirt/container-disks/kernel-boot-artifacts/vmlinuz</kernel><initrd>/var/run/kubevirt/container-disks/kernel-boot-artifacts/initramfs.img</initrd>` +
	`<cmdline>console=ttyS0</cmdline></os><features><acpi></acpi></features><cpu mode="custom" match="exact" check="none"><model>EPYC-v4</model></cpu>` +
	`<devices><memballoon model="none"></memballoon></devices><launchSecurity type="sev-snp"><policy>0x30000</policy></launchSecurity></domain>`

func runHook(t *testing.T, domain string) (string, error) {
	t.Helper()
	cmd := exec.Command("sh", "-s", "--", "--vmi", `{"spec":"<kernel>"}`, "--domain", domain)
	cmd.Stdin = strings.NewReader(hook)
	out, err := cmd.Output()
	return string(out), err
}

// TestHook: the hook of KubeVirt asks for kernel hashes, changes nothing else, and
// refuses domains whose kernel the hashes would not cover.
func TestHook(t *testing.T) {
	got, err := runHook(t, kubevirtDomain)
	if want := strings.Replace(kubevirtDomain, "<launchSecurity ", `<launchSecurity kernelHashes="yes" `, 1) + "\n"; err != nil || got != want {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	for _, change := range [][2]string{
		{`<launchSecurity type="sev-snp"><policy>0x30000</policy></launchSecurity>`, ""},
		{`"sev-snp"`, `"sev"`},
		{`<kernel>/var/run/kubevirt/container-disks/kernel-boot-artifacts/vmlinuz</kernel>`, ""},
		{`<kernel>/var/run/kubevirt/container-disks/kernel-boot-artifacts/vmlinuz</kernel>`, "<kernel></kernel>"},
		{`<initrd>/var/run/kubevirt/container-disks/kernel-boot-artifacts/initramfs.img</initrd>`, ""},
		{`type="sev-snp"`, `kernelHashes="no" type="sev-snp"`},
		{`<devices>`, `<launchSecurity type="sev-snp"/><devices>`},
	} {
		bad := strings.Replace(kubevirtDomain, change[0], change[1], 1)
		if bad == kubevirtDomain {
			t.Fatalf("%q is not there", change[0])
		}
		if out, err := runHook(t, bad); err == nil || out != "" {
			t.Errorf("%q instead of %q: accepted: %s", change[1], change[0], out)
		}
	}
}
