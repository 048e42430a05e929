// Package platform launches a VM under QEMU: confidential on AMD SEV-SNP hardware, or
// emulated without that hardware.
//
// Both platforms run any firmware, kernel, initramfs and command line unchanged, and the same
// files have the same launch digest on both. On hardware the AMD-SP measures the files and
// signs reports. On the emulated platform the software AMD-SP of package asp measures the
// files, and signs the reports that the guest requests over a virtio port.
// Emulated: NOT CONFIDENTIAL.
//
// On both platforms the AmdSev firmware compares kernel, initramfs and command line with the
// hashes in the kernel-hashes page. QEMU adds this page to an SNP launch, and this package adds
// it to an emulated launch. If a hash differs, the firmware stops in a loop and prints nothing.
// Then this package notices that no kernel started, and ends QEMU.
package platform

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/internal/emulated"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/launch"
	"github.com/rootvouch/rootvouch/snp/launch/idblock"
)

// Kind is the platform of a VM. Its zero value is no platform.
type Kind string

const (
	// Emulated is QEMU's TCG with the software AMD-SP. NOT CONFIDENTIAL.
	Emulated Kind = "emulated"
	// SNP is KVM on a host with AMD SEV-SNP.
	SNP Kind = "snp"
)

// ParseKind reads "emulated" or "snp".
func ParseKind(s string) (Kind, error) {
	if k := Kind(s); k == Emulated || k == SNP {
		return k, nil
	}
	return "", fmt.Errorf("parsing platform %q: want %q or %q", s, Emulated, SNP)
}

// Warning is the text that every command prints on the emulated platform.
const Warning = emulated.Warning

// Defaults of inputs of the launch digest. Another value needs another digest in
// the reference values.
const (
	DefaultCPUType = "EPYC-v4"
	DefaultPolicy  = snp.PolicyReservedOne | snp.PolicySMT
)

const (
	maxVCPUs     = 512
	minMemoryMiB = 256
	maxMemoryMiB = 1 << 20
)

// Guest is a VM. Every field is required unless its comment says otherwise.
type Guest struct {
	Kind Kind

	Firmware string // path of an AmdSev OVMF image
	// AcceptHostCode accepts a firmware that may run code of its host before the
	// kernel. The launch digest then proves nothing about the programs that run.
	AcceptHostCode bool
	// AcceptBareKernel accepts a kernel that is not behind the gate. Such a kernel
	// runs ACPI code of its host.
	AcceptBareKernel bool
	Kernel           string // path of a kernel behind the gate (package gate)
	// UKI says that Kernel is a unified kernel image. The image holds initramfs and
	// command line, so Initramfs and CommandLine must be empty.
	UKI         bool
	Initramfs   string // path
	CommandLine string // may be empty; cmdline.Default is that of rootvouch's guests
	VCPUs       int
	CPUType     string // QEMU's name of a CPU model that package launch knows

	MemoryMiB int
	// Disk is the path of a raw image, attached read-only as the first virtio
	// disk. ExtraDisks follow it. Both may be empty.
	Disk       string
	ExtraDisks []string
	// Volumes are paths of raw images that the guest writes. They follow the disks,
	// and may be empty.
	Volumes  []string
	Network  Network   // the zero value is QEMU's own network
	Forwards []Forward // of TCP ports of the host to the guest; may be empty

	Policy   snp.Policy
	HostData snp.HostData // may be zero
	// IDBlock holds the launch digest and policy that the AMD-SP must require, and
	// the guest's identity in its reports. Nil means no ID block.
	IDBlock *idblock.Signed

	// CBitPosition is the bit of a page-table entry that says "encrypted".
	// ReducedPhysBits is the number of physical address bits that the host loses by
	// encryption: CPUID Fn8000_001F_EBX bits 5:0 and 11:6. Zero means 51 and 1, as
	// on the EPYC processors from Milan to Turin. The emulated platform ignores
	// both.
	CBitPosition, ReducedPhysBits int
}

// Forward lets a process on the host reach a TCP port of the guest.
type Forward struct {
	Host      netip.AddrPort // with port 0, QEMU chooses a free one
	GuestPort uint16
}

// ParseForward reads "127.0.0.1:8444=8444": host address and port, then the guest's
// port. The default address is 127.0.0.1. ParseForward accepts loopback addresses
// only, because users of the host should reach the VM, and other machines should
// not.
func ParseForward(s string) (Forward, error) {
	host, guest, ok := strings.Cut(s, "=")
	if !ok {
		return Forward{}, fmt.Errorf("parsing forward %q: want [ADDRESS:]PORT=GUEST-PORT", s)
	}
	if !strings.Contains(host, ":") {
		host = "127.0.0.1:" + host
	}
	address, err := netip.ParseAddrPort(host)
	if err != nil {
		return Forward{}, fmt.Errorf("parsing forward %q: %v, want [ADDRESS:]PORT=GUEST-PORT, such as 127.0.0.1:8080=80", s, err)
	}
	port, err := strconv.ParseUint(guest, 10, 16)
	if err != nil {
		return Forward{}, fmt.Errorf("parsing forward %q: guest port is %q, want 1 to 65535", s, guest)
	}
	f := Forward{Host: address, GuestPort: uint16(port)}
	if err := f.check(); err != nil {
		return Forward{}, fmt.Errorf("parsing forward %q: %v", s, err)
	}
	return f, nil
}

// String is the inverse of ParseForward.
func (f Forward) String() string { return fmt.Sprintf("%v=%d", f.Host, f.GuestPort) }

func (f Forward) check() error {
	switch {
	case !f.Host.Addr().Is4() || !f.Host.Addr().IsLoopback():
		return fmt.Errorf("host address is %v, want one of 127.0.0.0/8", f.Host.Addr())
	case f.GuestPort == 0:
		return errors.New("guest port is 0, want 1 to 65535")
	}
	return nil
}

// Check refuses a guest that cannot be launched. The error lists every fault.
func (g Guest) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, err := ParseKind(string(g.Kind)); err != nil {
		errs = append(errs, err)
	}
	for _, f := range []struct{ name, path string }{
		{"firmware", g.Firmware}, {"kernel", g.Kernel}, {"initramfs", g.Initramfs},
	} {
		if f.path == "" && !(g.UKI && f.name == "initramfs") {
			bad("no %s is given", f.name)
		}
	}
	if g.UKI && (g.Initramfs != "" || g.CommandLine != "") {
		bad("a unified kernel image has initramfs and command line of its own: none is given beside it")
	}
	if g.VCPUs < 1 || g.VCPUs > maxVCPUs {
		bad("vCPU count is %d, want 1 to %d", g.VCPUs, maxVCPUs)
	}
	if g.MemoryMiB < minMemoryMiB || g.MemoryMiB > maxMemoryMiB {
		bad("memory is %d MiB, want %d to %d", g.MemoryMiB, minMemoryMiB, maxMemoryMiB)
	}
	if _, err := launch.LookupCPU(g.CPUType); err != nil {
		errs = append(errs, err)
	}
	if err := g.Policy.Check(); err != nil {
		errs = append(errs, err)
	}
	for _, f := range g.Forwards {
		if err := f.check(); err != nil {
			bad("forward %v: %v", f, err)
		}
	}
	if err := g.Network.check(len(g.Forwards)); err != nil {
		errs = append(errs, err)
	}
	if g.Disk == "" && len(g.ExtraDisks) > 0 {
		bad("further disks are given, but no first one")
	}
	if g.CBitPosition < 0 || g.CBitPosition > 63 || g.ReducedPhysBits < 0 || g.ReducedPhysBits > 63 {
		bad("C-bit position is %d and reduced physical bits are %d, want 0 to 63", g.CBitPosition, g.ReducedPhysBits)
	}
	return errors.Join(errs...)
}
