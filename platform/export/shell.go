package export

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/internal/shell"
	"github.com/rootvouch/rootvouch/platform"
)

// qemu writes a script that starts QEMU as "vm run" does.
func qemu(vm VM) (string, error) {
	argv := append([]string{platform.DefaultQEMU}, platform.Args(vm.Guest, platform.Parts{})...)
	return "#!/bin/sh\n" + comment(
		"launch digest "+vm.Digest.String(),
		"The VM's console is standard input and output. "+tested,
	) + "exec " + shell.Quote(argv...) + "\n", nil
}

// openstack writes the commands that make images and a flavor for Nova 2026.2.
func openstack(vm VM) (string, error) {
	if err := vm.plain(); err != nil {
		return "", err
	}
	if vm.Disk == "" || len(vm.ExtraDisks) > 0 {
		return "", errors.New("it takes exactly one disk")
	}
	if len(vm.Volumes) > 0 {
		return "", errors.New("volumes are OpenStack's: make one of each image, and attach it to the server")
	}
	if vm.Network.Kind != platform.User || len(vm.Forwards) > 0 {
		return "", errors.New("the VM is on a network of OpenStack's: name none, and forward no ports")
	}
	image := func(format, path, name string, properties ...string) string {
		argv := []string{"openstack", "image", "create", "-f", "value", "-c", "id", "--disk-format", format, "--container-format", format, "--file", path}
		if format == "raw" {
			argv[10] = "bare"
		}
		for _, p := range properties {
			argv = append(argv, "--property", p)
		}
		return shell.Quote(append(argv, name)...)
	}
	var b strings.Builder
	b.WriteString("#!/bin/sh\n" + comment(
		"launch digest "+vm.Digest.String(),
		"For Nova 2026.2 (spec \"AMD SEV-SNP libvirt support\"). "+tested,
		"The firmware is the compute host's: have its operator put this one where libvirt finds",
		"it by descriptor, "+vm.Firmware,
		"Another firmware has another digest, and so have another CPU model, another number of",
		"vCPUs, and a command line that Nova adds to.",
	) + "set -eu\n")
	properties := []string{"hw_firmware_type=uefi", "hw_firmware_stateless=true", "hw_machine_type=q35", "hw_mem_encryption_model=amd-sev-snp", "hw_mem_encryption=true"}
	fmt.Fprintf(&b, "kernel=$(%s)\n", image("aki", vm.Kernel, vm.Name+"-kernel"))
	beside := ""
	if vm.Initramfs != "" {
		fmt.Fprintf(&b, "ramdisk=$(%s)\n", image("ari", vm.Initramfs, vm.Name+"-initramfs"))
		properties, beside = append(properties, "os_command_line="+vm.CommandLine), ` --property "ramdisk_id=$ramdisk"`
	}
	fmt.Fprintf(&b, "image=$(%s --property \"kernel_id=$kernel\"%s)\n", image("raw", vm.Disk, vm.Name, properties...), beside)
	fmt.Fprintf(&b, "openstack flavor create --ram %d --disk 0 --vcpus %d %s\n", vm.MemoryMiB, vm.VCPUs, vm.Name)
	b.WriteString(comment("The CPU model is nova.conf's, on the compute host: [libvirt] cpu_mode = custom, cpu_models = " + vm.CPUType))
	fmt.Fprintf(&b, "openstack server create --image \"$image\" --flavor %s --network private %s\n", vm.Name, vm.Name)
	return b.String(), nil
}

// vmspawn writes the command for systemd-vmspawn with --coco= (systemd 260).
func vmspawn(vm VM) (string, error) {
	if err := vm.plain(); err != nil {
		return "", err
	}
	if len(vm.ExtraDisks)+len(vm.Volumes) > 0 {
		return "", errors.New("it takes one disk, and no volumes")
	}
	bridge, err := vm.bridge("")
	if err != nil {
		return "", err
	}
	argv := []string{"systemd-vmspawn", "--coco=sev-snp", "--firmware=" + vm.Firmware, "--linux=" + vm.Kernel}
	if vm.Initramfs != "" {
		argv = append(argv, "--initrd="+vm.Initramfs)
	}
	argv = append(argv, fmt.Sprintf("--cpus=%d", vm.VCPUs), fmt.Sprintf("--ram=%dM", vm.MemoryMiB), "--tpm=no", "--vsock=no", "--register=no", "--machine="+vm.Name)
	if bridge != "" {
		argv = append(argv, "--network-bridge="+bridge)
	} else {
		argv = append(argv, "--network-user-mode")
	}
	if vm.Disk != "" {
		argv = append(argv, "--image="+vm.Disk, "--image-format=raw", "--read-only")
	}
	if vm.CommandLine != "" {
		argv = append(argv, vm.CommandLine)
	}
	return "#!/bin/sh\n" + comment(
		"launch digest "+vm.Digest.String()+",",
		"if systemd-vmspawn adds nothing to the command line and starts the CPU model "+vm.CPUType+".",
		"It says neither: compare with what the VM's evidence shows. "+tested,
	) + "exec " + shell.Quote(argv...) + "\n", nil
}

// proxmox writes the configuration of a VM for Proxmox VE.
func proxmox(vm VM) (string, error) {
	if err := vm.plain(); err != nil {
		return "", err
	}
	bridge, err := vm.bridge("vmbr0")
	if err != nil {
		return "", err
	}
	argv := []string{"-bios", vm.Firmware, "-kernel", vm.Kernel}
	if vm.Initramfs != "" {
		argv = append(argv, "-initrd", vm.Initramfs)
	}
	if vm.CommandLine != "" {
		argv = append(argv, "-append", vm.CommandLine)
	}
	var b strings.Builder
	b.WriteString(comment(
		"launch digest "+vm.Digest.String(),
		"For /etc/pve/qemu-server/VMID.conf. "+tested,
		"args replaces the firmware that Proxmox VE gives to SEV-SNP guests."))
	fmt.Fprintf(&b, "name: %s\nmachine: q35\nbios: ovmf\namd-sev: type=snp,kernel-hashes=1\n", vm.Name)
	fmt.Fprintf(&b, "cpu: %s\nsockets: 1\ncores: %d\nmemory: %d\nballoon: 0\n", vm.CPUType, vm.VCPUs, vm.MemoryMiB)
	for i, disk := range slices.Concat(vm.disks(), vm.Volumes) {
		if strings.ContainsAny(disk, ", ") {
			return "", fmt.Errorf("disk is %q: its configuration has no form for a comma or a space in a path", disk)
		}
		readOnly := ",ro=1"
		if i >= len(vm.disks()) {
			readOnly = ""
		}
		fmt.Fprintf(&b, "virtio%d: %s,format=raw%s\n", i, disk, readOnly)
	}
	fmt.Fprintf(&b, "net0: virtio=%s,bridge=%s\nserial0: socket\nvga: serial0\nargs: %s\n", strings.ToUpper(vm.mac().String()), bridge, shell.Quote(argv...))
	return b.String(), nil
}
