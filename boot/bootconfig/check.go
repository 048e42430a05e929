package bootconfig

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/pins"
)

// Limits of the trust root.
const (
	maxTrustRootCertificates = 8
	maxTrustRootSize         = 64 << 10 // bytes of PEM
)

// maxNameservers is MAXNS of resolv.conf(5).
const maxNameservers = 3

// Check returns every fault of c at once, or nil. Decode and Encode call it.
//
// An address is "host:port". The host is an IPv4 address in dotted decimal, an
// IPv6 address in RFC 5952 form inside brackets, or a DNS name of letters,
// digits, hyphens and dots whose last label is not a number. The port is
// decimal, 1 to 65535, without leading zeros.
func (c Config) Check() error {
	var errs []error
	add := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("checking %s: %v", name, err))
		}
	}
	if c.Version != Version {
		errs = append(errs, fmt.Errorf("version is %d, want %d", c.Version, Version))
	}
	add("trust_domain", CheckTrustDomain(c.TrustDomain))
	add("spire.addresses", checkAddresses(c.SPIRE.Addresses))
	add("spire.trust_root", checkTrustRoot(c.SPIRE.TrustRoot))
	add("kms.addresses", checkAddresses(c.KMS.Addresses))
	add("kms.spiffe_id", CheckSPIFFEID(c.KMS.SPIFFEID, c.TrustDomain))
	add("disk", c.Disk.check())
	add("volumes", c.checkVolumes())
	add("network", c.Network.check())
	if c.Network.Mode == NetworkStatic && len(c.Network.Nameservers) == 0 {
		for _, address := range c.SPIRE.Addresses {
			add("spire.addresses", checkNoLookup(address))
		}
		for _, address := range c.KMS.Addresses {
			add("kms.addresses", checkNoLookup(address))
		}
	}
	add("command_line", cmdline.Check(c.CommandLine))
	add("report_device", checkOneOf(c.ReportDevice, ReportConfigfsTSM, ReportSEVGuest, ReportVirtioPort))
	add("gate", checkGate(c.Gate))
	add("verification", checkOneOf(c.Verification, VerificationFull, VerificationLazy))
	add("clock_floor", checkClockFloor(c.ClockFloor))
	add("devices", checkOneOf(c.Devices, DevicesOwn, DevicesAny))
	return errors.Join(errs...)
}

// checkAddresses takes one to MaxAddresses addresses, none of them twice.
func checkAddresses(all []string) error {
	if len(all) == 0 || len(all) > MaxAddresses {
		return fmt.Errorf("got %d addresses, want 1 to %d", len(all), MaxAddresses)
	}
	for i, address := range all {
		if err := CheckAddress(address); err != nil {
			return err
		}
		if slices.Contains(all[:i], address) {
			return fmt.Errorf("address %q occurs twice", address)
		}
	}
	return nil
}

func (d Disk) check() error {
	var errs []error
	if err := d.Verity.Check(); err != nil {
		errs = append(errs, err)
	}
	if err := new(pins.Filesystem).UnmarshalText([]byte(d.Filesystem)); err != nil {
		errs = append(errs, err)
	}
	if err := d.Init.CheckBoots(); err != nil {
		errs = append(errs, err)
	}
	if d.Header != nil {
		if err := d.Header.Check(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (n Network) check() error {
	switch n.Mode {
	case NetworkDHCP:
		if n.Address.IsValid() || n.Gateway.IsValid() || len(n.Nameservers) != 0 {
			return fmt.Errorf("mode is %q, want no address, gateway or nameservers with it", n.Mode)
		}
		return nil
	case NetworkStatic:
		return n.checkStatic()
	}
	return fmt.Errorf("mode is %q, want %q or %q", n.Mode, NetworkDHCP, NetworkStatic)
}

func (n Network) checkStatic() error {
	if !n.Address.IsValid() {
		return errors.New(`address is missing, want one like "192.0.2.10/24"`)
	}
	own := n.Address.Addr()
	if err := checkUnicast(own); err != nil {
		return fmt.Errorf("checking address: %v", err)
	}
	if n.Address.Bits() == 0 {
		return fmt.Errorf("address is %q, want a prefix of at least one bit", n.Address)
	}
	if n.Gateway.IsValid() {
		if err := checkUnicast(n.Gateway); err != nil {
			return fmt.Errorf("checking gateway: %v", err)
		}
		if !n.Address.Contains(n.Gateway) || n.Gateway == own {
			return fmt.Errorf("gateway is %q, want another address of %s", n.Gateway, n.Address.Masked())
		}
	}
	if len(n.Nameservers) > maxNameservers {
		return fmt.Errorf("got %d nameservers, want at most %d", len(n.Nameservers), maxNameservers)
	}
	for i, ns := range n.Nameservers {
		if err := checkUnicast(ns); err != nil {
			return fmt.Errorf("checking nameserver %d: %v", i, err)
		}
	}
	return nil
}

// checkUnicast accepts an address that a machine on a network can have.
func checkUnicast(a netip.Addr) error {
	broadcast := a.Is4() && a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if !a.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || broadcast {
		return fmt.Errorf("address is %q, want a unicast address without a zone", a)
	}
	return nil
}

func checkGate(s string) error {
	if err := new(pins.Digest).UnmarshalText([]byte(s)); err != nil && s != GateNone {
		return fmt.Errorf("value is %q, want the ID of a gate, 64 hex digits, or %q", s, GateNone)
	}
	return nil
}

func checkOneOf(got string, want ...string) error {
	if !slices.Contains(want, got) {
		return fmt.Errorf("value is %q, want one of %q", got, want)
	}
	return nil
}

// checkClockFloor accepts years that every date format in use can express: X.509
// (RFC 5280, section 4.1.2.5) and RFC 3339 both end with 9999.
func checkClockFloor(t time.Time) error {
	if _, offset := t.Zone(); offset != 0 || t.Nanosecond() != 0 {
		return fmt.Errorf("time is %s, want whole seconds in UTC", t.Format(time.RFC3339Nano))
	}
	if y := t.Year(); y < 2020 || y > 9999 {
		return fmt.Errorf("year is %d, want 2020 to 9999", y)
	}
	return nil
}

// checkTrustRoot accepts certificates in canonical PEM and nothing around them. It
// does not parse the certificates, so PID 1 links no X.509. Package initramfs,
// which makes the configuration, and the SPIRE agent judge them.
func checkTrustRoot(s string) error {
	if s == "" {
		return errors.New("PEM is empty, want at least one certificate")
	}
	if len(s) > maxTrustRootSize {
		return fmt.Errorf("size is %d bytes, want at most %d", len(s), maxTrustRootSize)
	}
	var canonical bytes.Buffer
	n := 0
	for rest := []byte(s); len(rest) > 0; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return errors.New("PEM is malformed or has trailing data")
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) != 0 || len(block.Bytes) == 0 {
			return fmt.Errorf("PEM block %d is %q with %d headers and %d bytes, want a CERTIFICATE without headers",
				n, block.Type, len(block.Headers), len(block.Bytes))
		}
		if err := pem.Encode(&canonical, block); err != nil {
			return fmt.Errorf("encoding PEM block %d: %v", n, err)
		}
	}
	if n > maxTrustRootCertificates {
		return fmt.Errorf("got %d certificates, want at most %d", n, maxTrustRootCertificates)
	}
	if canonical.String() != s {
		return errors.New("PEM is not canonical, want lines of 64 characters ended by a newline, and nothing around the blocks")
	}
	return nil
}
