package platform

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/snp"
)

// PortName is the name of the virtio port on which the software AMD-SP answers
// (docs/spec/emulated-asp.md).
const PortName = "org.rootvouch.asp"

// Parts are the inputs of one run besides the guest. The zero value of a field
// leaves it out.
type Parts struct {
	// HashesPage is the path of the kernel-hashes page, and HashesAddress its guest
	// physical address. Emulated only: for SNP, QEMU makes the page.
	HashesPage    string
	HashesAddress uint64
	// AMDSP is a descriptor that QEMU inherits: a socket to the software
	// AMD-SP. Emulated only.
	AMDSP int
	// QMP is a descriptor that QEMU inherits: a socket that takes QEMU's commands.
	// With such a socket the VM waits for the command "cont".
	QMP int
}

// Args returns QEMU's arguments for a guest, without the program. The guest's
// serial port is QEMU's standard input and output.
func Args(g Guest, p Parts) []string {
	args := []string{"-nodefaults", "-no-user-config", "-display", "none"}
	add := func(a ...string) { args = append(args, a...) }
	memory := strconv.Itoa(g.MemoryMiB) + "M"
	if g.Kind == SNP {
		add("-accel", "kvm",
			"-machine", "q35,confidential-guest-support=sev0,memory-backend=ram0",
			"-object", "memory-backend-memfd,id=ram0,size="+memory+",share=true,prealloc=false",
			"-object", sevObject(g))
	} else {
		// One thread runs all vCPUs. With one thread for each vCPU, QEMU 10.0
		// aborted in about one of thirty boots (iotlb_to_section, an assertion),
		// and was no faster.
		add("-accel", "tcg,thread=single", "-machine", "q35")
	}
	add("-cpu", escape(g.CPUType), "-smp", strconv.Itoa(g.VCPUs), "-m", memory,
		// The launch digest covers one start, so a reset ends the VM.
		"-no-reboot",
		"-bios", g.Firmware, "-kernel", g.Kernel)
	if g.Initramfs != "" {
		add("-initrd", g.Initramfs, "-append", g.CommandLine)
	}
	add("-chardev", "stdio,id=console", "-serial", "chardev:console")
	if p.HashesPage != "" {
		add("-device", fmt.Sprintf("loader,file=%s,addr=%#x,force-raw=on", escape(p.HashesPage), p.HashesAddress))
	}
	for i, disk := range g.disks() {
		node := "disk" + strconv.Itoa(i)
		add("-blockdev", "driver=raw,node-name="+node+",read-only=on,file.driver=file,file.filename="+escape(disk),
			"-device", g.virtio("virtio-blk-pci")+",drive="+node)
	}
	for i, volume := range g.Volumes {
		// A flush of the guest is a flush of the host's file, so data that QEMU
		// reports as durable is durable.
		node := "volume" + strconv.Itoa(i)
		add("-blockdev", "driver=raw,node-name="+node+",file.driver=file,file.filename="+escape(volume),
			"-device", g.virtio("virtio-blk-pci")+",drive="+node)
	}
	add("-netdev", g.netdev(), "-device", g.nic())
	if p.AMDSP != 0 {
		add("-chardev", "socket,id=asp,fd="+strconv.Itoa(p.AMDSP),
			"-device", g.virtio("virtio-serial-pci"), "-device", "virtserialport,chardev=asp,name="+PortName)
	}
	if p.QMP != 0 {
		add("-chardev", "socket,id=qmp,fd="+strconv.Itoa(p.QMP), "-mon", "chardev=qmp,mode=control", "-S")
	}
	return args
}

func (g Guest) disks() []string {
	if g.Disk == "" {
		return nil
	}
	return append([]string{g.Disk}, g.ExtraDisks...)
}

// netdev returns the host's end of the guest's network.
func (g Guest) netdev() string {
	switch g.Network.Kind {
	case Bridge:
		return "bridge,id=net0,br=" + escape(g.Network.Name)
	case Tap:
		return "tap,id=net0,ifname=" + escape(g.Network.Name) + ",script=no,downscript=no"
	}
	user := "user,id=net0"
	for _, f := range g.Forwards {
		user += fmt.Sprintf(",hostfwd=tcp:%v-:%d", f.Host, f.GuestPort)
	}
	return user
}

// nic returns the guest's end of the network, a card without an option ROM.
func (g Guest) nic() string {
	device := g.virtio("virtio-net-pci") + ",netdev=net0,romfile="
	if g.Network.MAC != nil {
		device += ",mac=" + g.Network.MAC.String()
	}
	return device
}

// virtio returns a virtio device with the options that the guest's platform needs.
// In an SNP guest the devices reach shared pages only, through the IOMMU's
// interface.
func (g Guest) virtio(device string) string {
	device += ",disable-legacy=on"
	if g.Kind == SNP {
		device += ",iommu_platform=on"
	}
	return device
}

// sevObject returns QEMU's object sev-snp-guest (qapi/qom.json,
// SevSnpGuestProperties).
func sevObject(g Guest) string {
	cbit, reduced := g.CBitPosition, g.ReducedPhysBits
	if cbit == 0 {
		cbit = 51
	}
	if reduced == 0 {
		reduced = 1
	}
	object := fmt.Sprintf("sev-snp-guest,id=sev0,cbitpos=%d,reduced-phys-bits=%d,policy=%#x,kernel-hashes=on",
		cbit, reduced, uint64(g.Policy))
	if g.IDBlock != nil {
		object += "," + g.IDBlock.QEMU()
	}
	if g.HostData != (snp.HostData{}) {
		object += ",host-data=" + base64.StdEncoding.EncodeToString(g.HostData[:])
	}
	return object
}

// escape writes a value for QEMU's key=value lists, where a comma is doubled.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
