// Package export writes a guest's configuration for launchers other than ours, such
// as libvirt.
//
// A configuration has the same firmware, kernel, initramfs, command line, CPUs and
// policy as "vm run" would use, so the launch digest is the same. It names that
// digest. A test has libvirt translate its configuration to QEMU's arguments. The
// other configurations are checked as text only, and none was tried on hardware.
package export

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/snp"
)

// VM is a guest of the SNP platform, with the further values that a launcher needs.
type VM struct {
	platform.Guest
	// Name is the VM's name at the launcher: letters, digits and hyphens.
	Name string
	// Digest is the launch digest of Guest.
	Digest snp.Measurement
	// BootImage is the reference of a container image that holds /boot/vmlinuz and
	// /boot/initramfs.img. KubeVirt only.
	BootImage string
}

// writers :: name of a launcher -> function that writes its configuration.
var writers = map[string]func(VM) (string, error){
	"libvirt": libvirt, "openstack": openstack, "kubevirt": kubevirt, "proxmox": proxmox, "vmspawn": vmspawn, "qemu": qemu,
}

// Launchers returns the names that Text accepts.
func Launchers() []string {
	return []string{"libvirt", "openstack", "kubevirt", "proxmox", "vmspawn", "qemu"}
}

// name matches a DNS label, which every launcher accepts.
var name = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Text returns a VM's configuration for a launcher.
func Text(launcher string, vm VM) (string, error) {
	write, ok := writers[launcher]
	if !ok {
		return "", fmt.Errorf("launcher is %q, want one of %q", launcher, Launchers())
	}
	if err := check(vm); err != nil {
		return "", fmt.Errorf("exporting for %s: %w", launcher, err)
	}
	text, err := write(vm)
	if err != nil {
		return "", fmt.Errorf("exporting for %s: %w", launcher, err)
	}
	return text, nil
}

func check(vm VM) error {
	errs := []error{vm.Guest.Check()}
	if vm.Kind != platform.SNP {
		errs = append(errs, fmt.Errorf("platform is %q, want %q: the emulated one has no other launcher", vm.Kind, platform.SNP))
	}
	if !name.MatchString(vm.Name) {
		errs = append(errs, fmt.Errorf("name is %q, want up to 63 lower-case letters, digits and hyphens", vm.Name))
	}
	for _, path := range slices.Concat([]string{vm.Firmware, vm.Kernel}, optional(vm.Initramfs), vm.disks(), vm.Volumes) {
		if !filepath.IsAbs(path) || strings.ContainsFunc(path, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			errs = append(errs, fmt.Errorf("path is %q, want one from / on, without control characters", path))
		}
	}
	return errors.Join(errs...)
}

func optional(path string) []string {
	if path == "" {
		return nil
	}
	return []string{path}
}

func (vm VM) disks() []string { return append(optional(vm.Disk), vm.ExtraDisks...) }

// cbit returns the position of the C-bit, and the number of physical address bits
// that encryption uses up.
func (vm VM) cbit() (position, reduced int) {
	position, reduced = vm.CBitPosition, vm.ReducedPhysBits
	if position == 0 {
		position = 51
	}
	if reduced == 0 {
		reduced = 1
	}
	return position, reduced
}

// mac returns the guest's MAC address: the given one, or one made from its name.
func (vm VM) mac() net.HardwareAddr {
	if vm.Network.MAC != nil {
		return vm.Network.MAC
	}
	return platform.MACOf(vm.Name)
}

// bridge returns the named bridge, or the launcher's usual one.
func (vm VM) bridge(usual string) (string, error) {
	switch {
	case len(vm.Forwards) > 0:
		return "", errors.New("ports are forwarded by vm run only")
	case vm.Network.Kind == platform.Tap:
		return "", errors.New("a tap device is for vm run and qemu: name a bridge")
	case vm.Network.Kind == platform.Bridge:
		return vm.Network.Name, nil
	}
	return usual, nil
}

// plain refuses values for which a launcher has no setting.
func (vm VM) plain() error {
	switch {
	case vm.IDBlock != nil || vm.HostData != (snp.HostData{}):
		return errors.New("it has no setting for an ID block or HOST_DATA")
	case vm.Policy != platform.DefaultPolicy:
		return fmt.Errorf("guest policy is %#x, want %#x: it sets that one", uint64(vm.Policy), uint64(platform.DefaultPolicy))
	}
	return nil
}

// tested is the note in each configuration except libvirt's.
const tested = "Checked as text only: it was not tried on hardware."

// comment writes lines as comments of a shell or configuration file.
func comment(lines ...string) string { return "# " + strings.Join(lines, "\n# ") + "\n" }
