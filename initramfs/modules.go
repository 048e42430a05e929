package initramfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/initramfs/kmod"
)

func required(names ...string) kmod.Want { return kmod.Want{Names: names} }
func optional(names ...string) kmod.Want { return kmod.Want{Names: names, Optional: true} }

// DefaultModules lists what the boot chain uses, wherever the kernel has it:
// as a module or built in. Nothing loads a module later, on demand: the initramfs
// holds no modprobe. So what a table or mount needs indirectly stands here too.
//
// Optional are faster implementations and drivers of conveniences: without them
// the chain still works, or PID 1 refuses with the step that needed them.
func DefaultModules() []kmod.Want {
	return []kmod.Want{
		// Ciphers and hashes before their users: a table takes the fastest
		// implementation registered when it is loaded.
		required("aesni_intel"),                  // AES-XTS with AES-NI and VAES; the other one reads tables by key
		optional("sha256_ssse3"),                 // SHA-256 with SHA-NI; gone where it moved into the kernel's library
		optional("crc32c_intel", "crc32c-x86"),   // for erofs and ext4
		optional("ecb"),                          // of xts
		required("xts"),                          // aes-xts-plain64
		required("dm_mod"), required("dm_crypt"), // the disk
		required("dm_verity"),
		optional("authenc"), optional("dm_integrity"), // volumes that are written

		required("virtio_pci"),
		required("virtio_blk"),
		required("virtio_net"),
		required("virtio_console"), // report device of the emulated platform
		required("af_packet"),      // DHCP before there is an address

		required("erofs"),
		optional("ext4"),
		optional("squashfs"),
		required("overlay"), // writable layer over the root, in memory

		required("configfs"),          // report device configfs-tsm
		optional("tsm_report", "tsm"), // as it is called since Linux 6.17, and since 6.7
		required("sev_guest"),         // report device sev-guest, and provider of the other
	}
}

// drivers are modules for disks and networks that the default ones do not know, by
// where a VM is to run. A module that only some of a target's machines need is
// optional: older kernels lack it.
func drivers() map[string][]kmod.Want {
	nvme := required("nvme")
	scsi := []kmod.Want{required("virtio_scsi"), required("sd_mod")}
	return map[string][]kmod.Want{
		"nvme":         {nvme},
		"virtio-scsi":  scsi,
		"virtio-iommu": {required("virtio_iommu")},
		"xfs":          {required("xfs")},   // of volumes
		"btrfs":        {required("btrfs")}, // the same
		"aws":          {nvme, required("ena")},
		"gcp":          append([]kmod.Want{nvme, required("gve")}, scsi...),
		"azure": {required("hv_vmbus"), required("pci_hyperv"), nvme, required("hv_storvsc"), required("sd_mod"),
			required("hv_netvsc"), optional("mana")},
	}
}

// DriverTargets lists what Drivers knows.
func DriverTargets() []string { return slices.Sorted(maps.Keys(drivers())) }

// Drivers returns the modules that a VM needs for its disk and network at a
// target, beside the default ones.
func Drivers(target string) ([]kmod.Want, error) {
	wants, ok := drivers()[target]
	if !ok {
		return nil, fmt.Errorf("drivers for %q are not known, want one of %s", target, strings.Join(DriverTargets(), ", "))
	}
	return wants, nil
}

// DriverNames returns the names of the modules of targets, for the kernel's command
// line, which bars what no target needs. Targets that are not known have none.
func DriverNames(targets []string) (names []string) {
	all := drivers()
	for _, target := range targets {
		for _, want := range all[target] {
			names = append(names, want.Names...)
		}
	}
	return names
}
