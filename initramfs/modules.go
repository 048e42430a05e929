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

// DefaultModules lists everything that the boot chain uses, as a module or built
// into the kernel. The initramfs has no modprobe, so no module is loaded on demand
// later. The list therefore includes modules that a table or mount needs
// indirectly.
//
// Faster implementations and drivers for conveniences are optional. Without them
// the chain still works, or PID 1 refuses in the step that needs them.
func DefaultModules() []kmod.Want {
	return []kmod.Want{
		// Ciphers and hashes before their users: a table takes the fastest
		// implementation registered when it is loaded.
		required("aesni_intel"),                  // AES-XTS with AES-NI and VAES; the other one reads tables by key
		optional("sha256_ssse3"),                 // SHA-256 with SHA-NI; newer kernels have it in their library
		optional("crc32c_intel", "crc32c-x86"),   // for erofs and ext4
		optional("ecb"),                          // xts needs it
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
		optional("tsm_report", "tsm"), // its names since Linux 6.17, and since 6.7
		required("sev_guest"),         // report device sev-guest, and provider of the other
	}
}

// drivers returns further modules for disks and networks, by the target on which a
// VM runs. A module that only some of a target's machines need is optional, because
// older kernels lack it.
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

// DriverTargets lists the targets that Drivers accepts.
func DriverTargets() []string { return slices.Sorted(maps.Keys(drivers())) }

// Drivers returns the modules that a VM needs for its disk and network at a target,
// in addition to the default ones.
func Drivers(target string) ([]kmod.Want, error) {
	wants, ok := drivers()[target]
	if !ok {
		return nil, fmt.Errorf("drivers for %q are not known, want one of %s", target, strings.Join(DriverTargets(), ", "))
	}
	return wants, nil
}

// DriverNames returns the names of the modules of targets. The kernel's command
// line bars drivers that no target needs. An unknown target has no names.
func DriverNames(targets []string) (names []string) {
	all := drivers()
	for _, target := range targets {
		for _, want := range all[target] {
			names = append(names, want.Names...)
		}
	}
	return names
}
