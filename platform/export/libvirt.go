package export

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/snp"
)

// libvirt writes a domain for libvirt 10.5 or newer.
func libvirt(vm VM) (string, error) {
	network, err := vm.libvirtNetwork()
	if err != nil {
		return "", err
	}
	devices := []element{e("controller", "type", "usb", "model", "none")}
	for i, disk := range slices.Concat(vm.disks(), vm.Volumes) {
		device := e("disk", "type", "file", "device", "disk",
			e("driver", "name", "qemu", "type", "raw", "iommu", "on"),
			e("source", "file", disk),
			e("target", "dev", "vd"+string(rune('a'+i)), "bus", "virtio"))
		if i < len(vm.disks()) {
			device.children = append(device.children, e("readonly"))
		}
		devices = append(devices, device)
	}
	devices = append(devices, network,
		e("serial", "type", "pty", e("target", "type", "isa-serial", "port", "0")),
		e("console", "type", "pty", e("target", "type", "serial", "port", "0")),
		e("memballoon", "model", "none"))
	domain := e("domain", "type", "kvm",
		say("name", vm.Name),
		say("memory", strconv.Itoa(vm.MemoryMiB), "unit", "MiB"),
		e("memoryBacking", e("source", "type", "memfd"), e("access", "mode", "shared")),
		say("vcpu", strconv.Itoa(vm.VCPUs)),
		vm.libvirtOS(),
		e("features", e("acpi"), e("apic")),
		e("cpu", "mode", "custom", "match", "exact", "check", "none", say("model", vm.CPUType, "fallback", "forbid")),
		e("clock", "offset", "utc"),
		// The launch digest covers one start, so a reset ends the VM.
		say("on_poweroff", "destroy"), say("on_reboot", "destroy"), say("on_crash", "destroy"),
		e("devices", devices),
		vm.launchSecurity())
	var b strings.Builder
	fmt.Fprintf(&b, "<!-- launch digest %v: of this firmware, kernel, initramfs, command line,\n     CPU model and number of vCPUs. Another of them has another digest. -->\n", vm.Digest)
	domain.write(&b, "")
	return b.String(), nil
}

func (vm VM) libvirtOS() element {
	os := e("os", say("type", "hvm", "arch", "x86_64", "machine", "q35"),
		say("loader", vm.Firmware, "type", "rom", "stateless", "yes"),
		say("kernel", vm.Kernel))
	if vm.Initramfs != "" {
		os.children = append(os.children, say("initrd", vm.Initramfs))
	}
	if vm.CommandLine != "" {
		os.children = append(os.children, say("cmdline", vm.CommandLine))
	}
	return os
}

func (vm VM) libvirtNetwork() (element, error) {
	bridge, err := vm.bridge("")
	if err != nil {
		return element{}, err
	}
	kind, source := "network", e("source", "network", "default")
	if vm.Network.Kind == platform.Bridge {
		kind, source = "bridge", e("source", "bridge", bridge)
	}
	return e("interface", "type", kind, e("mac", "address", vm.mac().String()), source,
		e("model", "type", "virtio"), e("driver", "iommu", "on"), e("rom", "enabled", "no")), nil
}

func (vm VM) launchSecurity() element {
	cbit, reduced := vm.cbit()
	security := e("launchSecurity", "type", "sev-snp", "kernelHashes", "yes")
	if vm.IDBlock != nil && vm.IDBlock.AuthorKey != nil {
		security.attributes = append(security.attributes, "authorKey", "yes")
	}
	security.children = []element{
		say("cbitpos", strconv.Itoa(cbit)), say("reducedPhysBits", strconv.Itoa(reduced)),
		say("policy", fmt.Sprintf("%#x", uint64(vm.Policy))),
	}
	if vm.IDBlock != nil {
		encode := base64.StdEncoding.EncodeToString
		security.children = append(security.children, say("idBlock", encode(vm.IDBlock.Block.Marshal())), say("idAuth", encode(vm.IDBlock.Auth())))
	}
	if vm.HostData != (snp.HostData{}) {
		security.children = append(security.children, say("hostData", base64.StdEncoding.EncodeToString(vm.HostData[:])))
	}
	return security
}
