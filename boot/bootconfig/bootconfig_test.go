package bootconfig

import (
	"encoding/json"
	"encoding/pem"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/pins"
)

func samplePins() pins.Pins {
	return pins.New(
		pins.Verity{RootHash: pins.Digest{1}, Salt: pins.HexBytes{2}, DataBlocks: 10, HashOffset: 40960, PayloadOffset: 1 << 20, PayloadSize: 49152},
		pins.Header{DiskUUID: pins.UUID{4}, HeaderSHA256: pins.Digest{5}},
		pins.EROFS, pins.InitOK)
}

func certificatePEM(n int) string {
	body := make([]byte, n)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: body}))
}

func sample() Config {
	return Config{
		Version:      Version,
		TrustDomain:  "example.org",
		SPIRE:        SPIRE{Addresses: []string{"10.0.2.2:8081"}, TrustRoot: certificatePEM(100)},
		KMS:          KMS{Addresses: []string{"[2001:db8::1]:8443"}, SPIFFEID: "spiffe://example.org/kms"},
		Disk:         NewDisk(samplePins(), true),
		Network:      Network{Mode: NetworkDHCP},
		CommandLine:  cmdline.Default(),
		ReportDevice: ReportVirtioPort,
		Gate:         strings.Repeat("9a", 32),
		Verification: VerificationFull,
		ClockFloor:   time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		Console:      true,
		Devices:      DevicesOwn,
	}
}

func sampleStatic() Config {
	c := sample()
	c.Network = Network{
		Mode:        NetworkStatic,
		Address:     netip.MustParsePrefix("192.0.2.10/24"),
		Gateway:     netip.MustParseAddr("192.0.2.1"),
		Nameservers: []netip.Addr{netip.MustParseAddr("192.0.2.53")},
	}
	c.Disk = NewDisk(samplePins(), false)
	return c
}

func mustEncode(t testing.TB, c Config) []byte {
	t.Helper()
	data, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRoundTrip(t *testing.T) {
	for _, want := range []Config{sample(), sampleStatic()} {
		data := mustEncode(t, want)
		got, err := Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		compare := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
		if diff := cmp.Diff(want, got, compare, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Error(diff)
		}
		if again := mustEncode(t, got); string(again) != string(data) {
			t.Errorf("got %s, want %s", again, data)
		}
	}
}

func TestEmulated(t *testing.T) {
	c := sample()
	if !c.Emulated() {
		t.Error("virtio-port is not emulated")
	}
	c.ReportDevice = ReportConfigfsTSM
	if c.Emulated() {
		t.Error("configfs-tsm is emulated")
	}
}

// TestDecodeRefusesText changes the text as a person could who writes the file by
// hand.
func TestDecodeRefusesText(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"unknown member", `"version": 1,`, `"version": 1, "debug": true,`, "unknown member"},
		{"other case", `"console"`, `"Console"`, "unknown member"},
		{"missing member", `,
  "console": true`, ``, `"console": missing`},
		{"twice", `"version": 1,`, `"version": 1, "version": 1,`, "twice"},
		{"version", `"version": 1`, `"version": 2`, "version is 2, want 1"},
		{"null header", `"header": {`, `"header": null, "x": {`, "null"},
		{"half a header", `"disk_uuid": "04000000-0000-0000-0000-000000000000",`, ``, "disk_uuid"},
		{"pins", `"data_blocks": 10`, `"data_blocks": 11`, "hash_offset"},
		{"clock floor", `12:00:00Z`, `12:00:00+01:00`, "UTC"},
		{"clock floor fraction", `12:00:00Z`, `12:00:00.5Z`, "whole seconds"},
		{"clock floor year", `2026-11`, `1999-11`, "year is 1999"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := string(mustEncode(t, sample()))
			if !strings.Contains(text, c.old) {
				t.Fatalf("sample has no %q:\n%s", c.old, text)
			}
			_, err := Decode([]byte(strings.Replace(text, c.old, c.new, 1)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := Decode(append(mustEncode(t, sample()), "{}"...)); err == nil {
		t.Error("got no error for trailing data")
	}
	if _, err := Decode(make([]byte, MaxSize+1)); err == nil || !strings.Contains(err.Error(), "size") {
		t.Errorf("got error %v, want one about the size", err)
	}
}

// TestCheckRefuses changes one value; Encode must refuse it, and Decode as well.
func TestCheckRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"empty trust domain", func(c *Config) { c.TrustDomain = "" }, "trust_domain"},
		{"trust domain quote", func(c *Config) { c.TrustDomain = `a"b` }, "trust_domain"},
		{"trust domain interpolation", func(c *Config) { c.TrustDomain = "${HOME}" }, "trust_domain"},
		{"trust domain upper case", func(c *Config) { c.TrustDomain = "Example.org" }, "trust_domain"},
		{"trust domain newline", func(c *Config) { c.TrustDomain = "a\nb" }, "trust_domain"},
		{"trust domain long", func(c *Config) { c.TrustDomain = strings.Repeat("a", 256) }, "256 bytes"},
		{"spire address", func(c *Config) { c.SPIRE.Addresses[0] = "spire" }, "spire.addresses"},
		{"kms address", func(c *Config) { c.KMS.Addresses[0] = "kms:0" }, "kms.addresses"},
		{"no kms address", func(c *Config) { c.KMS.Addresses = nil }, "kms.addresses: got 0 addresses"},
		{"too many", func(c *Config) { c.SPIRE.Addresses = make([]string, MaxAddresses+1) }, "spire.addresses: got 9 addresses"},
		{"an address twice", func(c *Config) { c.KMS.Addresses = append(c.KMS.Addresses, "k:1", "k:1") }, `kms.addresses: address "k:1" occurs twice`},
		{"other trust domain", func(c *Config) { c.KMS.SPIFFEID = "spiffe://example.com/kms" }, `want "example.org"`},
		{"no path", func(c *Config) { c.KMS.SPIFFEID = "spiffe://example.org" }, "want a path"},
		{"empty path", func(c *Config) { c.KMS.SPIFFEID = "spiffe://example.org/" }, "segment"},
		{"parent path", func(c *Config) { c.KMS.SPIFFEID = "spiffe://example.org/a/../kms" }, "segment"},
		{"trailing slash", func(c *Config) { c.KMS.SPIFFEID = "spiffe://example.org/kms/" }, "segment"},
		{"path quote", func(c *Config) { c.KMS.SPIFFEID = `spiffe://example.org/k"ms` }, "in its path"},
		{"path escape", func(c *Config) { c.KMS.SPIFFEID = `spiffe://example.org/k%6ds` }, "in its path"},
		{"query", func(c *Config) { c.KMS.SPIFFEID = `spiffe://example.org/kms?a` }, "in its path"},
		{"scheme", func(c *Config) { c.KMS.SPIFFEID = `SPIFFE://example.org/kms` }, "scheme"},
		{"userinfo", func(c *Config) { c.KMS.SPIFFEID = `spiffe://me@example.org/kms` }, "trust domain"},
		{"SPIFFE ID long", func(c *Config) { c.KMS.SPIFFEID = "spiffe://example.org/" + strings.Repeat("a", 2048) }, "at most 2048"},
		{"no trust root", func(c *Config) { c.SPIRE.TrustRoot = "" }, "empty"},
		{"trust root key", func(c *Config) {
			c.SPIRE.TrustRoot = strings.ReplaceAll(c.SPIRE.TrustRoot, "CERTIFICATE", "PRIVATE KEY")
		}, "PRIVATE KEY"},
		{"trust root prefix", func(c *Config) { c.SPIRE.TrustRoot = "x\n" + c.SPIRE.TrustRoot }, "canonical"},
		{"trust root suffix", func(c *Config) { c.SPIRE.TrustRoot += "x" }, "trailing"},
		{"trust root CRLF", func(c *Config) { c.SPIRE.TrustRoot = strings.ReplaceAll(c.SPIRE.TrustRoot, "\n", "\r\n") }, "canonical"},
		{"trust root headers", func(c *Config) {
			c.SPIRE.TrustRoot = strings.Replace(c.SPIRE.TrustRoot, "-\n", "-\nA: b\n\n", 1)
		}, "headers"},
		{"trust roots", func(c *Config) { c.SPIRE.TrustRoot = strings.Repeat(certificatePEM(9), 9) }, "at most 8"},
		{"trust root size", func(c *Config) { c.SPIRE.TrustRoot = certificatePEM(64 << 10) }, "at most 65536"},
		{"zero pins", func(c *Config) { c.Disk = Disk{} }, "verity_root_hash"},
		{"zero header", func(c *Config) { c.Disk.Header = &pins.Header{} }, "disk_uuid"},
		{"filesystem", func(c *Config) { c.Disk.Filesystem = "vfat" }, "vfat"},
		{"no network", func(c *Config) { c.Network = Network{} }, "network"},
		{"dhcp with address", func(c *Config) { c.Network.Address = netip.MustParsePrefix("10.0.0.1/8") }, "network"},
		{"static without address", func(c *Config) { c.Network.Mode = NetworkStatic }, "address is missing"},
		{"gateway elsewhere", func(c *Config) {
			*c = sampleStatic()
			c.Network.Gateway = netip.MustParseAddr("198.51.100.1")
		}, "gateway"},
		{"own gateway", func(c *Config) { *c = sampleStatic(); c.Network.Gateway = c.Network.Address.Addr() }, "gateway"},
		{"multicast", func(c *Config) { *c = sampleStatic(); c.Network.Address = netip.MustParsePrefix("224.0.0.1/8") }, "unicast"},
		{"whole internet", func(c *Config) { *c = sampleStatic(); c.Network.Address = netip.MustParsePrefix("192.0.2.10/0") }, "one bit"},
		{"mapped nameserver", func(c *Config) {
			*c = sampleStatic()
			c.Network.Nameservers[0] = netip.MustParseAddr("::ffff:192.0.2.1")
		}, "nameserver 0"},
		{"zone", func(c *Config) {
			*c = sampleStatic()
			c.Network.Nameservers[0] = netip.MustParseAddr("fe80::1%eth0\noptions")
		}, "nameserver 0"},
		{"four nameservers", func(c *Config) {
			*c = sampleStatic()
			ns := c.Network.Nameservers[0]
			c.Network.Nameservers = []netip.Addr{ns, ns, ns, ns}
		}, "at most 3"},
		{"name without nameserver", func(c *Config) {
			*c = sampleStatic()
			c.Network.Nameservers = nil
			c.SPIRE.Addresses = append(c.SPIRE.Addresses, "spire.example.org:8081")
		}, "no nameservers"},
		{"no command line", func(c *Config) { c.CommandLine = "" }, "command_line"},
		{"long command line", func(c *Config) { c.CommandLine += strings.Repeat(" x", 1000) }, "at most 2033"},
		{"weak command line", func(c *Config) { c.CommandLine = "console=ttyS0" }, `no word "init_on_free=1"`},
		{"no devices", func(c *Config) { c.Devices = "" }, "devices"},
		{"other devices", func(c *Config) { c.Devices = "none" }, "devices"},
		{"report device", func(c *Config) { c.ReportDevice = "tpm" }, "report_device"},
		{"no gate", func(c *Config) { c.Gate = "" }, "gate"},
		{"any gate", func(c *Config) { c.Gate = "any" }, "gate"},
		{"short gate", func(c *Config) { c.Gate = "9a9a" }, "gate"},
		{"no verification", func(c *Config) { c.Verification = "" }, "verification"},
		{"no verification by name", func(c *Config) { c.Verification = "none" }, "verification"},
		{"no clock floor", func(c *Config) { c.ClockFloor = time.Time{} }, "clock_floor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := sample()
			c.change(&config)
			if _, err := config.Encode(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("encoding: got error %v, want one with %q", err, c.want)
			}
			text, err := json.Marshal(config)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Decode(text); err == nil {
				t.Errorf("decoding: got %+v, want an error", got)
			}
		})
	}
}

// TestCheckCollects shows that the maker of a configuration sees all faults at once.
func TestCheckCollects(t *testing.T) {
	err := Config{}.Check()
	for _, name := range []string{"version", "trust_domain", "spire.addresses", "spire.trust_root", "kms.addresses",
		"kms.spiffe_id", "disk", "network", "command_line", "devices", "report_device", "gate", "verification", "clock_floor"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got error %v, want one with %q", err, name)
		}
	}
}

func TestSplitAddress(t *testing.T) {
	for _, c := range []struct {
		address, host string
		port          uint16
	}{
		{"10.0.2.2:8081", "10.0.2.2", 8081},
		{"a:1", "a", 1},
		{"Spire-1.Example.org:65535", "Spire-1.Example.org", 65535},
		{"1.example:80", "1.example", 80},
		{"[::1]:80", "::1", 80},
		{"[2001:db8::2]:80", "2001:db8::2", 80},
	} {
		host, port, err := SplitAddress(c.address)
		if err != nil || host != c.host || port != c.port {
			t.Errorf("%q: got %q, %d, %v, want %q, %d", c.address, host, port, err, c.host, c.port)
		}
	}
	for _, address := range []string{
		"", ":", ":80", "a", "a:", "a:0", "a:080", "a:+80", "a:65536", "a:http", "a:80 ", " a:80",
		"a..b:80", ".a:80", "a.:80", "-a:80", "a-:80", "a_b:80", "a/b:80", "a@b:80", `a"b:80`, "a\nb:80", "a${b}:80", "ä:80",
		"10.0.0:80", "010.0.0.1:80", "10.0.0.256:80", "0x7f.1:80", "127.1:80", "2130706433:80", "a.0x1:80",
		"::1:80", "[::1:80", "::1]:80", "[::1%lo]:80", "[::ffff:1.2.3.4]:80", "[0:0::1]:80", "[::A]:80", "[10.0.0.1]:80", "[]:80",
		strings.Repeat("a", 64) + ":80", strings.Repeat("a.", 127) + "a:80",
	} {
		if host, port, err := SplitAddress(address); err == nil {
			t.Errorf("%q: got %q and %d, want an error", address, host, port)
		}
	}
}

// FuzzDecode checks that a decoded configuration encodes, decodes to the same
// value, and has no character that is syntax in HCL, resolv.conf or a shell.
func FuzzDecode(f *testing.F) {
	f.Add(mustEncode(f, sample()))
	f.Add(mustEncode(f, sampleStatic()))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Decode(data)
		if err != nil {
			return
		}
		canonical, err := c.Encode()
		if err != nil {
			t.Fatalf("decoded, but does not encode: %v", err)
		}
		again, err := Decode(canonical)
		if err != nil {
			t.Fatalf("encoded, but does not decode: %v", err)
		}
		if second := mustEncode(t, again); string(second) != string(canonical) {
			t.Fatalf("got %s, want %s", second, canonical)
		}
		for _, s := range slices.Concat(c.SPIRE.Addresses, c.KMS.Addresses, []string{c.TrustDomain, c.KMS.SPIFFEID}) {
			if strings.ContainsAny(s, "\"'\\`$ \t\r\n{}#;<>") {
				t.Fatalf("got %q, want no syntax in it", s)
			}
		}
	})
}
