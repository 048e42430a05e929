package initramfs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/elf"
	"encoding/pem"
	"errors"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/initramfs/cpio"
	"github.com/rootvouch/rootvouch/initramfs/kmod"
	"github.com/rootvouch/rootvouch/test/initramfstest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

func guestNames() []string {
	var names []string
	for _, p := range GuestBinaries() {
		names = append(names, path.Base(p))
	}
	return names
}

func mustOpen(t testing.TB, dir string) *kmod.Tree {
	t.Helper()
	tree, err := kmod.Open([]string{dir}, "")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func fakeOptions(t testing.TB) Options {
	t.Helper()
	return Options{
		Kernel:   mustOpen(t, initramfstest.Kernel(t)),
		Modules:  append(DefaultModules(), kmod.Want{Names: []string{"extra"}}),
		GuestBin: initramfstest.GuestBin(t, guestNames()...),
	}
}

func mustBuild(t testing.TB, o Options) ([]byte, Manifest) {
	t.Helper()
	base, m, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	return base, m
}

func mustConfigure(t testing.TB, base []byte, c bootconfig.Config) []byte {
	t.Helper()
	out, err := Configure(base, c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func mustRead(t testing.TB, data []byte) Contents {
	t.Helper()
	c, err := Read(data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestBuild(t *testing.T) {
	base, m := mustBuild(t, fakeOptions(t))
	c := mustRead(t, base)
	if c.BootConfig != nil || c.ConfigSize != 0 {
		t.Errorf("boot.json is %q, want none in a base", c.BootConfig)
	}
	var got []string
	content := map[string][]byte{} // :: name -> data
	for _, e := range c.Base {
		got = append(got, e.Name)
		content[e.Name] = e.Data
	}
	want := strings.Fields(`
		bin bin/attestd bin/fetchkey bin/snp-agent-plugin bin/spire-agent dev dev/console dev/null
		etc etc/group etc/hosts etc/passwd etc/rootvouch etc/rootvouch/modules init lib lib/modules
		lib/modules/aesni_intel.ko lib/modules/configfs.ko lib/modules/dm_bufio.ko lib/modules/dm_crypt.ko lib/modules/dm_mod.ko lib/modules/dm_verity.ko
		lib/modules/erofs.ko lib/modules/extra.ko lib/modules/overlay.ko lib/modules/sev_guest.ko lib/modules/tsm.ko
		lib/modules/virtio_blk.ko lib/modules/virtio_net.ko lib/modules/xts.ko newroot proc run sys tmp`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	order := strings.Fields(string(content["etc/rootvouch/modules"]))
	wantOrder := []string{"aesni_intel", "xts", "dm_mod", "dm_crypt", "dm_bufio", "dm_verity", "virtio_blk", "virtio_net", "erofs", "overlay",
		"configfs", "tsm", "sev_guest", "extra"}
	if !slices.Equal(m.Modules, wantOrder) {
		t.Errorf("modules are %q, want %q", m.Modules, wantOrder)
	}
	for i, name := range wantOrder {
		if i >= len(order) || order[i] != "/lib/modules/"+name+".ko" {
			t.Errorf("list of modules is %q, want %s as entry %d", order, name, i)
		}
	}
	if m.KernelVersion != initramfstest.Version || m.Size != len(base) || m.UncompressedSize != c.BaseArchive {
		t.Errorf("manifest is %s", m.Encode())
	}
	if want := []string{"virtio_pci", "virtio_console", "af_packet", "ext4"}; !slices.Equal(m.BuiltIn, want) {
		t.Errorf("built in are %q, want %q", m.BuiltIn, want)
	}
	if !slices.Contains(m.Missing, "squashfs") {
		t.Errorf("missing are %q, want squashfs among them", m.Missing)
	}
}

// TestReproducible builds the same from other directories, with other times and modes.
func TestReproducible(t *testing.T) {
	first, m1 := mustBuild(t, fakeOptions(t))
	o := fakeOptions(t)
	err := filepath.WalkDir(o.GuestBin, func(name string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Chtimes(name, time.Unix(1, 0), time.Unix(2, 0))
		}
		if err == nil {
			err = os.Chmod(name, 0o700)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	second, m2 := mustBuild(t, o)
	if !bytes.Equal(first, second) {
		t.Error("two builds differ")
	}
	if !bytes.Equal(m1.Encode(), m2.Encode()) {
		t.Errorf("manifests differ: %s and %s", m1.Encode(), m2.Encode())
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*testing.T, *Options)
		want   string
	}{
		{"no such module", func(_ *testing.T, o *Options) {
			o.Modules = append(o.Modules, kmod.Want{Names: []string{"zfs"}}, kmod.Want{Names: []string{"btrfs"}})
		}, "zfs, btrfs"},
		{"program missing", func(t *testing.T, o *Options) { remove(t, o, "fetchkey") }, "fetchkey"},
		{"dynamic", func(t *testing.T, o *Options) {
			replace(t, o, "attestd", initramfstest.Program(elf.ET_DYN, elf.PT_INTERP, elf.PT_LOAD))
		}, "attestd: program is dynamically linked"},
		{"library", func(t *testing.T, o *Options) {
			replace(t, o, "attestd", initramfstest.Program(elf.ET_DYN))
		}, "no PT_LOAD"},
		{"object", func(t *testing.T, o *Options) {
			replace(t, o, "init", initramfstest.Program(elf.ET_REL, elf.PT_LOAD))
		}, "want a program"},
		{"script", func(t *testing.T, o *Options) { replace(t, o, "init", bytes.Repeat([]byte("#!/bin/sh\n"), 20)) }, "init: bad magic"},
		{"other machine", func(t *testing.T, o *Options) {
			program := initramfstest.Program(elf.ET_EXEC, elf.PT_LOAD)
			program[18] = byte(elf.EM_AARCH64)
			replace(t, o, "init", program)
		}, "EM_AARCH64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := fakeOptions(t)
			c.change(t, &o)
			if _, _, err := Build(o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func remove(t *testing.T, o *Options, name string) {
	if err := os.Remove(filepath.Join(o.GuestBin, name)); err != nil {
		t.Fatal(err)
	}
}

func replace(t *testing.T, o *Options, name string, data []byte) {
	initramfstest.Files{name: data}.WriteTo(t, o.GuestBin)
}

// TestStaticCheck checks programs of Go's tool chain and of the machine.
func TestStaticCheck(t *testing.T) {
	sh, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	if err := checkStatic(sh); err == nil || !strings.Contains(err.Error(), "dynamically linked") {
		t.Errorf("/bin/sh: got error %v, want one that says dynamically linked", err)
	}
	program := filepath.Join(t.TempDir(), "guest")
	build := exec.Command("go", "build", "-o", program, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkStatic(data); err != nil {
		t.Error(err)
	}
}

func TestConfigure(t *testing.T) {
	base, _ := mustBuild(t, fakeOptions(t))
	before := bytes.Clone(base)
	config := initramfstest.BootConfig(spiffetest.New(t).PEM())
	first := mustConfigure(t, base, config)
	if !bytes.Equal(base, before) {
		t.Error("Configure changed its argument")
	}
	if !bytes.HasPrefix(first, base) {
		t.Error("configured initramfs does not begin with its base")
	}
	text, err := config.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got := mustRead(t, first); !bytes.Equal(got.BootConfig, text) || got.BaseSize != len(base) {
		t.Errorf("boot.json is %s, want %s", got.BootConfig, text)
	}
	// The kernel looks for an archive at multiples of 4 bytes only.
	r := cpio.NewReader(bytes.NewReader(first[len(base):]))
	if e, err := r.Next(); err != nil || len(base)%4 != 0 || "/"+e.Name != bootconfig.Path {
		t.Errorf("got entry %q, error %v at offset %d", e.Name, err, len(base))
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("got error %v, want %v", err, io.EOF)
	}
	other := config
	other.Console = false
	second := mustConfigure(t, first, other)
	if want := mustConfigure(t, base, other); !bytes.Equal(second, want) {
		t.Error("configuring again differs from configuring the base")
	}
}

// TestConfigureRefusesBarredModule: the command line must not bar a module that the
// base loads.
func TestConfigureRefusesBarredModule(t *testing.T) {
	o := fakeOptions(t)
	dir := initramfstest.Kernel(t)
	initramfstest.Files{"kernel/nvme.ko": initramfstest.Module("nvme")}.Under("usr/lib/modules/"+initramfstest.Version).WriteTo(t, dir)
	wants, err := Drivers("nvme")
	if err != nil {
		t.Fatal(err)
	}
	o.Kernel, o.Modules = mustOpen(t, dir), append(o.Modules, wants...)
	base, _ := mustBuild(t, o)
	config := initramfstest.BootConfig(spiffetest.New(t).PEM())
	if _, err := Configure(base, config); err == nil || !strings.Contains(err.Error(), "base has the module nvme, and the command line") {
		t.Errorf("got error %v, want a refusal", err)
	}
	config.CommandLine = cmdline.Default(DriverNames([]string{"nvme"})...)
	mustConfigure(t, base, config)
}

func TestConfigureRefusesTrustRoot(t *testing.T) {
	base, _ := mustBuild(t, fakeOptions(t))
	for _, c := range []struct {
		name string
		root string
		want string
	}{
		{"no certificate", strings.Replace(spiffetest.New(t).PEM(), "MII", "MIA", 1), "certificate 0"},
		{"leaf", spiffetest.New(t, func(c *x509.Certificate) { c.IsCA = false }).PEM(), "no CA"},
		{"no signing", spiffetest.New(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }).PEM(), "no CA"},
		{"expired", spiffetest.New(t, func(c *x509.Certificate) {
			c.NotAfter = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
		}).PEM(), "after the clock floor"},
		{"a stock SPIRE server's CA", spiffetest.New(t, func(c *x509.Certificate) {
			c.NotAfter = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		}).PEM(), "want at least 30 days after the clock floor"},
		{"intermediate", signedByAnother(t, "another root"), `issuer "CN=another root" signed it`},
		{"root of the same name", signedByAnother(t, "test root"), "want one that signed itself"},
		{"other trust domain", spiffetest.New(t, func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.com"}}
		}).PEM(), `want "spiffe://example.org"`},
		{"second of two", spiffetest.New(t).PEM() +
			spiffetest.New(t, func(c *x509.Certificate) { c.IsCA = false }).PEM(), "certificate 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Configure(base, initramfstest.BootConfig(c.root)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := Configure(base, bootconfig.Config{}); err == nil {
		t.Error("got no error for an empty configuration")
	}
}

// signedByAnother makes a CA of the name "test root" that an issuer signed.
func signedByAnother(t *testing.T, issuer string) string {
	t.Helper()
	subject := spiffetest.New(t).Certificate
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: issuer}}
	der, err := x509.CreateCertificate(rand.Reader, subject, parent, subject.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestReadRefuses(t *testing.T) {
	base, _ := mustBuild(t, fakeOptions(t))
	good := mustConfigure(t, base, initramfstest.BootConfig(spiffetest.New(t).PEM()))
	archive := func(entries ...cpio.Entry) []byte {
		out, err := encode(entries)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	packed := func(data []byte) []byte {
		out, err := compress(data)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	config := file(bootconfig.Path, 0o644, []byte("{}"))
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "zstd frame"},
		{"cpio alone", archive(config), "zstd frame"},
		{"no archive", packed(bytes.Repeat([]byte("text"), 100)), "magic"},
		{"no programs", packed(archive(config)), "no file /init"},
		{"data after the archive", append(slices.Clone(good), 0, 0, 0, 0), "after the archive"},
		{"two configurations", append(slices.Clone(good), archive(config)...), "after the archive"},
		{"another file", slices.Concat(base, archive(file("/init", 0o755, nil))), "alone"},
		{"configuration and another file", slices.Concat(base, archive(config, file("/init", 0o755, nil))), "alone"},
		{"other mode", slices.Concat(base, archive(file(bootconfig.Path, 0o600, nil))), "alone"},
		{"second base", slices.Concat(base, base), "magic"},
		{"more padding", slices.Concat(base, make([]byte, 4), archive(config)), "magic"},
		{"truncated configuration", good[:len(good)-4], "unexpected EOF"},
		{"truncated base", base[:len(base)/2], "unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Read(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
			config := initramfstest.BootConfig(spiffetest.New(t).PEM())
			if _, err := Configure(c.data, config); err == nil {
				t.Error("Configure: got no error")
			}
		})
	}
}

// TestReadDamaged flips bits all over a base. The checksum of the frame detects
// every change of the contents.
func TestReadDamaged(t *testing.T) {
	base, _ := mustBuild(t, fakeOptions(t))
	want := mustRead(t, base)
	refused := 0
	for i := range base {
		bad := bytes.Clone(base)
		bad[i] ^= 1
		got, err := Read(bad)
		if err != nil {
			refused++
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("bit flipped at offset %d of %d: %s", i, len(bad), diff)
		}
	}
	if refused < len(base)*9/10 {
		t.Errorf("refused are %d of %d, want nearly all", refused, len(base))
	}
}

// FuzzSplit checks that the parts cover the whole input.
func FuzzSplit(f *testing.F) {
	for _, size := range []int{0, 1, 1000, 300 << 10} {
		data, err := compress(bytes.Repeat([]byte("rootvouch"), size))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(data, "070701"...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := split(data)
		if err != nil {
			return
		}
		if !bytes.Equal(slices.Concat(p.base, p.config), data) || !bytes.HasPrefix(p.base, p.frame) || len(p.base)%alignment != 0 {
			t.Fatalf("split %d bytes into %d, %d and %d", len(data), len(p.frame), len(p.base), len(p.config))
		}
	})
}
