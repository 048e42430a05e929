// Package bootconfig reads and writes boot.json, the measured configuration of a
// rootvouch guest.
//
// boot.json is part of the initramfs, so the launch digest covers every byte of it.
// A changed setting changes the measurement, and the VM gets no key. Nothing that
// arrives later replaces a setting. docs/spec/bootconfig.md describes the format.
//
// The file is public: it holds no secret, and the host can read it.
//
// Strings are checked against narrow alphabets. PID 1 writes some of them into other
// files (the SPIRE agent's HCL, resolv.conf), where they can carry no quote, line
// break, interpolation or option.
package bootconfig

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
)

// Version is the only version of boot.json.
const Version = 1

// MaxSize is the size in bytes above which Decode refuses a boot.json.
const MaxSize = 128 << 10

// MaxAddresses is how many addresses a server may have.
const MaxAddresses = 8

// Values of Config.ReportDevice: where the guest gets attestation reports.
const (
	ReportConfigfsTSM = "configfs-tsm" // /sys/kernel/config/tsm/report, Linux 6.7 and later
	ReportSEVGuest    = "sev-guest"    // ioctls of /dev/sev-guest
	ReportVirtioPort  = "virtio-port"  // the software AMD-SP of the emulated platform: NOT CONFIDENTIAL
)

// Values of Config.Verification.
const (
	VerificationFull = "full" // every block is read through dm-verity before the switch
	VerificationLazy = "lazy" // blocks are checked only when something reads them
)

// Values of Config.Devices: which devices of the host the booted system may use.
const (
	// DevicesOwn leaves the booted system the devices that it has at the switch,
	// but only the VM's own disks. After the switch no kernel module can be loaded,
	// no device gets a driver, and fstab and the like mount nothing.
	DevicesOwn = "own"
	// DevicesAny leaves modules, devices and disks to the booted system.
	DevicesAny = "any"
)

// GateNone is the value of Config.Gate for a kernel that is not behind the gate.
const GateNone = "none"

// Values of Network.Mode.
const (
	NetworkDHCP   = "dhcp"
	NetworkStatic = "static"
)

// Config is one boot.json. The zero value is not valid: every field without a
// documented default must be set, and nothing in it means "unchecked".
type Config struct {
	// Version is 1.
	Version int `json:"version"`
	// TrustDomain is the SPIFFE trust domain name, without "spiffe://".
	TrustDomain string `json:"trust_domain"`
	SPIRE       SPIRE  `json:"spire"`
	KMS         KMS    `json:"kms"`
	Disk        Disk   `json:"disk"`
	// Volumes are the disks that the VM writes, in the order of mounting. A
	// configuration without volumes lacks the member.
	Volumes []Volume `json:"volumes,omitempty"`
	// Network is how PID 1 configures the first network interface.
	Network Network `json:"network"`
	// CommandLine is the kernel's command line. PID 1 refuses a kernel that shows
	// another.
	CommandLine string `json:"command_line"`
	// ReportDevice is one of ReportConfigfsTSM, ReportSEVGuest, ReportVirtioPort.
	ReportDevice string `json:"report_device"`
	// Gate is the ID of the gate before the kernel, 64 hex digits, or GateNone: the
	// kernel then runs the ACPI code of its host.
	Gate string `json:"gate"`
	// Verification is VerificationFull or VerificationLazy.
	Verification string `json:"verification"`
	// ClockFloor is a time that has passed when the configuration is made: UTC,
	// whole seconds. The host sets the guest's clock. If the clock shows an earlier
	// time, PID 1 sets it to the floor, so certificates that expired before the
	// floor stay expired.
	ClockFloor time.Time `json:"clock_floor"`
	// Console says whether PID 1 writes its steps to the console. A refusal is
	// always written.
	Console bool `json:"console"`
	// ConsoleLogin says whether the booted system may offer a login on the
	// console, which is the host's.
	ConsoleLogin bool `json:"console_login"`
	// Devices is DevicesOwn or DevicesAny.
	Devices string `json:"devices"`
}

// SPIRE says which SPIRE server the agent attests to.
type SPIRE struct {
	// Addresses are the server's, tried in turn: one to MaxAddresses, each
	// "host:port" and different; see Config.Check for the grammar.
	Addresses []string `json:"addresses"`
	// TrustRoot is one or more certificates in canonical PEM: the long-lived
	// roots of the trust domain, which outlive the SPIRE server's own daily CA.
	TrustRoot string `json:"trust_root"`
}

// KMS says where the key server is, and which identity it must prove.
type KMS struct {
	// Addresses are the key server's, tried in turn: one to MaxAddresses, each
	// "host:port" and different; see Config.Check for the grammar.
	Addresses []string `json:"addresses"`
	// SPIFFEID is the SPIFFE ID of the key server, a member of TrustDomain.
	SPIFFEID string `json:"spiffe_id"`
}

// Disk pins the root filesystem.
type Disk struct {
	// Verity is always present. Nothing that comes with the key replaces it.
	pins.Verity
	// Filesystem is the filesystem of the payload.
	Filesystem pins.Filesystem `json:"filesystem"`
	// Init describes the root's /sbin/init as the builder saw it. PID 1 refuses a
	// bad init before it asks for a key.
	Init pins.Init `json:"init"`
	// Header pins the LUKS2 header, or is nil. If it is nil, the key server's reply
	// must have the pin, and PID 1 refuses a reply without one. If both are there,
	// they must be equal.
	Header *pins.Header `json:"header,omitempty"`
}

// Volume is a disk that the VM writes: encrypted, authentic and fresh. The pin of
// its header and the digest of its contents come with its key.
type Volume struct {
	UUID pins.UUID `json:"uuid"`
	// MountPoint is the path of the mounted volume in the booted system: absolute
	// and clean.
	MountPoint string `json:"mount_point"`
	// Filesystem is the volume's filesystem. The root's own mkfs makes it on a new
	// volume.
	Filesystem VolumeFilesystem `json:"filesystem"`
}

// VolumeFilesystem is the kernel's name of a filesystem that a volume can hold.
type VolumeFilesystem string

// The filesystems of volumes.
const (
	Ext4  VolumeFilesystem = "ext4"
	XFS   VolumeFilesystem = "xfs"
	Btrfs VolumeFilesystem = "btrfs"
)

// Network is how PID 1 configures the first network interface.
type Network struct {
	// Mode is NetworkDHCP or NetworkStatic. The other fields belong to
	// NetworkStatic and must be absent with NetworkDHCP.
	Mode string `json:"mode"`
	// Address is the interface's own address with the length of its prefix.
	Address netip.Prefix `json:"address,omitzero"`
	// Gateway is the default route's next hop, on the interface's own network.
	// Without a gateway the guest reaches only that network.
	Gateway netip.Addr `json:"gateway,omitzero"`
	// Nameservers holds at most three, the limit of resolv.conf(5). If an address
	// of SPIRE or the KMS is a name, it must hold at least one.
	Nameservers []netip.Addr `json:"nameservers,omitempty"`
}

// NewDisk returns the Disk of a disk's pins. If withHeader is false, the pin of the
// LUKS2 header comes from the key server, so a disk can be rekeyed under the same
// measurement.
func NewDisk(p pins.Pins, withHeader bool) Disk {
	d := Disk{Verity: p.Verity, Filesystem: p.Filesystem, Init: p.Init}
	if withHeader {
		header := p.Header
		d.Header = &header
	}
	return d
}

// Emulated reports whether the reports come from the software AMD-SP, so that
// nothing in this guest is confidential.
func (c Config) Emulated() bool { return c.ReportDevice == ReportVirtioPort }

// Decode reads a boot.json: strict JSON, with every value checked as by Check.
// White space and the order of members are free; Encode gives the one form that
// goes into an initramfs.
func Decode(data []byte) (Config, error) {
	if len(data) > MaxSize {
		return Config{}, fmt.Errorf("decoding boot configuration: size is %d bytes, want at most %d", len(data), MaxSize)
	}
	var c Config
	if err := strictjson.Unmarshal(data, &c); err != nil {
		return Config{}, fmt.Errorf("decoding boot configuration: %v", err)
	}
	if err := c.Check(); err != nil {
		return Config{}, fmt.Errorf("decoding boot configuration: %v", err)
	}
	return c, nil
}

// Encode checks c and returns its canonical form: indented by two spaces,
// members in the order of the type, a newline at the end.
func (c Config) Encode() ([]byte, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("encoding boot configuration: %v", err)
	}
	data, err := strictjson.MarshalIndent(c)
	if err != nil {
		return nil, fmt.Errorf("encoding boot configuration: %v", err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("encoding boot configuration: size is %d bytes, want at most %d", len(data), MaxSize)
	}
	return data, nil
}
