package initramfs

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/test/initramfstest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

// runCommand runs `rootvouch initramfs` with these arguments.
func runCommand(args ...string) (stdout string, err error) {
	var out bytes.Buffer
	cmd := New()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err = cmd.Execute()
	return out.String(), err
}

// initramfsInputs makes everything that the commands read, in one directory.
func initramfsInputs(t *testing.T) (dir, kernel, guestBin string) {
	t.Helper()
	var names []string
	for _, p := range initramfs.GuestBinaries() {
		names = append(names, path.Base(p))
	}
	dir = t.TempDir()
	initramfstest.Files{
		"root.pem":  []byte("subject=test\n" + spiffetest.New(t, spiffetest.Until(time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC))).PEM()),
		"pins.json": initramfstest.Pins().Encode(),
	}.WriteTo(t, dir)
	return dir, initramfstest.Kernel(t), initramfstest.GuestBin(t, names...)
}

func configArgs(dir string, more ...string) []string {
	return append([]string{"config", "--trust-domain", "example.org", "--spire-address", "10.0.2.2:8081",
		"--trust-root", filepath.Join(dir, "root.pem"), "--kms-address", "10.0.2.2:8443",
		"--pins", filepath.Join(dir, "pins.json"), "--report-device", "virtio-port", "--out", filepath.Join(dir, "boot.json")}, more...)
}

// TestKernelOut: the image that belongs to the modules is written, and drivers of a
// target are asked for by its name.
func TestKernelOut(t *testing.T) {
	dir, kernel, guestBin := initramfsInputs(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	build := func(more ...string) error {
		_, err := runCommand(append([]string{"build", "--kernel-tree", kernel, "--guest-bin", guestBin, "--out", in("base")}, more...)...)
		return err
	}
	if err := build("--kernel-out", in("vmlinuz")); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(in("vmlinuz")); err != nil || string(data) != "kernel" {
		t.Errorf("got kernel %q, error %v", data, err)
	}
	if err := build("--force", "--kernel-out", in("base")); err == nil || !strings.Contains(err.Error(), "two outputs have the name") {
		t.Errorf("kernel in the place of the initramfs: got error %v", err)
	}
	if err := build("--force", "--drivers", "aws,gcp"); err == nil || !strings.Contains(err.Error(), "lacks modules, as files and built in: nvme, ena, nvme, gve") {
		t.Errorf("drivers that the kernel lacks: got error %v", err)
	}
	if err := build("--force", "--drivers", "moon"); err == nil || !strings.Contains(err.Error(), `drivers for "moon" are not known`) {
		t.Errorf("no such target: got error %v", err)
	}
	if err := os.Remove(filepath.Join(kernel, "boot/vmlinuz-"+initramfstest.Version)); err != nil {
		t.Fatal(err)
	}
	if err := build("--force", "--kernel-out", in("other")); err == nil || !strings.Contains(err.Error(), "found no image of kernel") {
		t.Errorf("no image: got error %v", err)
	}
}

// TestConfigDrivers: the default line bars what no driver target needs.
func TestConfigDrivers(t *testing.T) {
	dir, _, _ := initramfsInputs(t)
	line := func(more ...string) string {
		t.Helper()
		if _, err := runCommand(configArgs(dir, append(more, "--force")...)...); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "boot.json"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := bootconfig.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		return c.CommandLine
	}
	if got := line(); got != cmdline.Default() || !strings.Contains(got, "nvme_init") {
		t.Errorf("the default line is %q", got)
	}
	if got := line("--drivers", "virtio-scsi,gcp"); strings.Contains(got, "nvme_init") || len(cmdline.Barred(got)) == 0 {
		t.Errorf("with --drivers virtio-scsi,gcp the line is %q", got)
	}
	for want, more := range map[string][]string{
		`drivers for "moon" are not known`: {"--drivers", "moon"},
		"[append drivers]":                 {"--drivers", "nvme", "--append", cmdline.Default()},
	} {
		if _, err := runCommand(configArgs(dir, append(more, "--force")...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want one with %q", more, err, want)
		}
	}
}

// TestCommands walks from nothing to a configured initramfs.
func TestCommands(t *testing.T) {
	dir, kernel, guestBin := initramfsInputs(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	steps := []struct {
		args []string
		want []string
	}{
		{configArgs(dir, "--clock-floor", "2026-11-23T13:00:00+01:00", "--no-header-pin"), []string{"trust root: valid until "}},
		{[]string{"build", "--kernel-tree", kernel, "--guest-bin", guestBin, "--module", "extra", "--out", in("base"), "--manifest-out", in("manifest")},
			[]string{initramfstest.Version, "boot/vmlinuz-" + initramfstest.Version, "a base"}},
		{[]string{"configure", "--base", in("base"), "--boot-config", in("boot.json"), "--out", in("one")}, []string{"SHA-256"}},
		{[]string{"build", "--kernel-tree", kernel, "--guest-bin", guestBin, "--module", "extra", "--boot-config", in("boot.json"), "--out", in("two")}, nil},
		{[]string{"list", in("one")}, []string{"/lib/modules/extra.ko", "/etc/rootvouch/boot.json", "100755", "programs:"}},
		{[]string{"list", "--by-size", in("base")}, []string{"boot.json:  0 bytes"}},
	}
	for _, s := range steps {
		out, err := runCommand(s.args...)
		if err != nil {
			t.Fatalf("%q: %v", s.args, err)
		}
		for _, want := range s.want {
			if !strings.Contains(out, want) {
				t.Errorf("%q: got %q, want %q in it", s.args, out, want)
			}
		}
	}
	if !bytes.Equal(mustReadFile(t, in("one")), mustReadFile(t, in("two"))) {
		t.Error("configure and build --boot-config differ")
	}
	c, err := bootconfig.Decode(mustReadFile(t, in("boot.json")))
	if err != nil {
		t.Fatal(err)
	}
	if c.KMS.SPIFFEID != "spiffe://example.org/kms" || c.Disk.Header != nil || c.ClockFloor.Hour() != 12 || !c.Console ||
		c.CommandLine != cmdline.Default() || c.Devices != bootconfig.DevicesOwn || c.ConsoleLogin {
		t.Errorf("got configuration %+v", c)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	dir, kernel, guestBin := initramfsInputs(t)
	out := filepath.Join(dir, "base")
	initramfstest.Files{"base": []byte("precious")}.WriteTo(t, dir)
	manifest := filepath.Join(dir, "manifest")
	args := []string{"build", "--kernel-tree", kernel, "--guest-bin", guestBin, "--out", out, "--manifest-out", manifest}
	if _, err := runCommand(args...); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("got error %v, want one that says exists", err)
	}
	if got := mustReadFile(t, out); string(got) != "precious" {
		t.Errorf("got %q, want the file as it was", got)
	}
	if _, err := os.Stat(manifest); !os.IsNotExist(err) {
		t.Errorf("manifest: got error %v, want no file", err)
	}
	if _, err := runCommand(append(args, "--force")...); err != nil {
		t.Error(err)
	}
}

func TestRefuses(t *testing.T) {
	dir, kernel, guestBin := initramfsInputs(t)
	initramfstest.Files{"odd.json": []byte("{}"), "key.pem": []byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n")}.WriteTo(t, dir)
	build := []string{"build", "--kernel-tree", kernel, "--guest-bin", guestBin, "--out", filepath.Join(dir, "out")}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no flags", []string{"build"}, "required"},
		{"module", append(build, "--module", "none"), "none"},
		{"kernel version", append(build, "--kernel-version", "1.2"), `want "1.2"`},
		{"no kernel", append(build, "--kernel-tree", dir), "found no kernel"},
		{"no programs", append(build, "--guest-bin", dir), "guest binary"},
		{"configuration", append(build, "--boot-config", filepath.Join(dir, "odd.json")), "odd.json"},
		{"address", configArgs(dir, "--spire-address", "spire"), "spire.address"},
		{"loopback", configArgs(dir, "--spire-address", "127.0.0.1:8081"), "--spire-address is \"127.0.0.1:8081\", which is the guest itself"},
		{"loopback of IPv6", configArgs(dir, "--kms-address", "[::1]:8443"), "which is the guest itself"},
		{"mapped loopback", configArgs(dir, "--kms-address", "[::ffff:127.0.0.2]:8443"), "which is the guest itself"},
		{"unspecified", configArgs(dir, "--kms-address", "0.0.0.0:8443"), "which is the guest itself"},
		{"localhost", configArgs(dir, "--kms-address", "LocalHost:8443"), "which is the guest itself"},
		{"long command line", configArgs(dir, "--append", cmdline.Default()+strings.Repeat(" x", 1000)), "at most 2033"},
		{"weak command line", configArgs(dir, "--append", "console=ttyS0"), "efi=noruntime"},
		{"report device", configArgs(dir, "--report-device", "tpm"), "report_device"},
		{"gateway", configArgs(dir, "--network", "static", "--guest-address", "192.0.2.1/24", "--gateway", "x"), "x"},
		{"clock floor", configArgs(dir, "--clock-floor", "yesterday"), "clock-floor"},
		{"clock floor to come", configArgs(dir, "--clock-floor", "2030-01-01T00:00:00Z"), "want now or earlier"},
		{"address without a prefix", configArgs(dir, "--network", "static", "--guest-address", "10.0.0.1"), "--guest-address is \"10.0.0.1\", want an address with its prefix"},
		{"gateway", configArgs(dir, "--gateway", "router"), "--gateway is \"router\""},
		{"name server", configArgs(dir, "--nameserver", "dns"), "--nameserver is \"dns\""},
		{"late clock floor", configArgs(dir, "--clock-floor", "2099-01-01T00:00:00Z"), "notAfter"},
		{"private key", configArgs(dir, "--trust-root", filepath.Join(dir, "key.pem")), "PRIVATE KEY"},
		{"no PEM", configArgs(dir, "--trust-root", filepath.Join(dir, "odd.json")), "no certificate"},
		{"pins", configArgs(dir, "--pins", filepath.Join(dir, "odd.json")), "odd.json"},
		{"list", []string{"list", filepath.Join(dir, "odd.json")}, "zstd frame"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := runCommand(c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
			for _, name := range []string{"out", "boot.json"} {
				if _, err := os.Stat(filepath.Join(dir, name)); !os.IsNotExist(err) {
					t.Errorf("%s: got error %v, want no file", name, err)
				}
			}
		})
	}
}

func mustReadFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
