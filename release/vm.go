// Package release builds a release of a VM from its description, and registers the release with
// the SPIRE server and the key server.
//
// The file vm.json describes the VM. Build makes the release: a directory with everything that a
// launch of the VM needs. [Site.Plan] compares the release with the SPIRE server and the key
// server, and returns the steps that are still to do. [Apply] carries out the steps.
// docs/spec/release.md describes the formats of file and directory.
package release

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/internal/bytesize"
	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/launch"
)

const (
	version = 1

	// MaxVM bounds vm.json, in bytes.
	MaxVM = 1 << 20

	// DefaultGuestBin is where the package rootvouch-guest has the guest's programs.
	DefaultGuestBin = "/usr/lib/rootvouch/guest"

	maxName = 63 // bytes of a VM's name
)

// Hazards that VM.Accept can name; each is a flag of the commands that it stands for.
const (
	AcceptFirmware = "firmware-runs-host-code"
	AcceptKernel   = "kernel-runs-host-code"
)

// VM is a vm.json as it was written. Members without omitempty or omitzero are
// required. Paths are relative to the directory of the file, but those of sockets and
// of spire.refval_dir are absolute: they are used after the build too.
type VM struct {
	Version int `json:"version"`
	// Name is lower-case letters, digits and hyphens.
	Name        string `json:"name"`
	TrustDomain string `json:"trust_domain"`
	// SPIFFEID is what the VM's fetchkey gets; default spiffe://TRUST-DOMAIN/vm/NAME.
	SPIFFEID string `json:"spiffe_id,omitempty"`
	Root     Root   `json:"root"`
	Kernel   Kernel `json:"kernel"`
	Firmware string `json:"firmware"`
	// GuestBin is the directory of the guest's programs; default DefaultGuestBin.
	GuestBin string `json:"guest_bin,omitempty"`
	// CommandLine are words that follow those of the default line.
	CommandLine []string `json:"command_line,omitempty"`
	Shapes      Shapes   `json:"shapes"`
	Trust       Trust    `json:"trust"`
	SPIRE       SPIRE    `json:"spire"`
	KMS         KMS      `json:"kms"`
	Boot        Boot     `json:"boot,omitzero"`
	Volumes     []Volume `json:"volumes,omitempty"`
	// Accept names hazards that the owner accepts: AcceptFirmware, AcceptKernel.
	Accept []string `json:"accept,omitempty"`

	text []byte // the file's
}

// Root is the root filesystem, as "image build" takes it.
type Root struct {
	Path       string   `json:"path"`
	Image      string   `json:"image,omitempty"` // of an OCI layout
	Exclude    []string `json:"exclude,omitempty"`
	DropXattrs []string `json:"drop_xattrs,omitempty"`
	DropPAX    []string `json:"drop_pax,omitempty"`
	// Size of the disk, such as 10G; default: as small as can be.
	Size string `json:"size,omitempty"`
	// Strict refuses a root that a note would be about, but for those in AcceptNotes.
	Strict      bool     `json:"strict,omitempty"`
	AcceptNotes []string `json:"accept_notes,omitempty"`
}

// Kernel says where kernel and modules come from, as "initramfs build" takes it.
type Kernel struct {
	Trees   []string `json:"trees"`
	Version string   `json:"version,omitempty"` // when the trees have several
	Modules []string `json:"modules,omitempty"` // beside the default ones
	Drivers []string `json:"drivers,omitempty"` // of hosts that are named
}

// Shapes are the launches that are accepted: each vCPU count with each CPU type.
type Shapes struct {
	VCPUs    []int    `json:"vcpus"`
	CPUTypes []string `json:"cpu_types"`
}

// Trust says who must vouch for the VM.
type Trust struct {
	// Root is "amd" or "emulated".
	Root string `json:"root"`
	// ARK is the certificate of an emulated ARK, DER or PEM; with Root "emulated".
	ARK string `json:"ark,omitempty"`
	// Products are as "refval new --product" takes them; required with "amd".
	Products []string `json:"products,omitempty"`
	// ReportDevice is that of boot.json; default configfs-tsm, or virtio-port where
	// the root is emulated.
	ReportDevice string `json:"report_device,omitempty"`
	// HeaderPin is "measured" (the default) or "key-server".
	HeaderPin string `json:"header_pin,omitempty"`
}

// SPIRE says where the SPIRE server is, for the guest and for the owner.
type SPIRE struct {
	Addresses []string `json:"addresses"`  // host:port, from the guest
	TrustRoot string   `json:"trust_root"` // PEM
	Socket    string   `json:"socket"`     // admin socket
	// RefvalDir is the refval_dir of the server's plugin.
	RefvalDir string `json:"refval_dir"`
}

// KMS says where the key server is, for the guest and for the owner.
type KMS struct {
	Addresses []string `json:"addresses"`           // host:port, from the guest
	SPIFFEID  string   `json:"spiffe_id,omitempty"` // default spiffe://TRUST-DOMAIN/kms
	Socket    string   `json:"socket"`              // admin socket
	User      string   `json:"user,omitempty"`      // that rootvouch-kms runs as; default: root, or who asks
}

// Boot are members of boot.json that have a default; docs/spec/bootconfig.md
// describes them.
type Boot struct {
	Verification string             `json:"verification,omitempty"`
	Network      bootconfig.Network `json:"network,omitzero"`
	ClockFloor   time.Time          `json:"clock_floor,omitzero"`
	Devices      string             `json:"devices,omitempty"`
	ConsoleLogin bool               `json:"console_login,omitempty"`
}

// Volume is a volume that the VM writes. It outlives releases: each that names it gets its
// key.
type Volume struct {
	// Pins is the file that "volume create" wrote.
	Pins string `json:"pins"`
	Mount
}

// Mount says where a volume goes, and how launches share it.
type Mount struct {
	MountPoint string `json:"mount_point"`
	// Filesystem is what it holds, and what the first launch makes; default ext4.
	Filesystem bootconfig.VolumeFilesystem `json:"filesystem,omitempty"`
	// Writers is exclusive (the default) or takeover, Unclean is refuse (the default) or
	// accept, as "keys volume put" takes them.
	Writers string `json:"writers,omitempty"`
	Unclean string `json:"unclean,omitempty"`
}

// Decode reads a vm.json that stands in dir, fills in what has a default, makes
// paths absolute and checks all that can be checked without reading further files.
func Decode(data []byte, dir string) (VM, error) {
	if len(data) > MaxVM {
		return VM{}, fmt.Errorf("decoding vm.json: it has %d bytes, want at most %d", len(data), MaxVM)
	}
	var vm VM
	if err := strictjson.Unmarshal(data, &vm); err != nil {
		return VM{}, fmt.Errorf("decoding vm.json: %v", err)
	}
	vm.complete()
	if err := vm.check(); err != nil {
		return VM{}, fmt.Errorf("checking vm.json: %w", err)
	}
	vm.resolve(dir)
	vm.text = slices.Clone(data)
	return vm, nil
}

// complete fills in what has a default.
func (vm *VM) complete() {
	for _, d := range []struct {
		member   *string
		fallback string
	}{
		{&vm.SPIFFEID, "spiffe://" + vm.TrustDomain + "/vm/" + vm.Name},
		{&vm.GuestBin, DefaultGuestBin},
		{&vm.KMS.SPIFFEID, "spiffe://" + vm.TrustDomain + "/kms"},
		{&vm.Trust.ReportDevice, bootconfig.ReportConfigfsTSM},
		{&vm.Trust.HeaderPin, "measured"},
		{&vm.Boot.Verification, bootconfig.VerificationFull},
		{&vm.Boot.Network.Mode, bootconfig.NetworkDHCP},
		{&vm.Boot.Devices, bootconfig.DevicesOwn},
	} {
		if *d.member != "" {
			continue
		}
		if *d.member = d.fallback; d.member == &vm.Trust.ReportDevice && vm.Trust.Root == "emulated" {
			*d.member = bootconfig.ReportVirtioPort
		}
	}
	for i := range vm.Volumes {
		m := &vm.Volumes[i].Mount
		m.Filesystem, m.Writers, m.Unclean = cmp.Or(m.Filesystem, bootconfig.Ext4), cmp.Or(m.Writers, "exclusive"), cmp.Or(m.Unclean, "refuse")
	}
}

// resolve makes paths absolute.
func (vm *VM) resolve(dir string) {
	paths := []*string{&vm.Root.Path, &vm.Firmware, &vm.GuestBin, &vm.SPIRE.TrustRoot}
	if vm.Trust.ARK != "" {
		paths = append(paths, &vm.Trust.ARK)
	}
	for i := range vm.Volumes {
		paths = append(paths, &vm.Volumes[i].Pins)
	}
	vm.Kernel.Trees = slices.Clone(vm.Kernel.Trees)
	for i := range vm.Kernel.Trees {
		paths = append(paths, &vm.Kernel.Trees[i])
	}
	for _, p := range paths {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// check collects what is wrong with vm.json by itself.
func (vm *VM) check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if vm.Version != version {
		fail("version is %d, want %d", vm.Version, version)
	}
	if err := CheckName(vm.Name); err != nil {
		errs = append(errs, err)
	}
	for _, required := range []struct {
		name, value string
		absolute    bool
	}{
		{"root.path", vm.Root.Path, false}, {"firmware", vm.Firmware, false}, {"spire.trust_root", vm.SPIRE.TrustRoot, false},
		{"spire.socket", vm.SPIRE.Socket, true}, {"spire.refval_dir", vm.SPIRE.RefvalDir, true}, {"kms.socket", vm.KMS.Socket, true},
	} {
		if required.value == "" {
			fail("%s is empty", required.name)
		} else if required.absolute && !filepath.IsAbs(required.value) {
			fail("%s is %q, want an absolute path", required.name, required.value)
		}
	}
	if _, err := parseSize(vm.Root.Size); err != nil {
		fail("root.size: %w", err)
	}
	if vm.Root.Path == "-" {
		fail("root.path is %q, want a file or directory: a release is built from what can be read again", vm.Root.Path)
	}
	if len(vm.Kernel.Trees) == 0 || slices.Contains(vm.Kernel.Trees, "") {
		fail("kernel.trees are %q, want kernel packages or directories", vm.Kernel.Trees)
	}
	for _, target := range vm.Kernel.Drivers {
		if _, err := initramfs.Drivers(target); err != nil {
			fail("kernel.drivers: %w", err)
		}
	}
	if err := cmdline.Check(vm.commandLine()); err != nil {
		fail("command_line: %w", err)
	}
	for _, a := range vm.Accept {
		if a != AcceptFirmware && a != AcceptKernel {
			fail("accept has %q, want %s or %s", a, AcceptFirmware, AcceptKernel)
		}
	}
	errs = append(errs, vm.Shapes.check(), vm.Trust.check(), vm.checkVolumes(),
		initramfs.CheckReachable("spire.addresses", vm.SPIRE.Addresses), initramfs.CheckReachable("kms.addresses", vm.KMS.Addresses),
		bootconfig.CheckTrustDomain(vm.TrustDomain))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if vm.SPIFFEID == vm.KMS.SPIFFEID {
		return fmt.Errorf("spiffe_id is %q, want another than the key server's", vm.SPIFFEID)
	}
	return bootconfig.CheckSPIFFEID(vm.SPIFFEID, vm.TrustDomain)
}

// CheckName refuses what names no VM: it becomes part of SPIFFE IDs, entry IDs and
// file names.
func CheckName(name string) error {
	if name == "" || len(name) > maxName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("name is %q, want 1 to %d lower-case letters, digits and hyphens", name, maxName)
	}
	if name == "owner" {
		return fmt.Errorf("name is %q, which is the agent on the owner's side, want another", name)
	}
	return nil
}

func (s Shapes) check() error {
	if len(s.VCPUs) == 0 || len(s.CPUTypes) == 0 {
		return errors.New("shapes has no vcpus or no cpu_types, want one of each at least")
	}
	for i, n := range s.VCPUs {
		if n < 1 || n > launch.MaxVCPUs || slices.Contains(s.VCPUs[:i], n) {
			return fmt.Errorf("shapes.vcpus has %d, want different counts from 1 to %d", n, launch.MaxVCPUs)
		}
	}
	for i, name := range s.CPUTypes {
		if _, err := launch.LookupCPU(name); err != nil {
			return fmt.Errorf("shapes.cpu_types: %w", err)
		}
		if slices.Contains(s.CPUTypes[:i], name) {
			return fmt.Errorf("shapes.cpu_types has %q twice", name)
		}
	}
	return nil
}

func (t Trust) check() error {
	var errs []error
	switch {
	case t.Root != "amd" && t.Root != "emulated":
		errs = append(errs, fmt.Errorf("trust.root is %q, want amd or emulated", t.Root))
	case (t.ARK != "") != (t.Root == "emulated"):
		errs = append(errs, fmt.Errorf("trust.ark is %q with the root %s: the certificate of an ARK goes with emulated, and AMD's own are built in", t.ARK, t.Root))
	case (t.ReportDevice == bootconfig.ReportVirtioPort) != (t.Root == "emulated"):
		errs = append(errs, fmt.Errorf("trust.report_device is %q with the root %s: %s is the emulated platform's", t.ReportDevice, t.Root, bootconfig.ReportVirtioPort))
	case t.Root == "amd" && len(t.Products) == 0:
		errs = append(errs, errors.New("trust.products is missing: AMD as the root of trust takes the processors that are accepted, each with its minimum TCB or any"))
	}
	if t.HeaderPin != "measured" && t.HeaderPin != "key-server" {
		errs = append(errs, fmt.Errorf("trust.header_pin is %q, want measured or key-server", t.HeaderPin))
	}
	if _, err := t.products(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// checkVolumes checks what can be said without the pins; Build does the rest.
func (vm *VM) checkVolumes() error {
	if len(vm.Volumes) > bootconfig.MaxVolumes {
		return fmt.Errorf("volumes has %d, want at most %d", len(vm.Volumes), bootconfig.MaxVolumes)
	}
	var errs []error
	for i, v := range vm.Volumes {
		if v.Pins == "" {
			errs = append(errs, fmt.Errorf("volumes: pins of volume %d is empty", i))
		}
		if v.Writers != "exclusive" && v.Writers != "takeover" {
			errs = append(errs, fmt.Errorf("volumes: writers of volume %d is %q, want exclusive or takeover", i, v.Writers))
		}
		if v.Unclean != "refuse" && v.Unclean != "accept" {
			errs = append(errs, fmt.Errorf("volumes: unclean of volume %d is %q, want refuse or accept", i, v.Unclean))
		}
	}
	return errors.Join(errs...)
}

func (t Trust) products() (all []refval.Product, err error) {
	var names []snp.Product
	for _, text := range t.Products {
		p, err := refval.ParseProduct(text)
		if err != nil {
			return nil, fmt.Errorf("trust.products: %w", err)
		}
		if slices.Contains(names, p.Name) {
			return nil, fmt.Errorf("trust.products has %s twice", p.Name)
		}
		names, all = append(names, p.Name), append(all, p)
	}
	return all, nil
}

func (vm *VM) commandLine() string {
	needed := append(initramfs.DriverNames(vm.Kernel.Drivers), vm.Kernel.Modules...)
	return strings.Join(append([]string{cmdline.Default(needed...)}, vm.CommandLine...), " ")
}

// Emulated reports whether the VM is one of the emulated platform.
func (vm *VM) Emulated() bool { return vm.Trust.Root == "emulated" }

// parseSize reads bytes; "" is 0.
func parseSize(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	return bytesize.Parse(text)
}
