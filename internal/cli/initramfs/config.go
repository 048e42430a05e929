package initramfs

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/filekind"
	"github.com/rootvouch/rootvouch/volume"
)

type configFlags struct {
	config                       bootconfig.Config
	trustRoot, pinsFile          string
	noHeaderPin, bareKernel      bool
	address, gateway, clockFloor string
	nameservers, volumes         []string
	drivers                      []string
	out                          cli.Output
}

func newConfigCommand() *cobra.Command {
	var f configFlags
	cmd := &cobra.Command{
		Use: "config --trust-domain NAME --spire-address HOST:PORT --trust-root PEM --kms-address HOST:PORT " +
			"--pins PINS --report-device KIND --out FILE",
		Short: "Make a boot.json",
		Long: `Make the boot configuration of a guest, boot.json.

The launch digest covers all of it: a changed setting changes the digest. The trust root
is the long-lived root of the trust domain (rootvouch spire init makes one). Do not
give the certificate of a SPIRE server, which expires within a day: each certificate
must be self-signed and valid for at least 30 days. The pins come from rootvouch
image build. With --no-header-pin the pin of the LUKS2 header comes from the key
server, so that the disk can be rekeyed without a new measurement. The file is no
secret: everybody with the initramfs can read it.

The file also has the kernel's command line. If the kernel shows another line, PID 1
powers off. So a line that was cut or changed on its way takes no effect. The default
line disables drivers that kernels have built in and that the guest does not need, such
as NVMe. Give the same --drivers here as to "initramfs build".

The kernel is one from "gate build": PID 1 compares the ACPI and EFI tables with
those of the gate, and powers off on any difference. --` + cli.BareKernelFlag + ` is
for a bare kernel, which takes its tables from the host.

The report device is configfs-tsm or sev-guest on real hardware, and virtio-port
on the emulated platform, which is NOT CONFIDENTIAL.`,
		Example: `  rootvouch initramfs config --trust-domain example.org \
    --spire-address spire.example.org:8081 --trust-root root.pem \
    --kms-address kms.example.org:8443 --pins pins.json \
    --report-device configfs-tsm --out boot.json`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, time.Now()) },
	}
	c, flags := &f.config, cmd.Flags()
	flags.StringVar(&c.TrustDomain, "trust-domain", "", "SPIFFE trust domain (of the guest, the SPIRE server and the key server)")
	flags.StringArrayVar(&c.SPIRE.Addresses, "spire-address", nil, "SPIRE server, host:port (repeatable: tried in turn)")
	flags.StringVar(&f.trustRoot, "trust-root", "", "PEM file with the root certificates of the trust domain")
	flags.StringArrayVar(&c.KMS.Addresses, "kms-address", nil, "key server, host:port (repeatable: tried in turn)")
	flags.StringVar(&c.KMS.SPIFFEID, "kms-spiffe-id", "", "SPIFFE ID of the key server (default: spiffe://TRUST-DOMAIN/kms)")
	flags.StringVar(&f.pinsFile, "pins", "", "pins of the disk")
	flags.StringArrayVar(&f.volumes, "mount", nil, "volume that the guest mounts, as PINS:MOUNT-POINT[:FILESYSTEM] (ext4, the default, xfs or btrfs; repeatable, in the order of mounting)")
	flags.BoolVar(&f.noHeaderPin, "no-header-pin", false, "leave the pin of the LUKS2 header to the key server")
	flags.StringVar(&c.Network.Mode, "network", bootconfig.NetworkDHCP, "dhcp or static")
	flags.StringVar(&f.address, "guest-address", "", "static: the guest's address with its prefix length")
	flags.StringVar(&f.gateway, "gateway", "", "static: next hop of the default route")
	flags.StringArrayVar(&f.nameservers, "nameserver", nil, "static: address of a name server (repeatable)")
	flags.StringVar(&c.CommandLine, "append", cmdline.Default(), "kernel command line")
	flags.StringSliceVar(&f.drivers, "drivers", nil, "drivers for "+strings.Join(initramfs.DriverTargets(), ", ")+" (repeatable, or a list with commas)")
	flags.StringVar(&c.ReportDevice, "report-device", "", "configfs-tsm, sev-guest or virtio-port")
	cli.BareKernel(cmd, &f.bareKernel)
	flags.StringVar(&c.Verification, "verification", bootconfig.VerificationFull, "full (the whole disk is read before the switch) or lazy")
	flags.StringVar(&f.clockFloor, "clock-floor", "", "the earliest time that the guest's clock shows, RFC 3339 (default: now)")
	flags.StringVar(&c.Devices, "devices", bootconfig.DevicesOwn, "own: after the switch no kernel module, no new device and no disk but the root's; any: leave that to the booted system")
	flags.BoolVar(&c.ConsoleLogin, "console-login", false, "let the booted system offer a login on the console, which is the host's")
	flags.BoolVar(&c.Console, "console", true, "show the steps of the boot on the console")
	f.out.Bind(cmd, "boot.json")
	command.Choices(cmd, "report-device", bootconfig.ReportConfigfsTSM, bootconfig.ReportSEVGuest, bootconfig.ReportVirtioPort)
	command.Choices(cmd, "verification", bootconfig.VerificationFull, bootconfig.VerificationLazy)
	command.Choices(cmd, "network", bootconfig.NetworkDHCP, bootconfig.NetworkStatic)
	command.Choices(cmd, "devices", bootconfig.DevicesOwn, bootconfig.DevicesAny)
	cmd.MarkFlagsMutuallyExclusive("append", "drivers")
	command.Require(cmd, "trust-domain", "spire-address", "trust-root", "kms-address", "pins", "report-device")
	return cmd
}

func (f *configFlags) run(cmd *cobra.Command, now time.Time) error {
	for flag, addresses := range map[string][]string{"spire-address": f.config.SPIRE.Addresses, "kms-address": f.config.KMS.Addresses} {
		if err := initramfs.CheckReachable("--"+flag, addresses); err != nil {
			return command.Usage(err)
		}
	}
	c, err := f.build(now)
	if err != nil {
		return err
	}
	text, err := c.Encode()
	if err != nil {
		return command.Usage(err)
	}
	if err := initramfs.CheckTrustRoot(c); err != nil {
		return err
	}
	if c.ClockFloor.After(now.Add(clockTolerance)) {
		return command.Usage(fmt.Errorf("--clock-floor is %s, want now or earlier: until then the guest takes every SVID for expired", c.ClockFloor.Format(time.RFC3339)))
	}
	end, err := initramfs.TrustRootEnd(c.SPIRE.TrustRoot)
	if err != nil {
		return err
	}
	cli.SayEmulated(cmd, c.Emulated())
	if err := f.out.Write(text); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "trust root: valid until %s (%d days)\n", end.UTC().Format(time.RFC3339), int(end.Sub(now).Hours()/24))
	return err
}

// clockTolerance is how far the clock of the machine that gave a clock floor may be ahead of
// ours.
const clockTolerance = time.Hour

// build reads the files that the flags name. Package bootconfig judges the result.
func (f *configFlags) build(now time.Time) (bootconfig.Config, error) {
	c := f.config
	c.Version = bootconfig.Version
	for _, target := range f.drivers {
		if _, err := initramfs.Drivers(target); err != nil {
			return bootconfig.Config{}, command.Usage(err)
		}
	}
	if len(f.drivers) > 0 {
		c.CommandLine = cmdline.Default(initramfs.DriverNames(f.drivers)...)
	}
	c.Gate = gate.ID().String()
	if f.bareKernel {
		c.Gate = bootconfig.GateNone
	}
	if c.KMS.SPIFFEID == "" {
		c.KMS.SPIFFEID = "spiffe://" + c.TrustDomain + "/kms"
	}
	root, err := os.ReadFile(f.trustRoot)
	if err == nil {
		c.SPIRE.TrustRoot, err = initramfs.ReadTrustRoot(root)
	}
	if err != nil {
		return bootconfig.Config{}, cli.Unfit(f.trustRoot, filekind.PEM, err)
	}
	p, err := cli.ReadPins(f.pinsFile)
	if err != nil {
		return bootconfig.Config{}, err
	}
	c.Disk = bootconfig.NewDisk(p, !f.noHeaderPin)
	for _, s := range f.volumes {
		v, err := parseVolume(s)
		if err != nil {
			return bootconfig.Config{}, err
		}
		c.Volumes = append(c.Volumes, v)
	}
	c.ClockFloor = now.UTC().Truncate(time.Second)
	if f.clockFloor != "" {
		if c.ClockFloor, err = time.Parse(time.RFC3339, f.clockFloor); err != nil {
			return bootconfig.Config{}, command.Usage(fmt.Errorf("--clock-floor is %q, want RFC 3339, such as %s", f.clockFloor, now.UTC().Format(time.RFC3339)))
		}
		c.ClockFloor = c.ClockFloor.UTC()
	}
	if c.Network, err = f.network(); err != nil {
		return bootconfig.Config{}, command.Usage(err)
	}
	return c, nil
}

// parseVolume reads PINS:MOUNT-POINT[:FILESYSTEM].
func parseVolume(s string) (bootconfig.Volume, error) {
	parts := strings.Split(s, ":")
	if len(parts) == 2 {
		parts = append(parts, string(bootconfig.Ext4))
	}
	if len(parts) != 3 || parts[0] == "" {
		return bootconfig.Volume{}, command.Usage(fmt.Errorf("--mount is %q, want PINS:MOUNT-POINT[:FILESYSTEM]", s))
	}
	data, err := cli.ReadInput(parts[0], 4<<10)
	if err != nil {
		return bootconfig.Volume{}, err
	}
	p, err := volume.DecodePins(data)
	if err != nil {
		return bootconfig.Volume{}, fmt.Errorf("%s: %w", parts[0], err)
	}
	v := bootconfig.Volume{UUID: p.DiskUUID, MountPoint: parts[1], Filesystem: bootconfig.VolumeFilesystem(parts[2])}
	if err := v.Filesystem.CheckSize(p.DataSize()); err != nil {
		return bootconfig.Volume{}, fmt.Errorf("%s: %w", parts[0], err)
	}
	return v, nil
}

func (f *configFlags) network() (n bootconfig.Network, err error) {
	var errs []error
	n = f.config.Network
	if f.address != "" {
		if n.Address, err = netip.ParsePrefix(f.address); err != nil {
			errs = append(errs, fmt.Errorf("--guest-address is %q, want an address with its prefix length, such as 192.0.2.10/24", f.address))
		}
	}
	if f.gateway != "" {
		if n.Gateway, err = netip.ParseAddr(f.gateway); err != nil {
			errs = append(errs, fmt.Errorf("--gateway is %q, want an address, such as 192.0.2.1", f.gateway))
		}
	}
	for _, s := range f.nameservers {
		ns, err := netip.ParseAddr(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("--nameserver is %q, want an address, such as 192.0.2.53", s))
		}
		n.Nameservers = append(n.Nameservers, ns)
	}
	return n, errors.Join(errs...)
}
